/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients outside whose backend is on another node. The first node, which the fabric brought the
 * packet to, keeps one entry: whom the client's packets go to. All else the backend's node knows.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "begin.h"
#include "clock.h"
#include "flow.h"
#include "frontend.h"
#include "node.h"
#include "packet.h"
#include "reasons.h"
#include "route.h"
#include "service.h"
#include "track.h"

/* Says if clients outside keep their address on the way to another node. */
static __always_inline bool keeps_clients(__u16 flags, __u8 kind)
{
	return own_node && tunnel.ifindex && kind != FRONTEND_CLUSTER_IP &&
	       !(flags & FRONTEND_EXTERNAL_LOCAL) &&
	       flags & (FRONTEND_FORWARD_TUNNEL | FRONTEND_FORWARD_DSR);
}

/*
 * The node that a new flow's packets are wrapped for; 0 for none. To itself a node sends nothing
 * through another. Up to 4 lookups.
 */
static __always_inline __u32 wraps_to(const struct decision *d, const struct dialler *who)
{
	__u32 node = d->pick.node;

	if (who->inside || !node || node == own_node || !keeps_clients(d->flags, d->kind))
		return 0;
	return may_send_to_node(node) && !is_of_node(node, &who->addr) ? node : 0;
}

/*
 * Says if a packet that came by an interface may go on past the kernel's stack, which would look at
 * its source first. Else the stack gets it, masqueraded, and does with it what its settings say.
 */
static __always_inline bool may_pass_stack(void *ctx, const struct packet *p, __u32 ifindex)
{
	return p->v6 || !(tunnel.strict >> (ifindex & 63) & 1) ||
	       is_way_back(ctx, &p->tuple.source, &p->tuple.destination, ifindex);
}

/*
 * Begins a flow to a backend on another node; *flow has backend, address, port, set and node. Its
 * first packet need not be a connection's: another node may have been the first one until now. One
 * alone says nothing about a connection yet, so what it acknowledges is not noted. As of flow_begin
 * the first processor's backend counts. Returns a reason.
 */
static __always_inline int steer_begin(const struct packet *p, struct flow *flow)
{
	struct flow *first;
	int error;

	flow->way = WAY_WRAP;
	flow->sequence = p->sequence;
	flow->seen = now_seconds();
	flow->state = FLOW_FORWARD | (p->fin ? FLOW_FIN : 0) | (p->rst ? FLOW_RESET : 0);
	flow->other_port = p->tuple.source_port;
	error = write_flow(&p->tuple, flow, BPF_NOEXIST);
	first = find_flow(&p->tuple); /* unread it would be the first to be evicted */
	if (error == -EEXIST && first) {
		*flow = *first;
		return REASON_NONE;
	}
	return error ? REASON_FLOWS_FULL : REASON_NONE;
}

/*
 * Notes by which node a flow's packets come, and so its answers leave: 0 for none. __noinline: the
 * fabric rarely changes its mind.
 */
static __noinline void flow_change_way(const struct packet *p, struct flow *flow, __u8 way)
{
	struct flow *peer = flow_peer(&p->tuple, flow);

	flow->node = p->node;
	flow->way = way;
	if (!peer)
		return;
	peer->node = p->node;
	peer->way = way == WAY_VIA ? WAY_WRAP : WAY_HERE;
}

/* The way of what a node wraps for a frontend. */
static __always_inline __u8 way_of(const struct frontend *frontend)
{
	return frontend->flags & FRONTEND_FORWARD_DSR ? WAY_DIRECT : WAY_VIA;
}

/*
 * Looks if a client's packet came the way its flow knows. One packet of a node is enough to move a
 * flow's answers: nodes are believed. But none wraps what is from inside, whose flow stays as it
 * is.
 */
static __always_inline void flow_note_way(const struct packet *p, struct flow *flow, enum hook hook)
{
	const struct frontend *frontend;

	if (hook == HOOK_UPLINK && flow->way)
		flow_change_way(p, flow, WAY_HERE);
	if (hook != HOOK_TUNNEL || (flow->way && flow->node == p->node))
		return;
	frontend = dialled(p, hook);
	if (frontend && !comes_from_inside(p))
		flow_change_way(p, flow, way_of(frontend));
}
