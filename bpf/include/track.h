/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a flow stands: what its packets say about it, and whether it goes on. How long an idle one is
 * kept is user space's to say, by these notes.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "affinity.h"
#include "clock.h"
#include "flow.h"
#include "frontend.h"
#include "hook.h"
#include "maps.h"
#include "node.h"
#include "operate.h"
#include "packet.h"
#include "service.h"
#include "wrapping.h"

/*
 * How far a FIN or RST may be beyond what the other side has acknowledged, to count; of a steered
 * flow, of which the other side isn't seen, from where its client was. A blind guess hits once in
 * 256, or 128; the connection's ends decide in any case, what is noted is only how soon the flow
 * may be forgotten. More than any window in use: 16 MiB.
 */
#define END_WINDOW (1 << 24)

enum standing {
	STANDS,	 /* go on */
	BEGINS,	 /* this is a new connection, or one that needs another backend */
	IS_GONE, /* its backend is, and the client is to know */
};

/*
 * What the client dialled of a packet that another node has wrapped: a NodePort is dialled at an
 * address of that node. A hostPort's backends are there. Lookups: 1, of a NodePort 2.
 */
static __noinline const struct frontend *find_wrapped_frontend(const struct address *addr,
							       __be16 port, __u8 protocol)
{
	struct frontend_key key = { .addr = *addr, .port = port, .protocol = protocol };
	const struct frontend *frontend = frontend_of(&key);

	if (frontend)
		return frontend->kind == FRONTEND_HOST_PORT ? NULL : frontend;
	any_address(&key.addr);
	key.match = MATCH_NODE_PORT;
	return frontend_of(&key);
}

/* What the client dialled. What other nodes send to this one's device is for no frontend. */
static __always_inline const struct frontend *dialled(const struct packet *p, enum hook hook)
{
	if (hook == HOOK_TUNNEL)
		return find_wrapped_frontend(&p->tuple.destination, p->tuple.destination_port,
					     p->tuple.protocol);
	if (may_be_wrapped(p) && find_local(&p->tuple.destination, false))
		return NULL;
	return find_frontend(&p->tuple.destination, p->tuple.destination_port, p->tuple.protocol,
			     false);
}

/* Says if another node has the backend, and all that is known of the flow but whom it goes to. */
static __always_inline bool flow_is_steered(const struct flow *flow)
{
	return flow->way == WAY_WRAP && flow->state & FLOW_FORWARD;
}

/* Says if a segment is where the client of a steered flow may be. */
static __always_inline bool is_near(const struct packet *p, const struct flow *flow)
{
	return p->sequence - flow->sequence + END_WINDOW < 2 * END_WINDOW;
}

/* Notes where the client of a steered flow is, which begins with its SYN. */
static __always_inline void flow_follow(const struct packet *p, struct flow *flow)
{
	if (p->sequence != flow->sequence && !p->syn && !p->rst && is_near(p, flow))
		flow->sequence = p->sequence;
}

/* Notes a FIN or RST, unless it may be somebody else's. __noinline: rare. */
static __noinline void flow_note_end(const struct packet *p, struct flow *flow)
{
	struct flow *peer;

	if (flow_is_steered(flow)) {
		if (!is_near(p, flow))
			return;
	} else {
		peer = flow_peer(&p->tuple, flow);
		if (!peer || p->sequence - peer->acknowledged >= END_WINDOW)
			return;
	}
	flow->state |= p->rst ? FLOW_RESET : FLOW_FIN;
}

/* Notes what a packet says. Entries are only written to where something is new. */
static __always_inline void flow_note(const struct packet *p, struct flow *flow)
{
	if (p->acknowledged && flow->acknowledged != p->acknowledged)
		flow->acknowledged = p->acknowledged;
	if (p->rst || p->fin)
		flow_note_end(p, flow);
	else if (flow->state & FLOW_RESET)
		flow->state &= ~FLOW_RESET;
}

/* Flows of older layouts do not know their backend by id: 0. */
static __always_inline bool flow_is_served(const struct flow *flow)
{
	return !flow->backend || backend_serves(flow->backend, &flow->addr, flow->port, flow->set);
}

/* Says if a client's address and port still stand for the Service that its flow began with. */
static __always_inline bool flow_is_dialled(const struct packet *p, const struct flow *flow,
					    enum hook hook)
{
	const struct frontend *frontend;

	if (flow->state & FLOW_MOVED || !flow->set)
		return true;
	frontend = dialled(p, hook);
	return frontend && frontend->set == flow->set;
}

/*
 * Says if what is wrapped for a steered flow still gets to its backend, on whichever node that is
 * by now: an address may move, and connections with it. __noinline: rare. Up to 3 lookups.
 */
static __noinline bool flow_is_reached(struct flow *flow)
{
	const struct backend *backend = look_up(&backends_v3, &flow->backend);

	if (backend && backend->node)
		flow->node = backend->node;
	return flow->node != own_node && is_reached_node(flow->node);
}

/*
 * Once a second, of the client's packets. A reverse entry that was evicted, which happens where a
 * client sends much and hears little, is given back; being read here, both also grow old together.
 * __noinline: next to all the other packets it is rare.
 */
static __noinline enum standing flow_refresh_forward(const struct packet *p, struct flow *flow,
						     enum hook hook)
{
	bool udp = p->tuple.protocol == IPPROTO_UDP;

	flow->seen = now_seconds();
	if (!udp && !flow_is_served(flow))
		return IS_GONE;
	if (udp && !flow_is_dialled(p, flow, hook))
		return BEGINS;
	if (flow_is_steered(flow)) {
		if (!flow_is_reached(flow))
			return udp ? BEGINS : IS_GONE;
		/* Whether it was answered is known at the backend's node alone. */
		flow->state |= p->tuple.protocol != IPPROTO_TCP ? FLOW_ANSWERED : 0;
		return STANDS;
	}
	if (!flow_peer(&p->tuple, flow)) {
		flow->half_open = 0; /* whether the client knows the answer's sequence is lost */
		if (flow_claim(&p->tuple, flow) && udp)
			return BEGINS;
	}
	if (flow->state & FLOW_MASQUERADE)
		flow_keep_leaving(&p->tuple, flow);
	return STANDS;
}

/* Once a second, of the client's packets as they leave masqueraded. __noinline: as above. */
static __noinline void flow_refresh_leaving(const struct packet *p, struct flow *flow)
{
	flow->seen = now_seconds();
	if (!flow_peer(&p->tuple, flow))
		flow_claim(&p->tuple, flow);
}

/* Once a second, of the backend's packets. __noinline: as above. */
static __noinline void flow_refresh_reverse(const struct packet *p, struct flow *flow)
{
	struct flow *peer = flow_peer(&p->tuple, flow);

	flow->seen = now_seconds();
	if (peer)
		peer->state |= FLOW_ANSWERED;
}

/*
 * Says if both ends of a connection have heard of each other and neither has ended it. A SYN then
 * is for the backend, which knows (RFC 5961 4.2): a forged one ends nothing, and who has forgotten
 * the connection resets it by the answer and sends its SYN again. __noinline: rare.
 */
static __noinline bool flow_lives(const struct packet *p, const struct flow *flow)
{
	struct flow *peer;

	if (flow_is_steered(flow))
		return flow->acknowledged && !(flow->state & (FLOW_FIN | FLOW_RESET));
	peer = flow_peer(&p->tuple, flow);
	return peer && flow->acknowledged && peer->acknowledged &&
	       !((flow->state | peer->state) & (FLOW_FIN | FLOW_RESET));
}

/*
 * How the flow of a client's packet stands. A SYN that differs from the one that began it is a new
 * connection from a port used again, unless the old one lives; the same SYN once more must reach
 * the same backend. Datagrams leave a backend at once when it is gone; a connection's next packet
 * within a second.
 */
static __always_inline enum standing flow_standing(const struct packet *p, struct flow *flow,
						   enum hook hook)
{
	if (flow->state & FLOW_ENDED)
		return p->syn ? BEGINS : IS_GONE;
	if (p->syn && p->sequence != flow->sequence && !flow_lives(p, flow))
		return BEGINS;
	if ((p->syn || p->tuple.protocol == IPPROTO_UDP) && !flow_is_served(flow))
		return BEGINS;
	if (flow->seen != now_seconds())
		return flow_refresh_forward(p, flow, hook);
	return STANDS;
}
