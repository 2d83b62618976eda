/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way of a packet through the host's side of a pod's interface, step by step. */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "drop.h"
#include "flow.h"
#include "fragment.h"
#include "icmp.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"
#include "service.h"

/* On to the next program, or to the stack: TCX_NEXT is the same number. */
#define PASS TC_ACT_UNSPEC

static __always_inline int drop(const struct packet *p, __u32 set, __u8 reason)
{
	drop_report(&p->tuple, set, reason, VIA_PACKET);
	return TC_ACT_SHOT;
}

static __always_inline int translated(const struct packet *p, int reason)
{
	return reason ? drop(p, 0, reason) : PASS;
}

static __always_inline const struct frontend *dialled(const struct packet *p)
{
	return find_frontend(&p->tuple.destination, p->tuple.destination_port, p->tuple.protocol,
			     false);
}

/*
 * Says if a known flow goes on with its backend. A SYN that differs from the one that began it is a
 * new connection from a port used again; the same SYN once more must reach the same backend.
 * Datagrams leave a backend that is gone, or another Service's by now; a TCP connection to one
 * could only break.
 */
static __noinline bool flow_goes_on(const struct packet *p, const struct flow *flow)
{
	const struct frontend *frontend;

	if (p->tuple.protocol == IPPROTO_TCP && !p->syn)
		return true;
	if (p->syn && p->sequence != flow->sequence)
		return false;
	frontend = dialled(p);
	return backend_serves(flow->backend, &flow->addr, flow->port, frontend ? frontend->set : 0);
}

/*
 * A pod that dials directly from a port that a flow's replies come to: the flow is over. It may be
 * another pod by now, with the same address. For datagrams, of which each may be the first, the one
 * asked last is whom the answers are from.
 */
static __always_inline void end_flow_of_reused_port(const struct packet *p)
{
	struct tuple key = {
		.source = p->tuple.destination,
		.destination = p->tuple.source,
		.source_port = p->tuple.destination_port,
		.destination_port = p->tuple.source_port,
		.protocol = p->tuple.protocol,
		.leaving = 1,
	};

	if (look_up(&flows_v2, &key))
		delete_from(&flows_v2, &key);
}

/* keep says that the flow is begun again with its old backend. */
static __noinline int begin(struct __sk_buff *skb, const struct packet *p, const struct flow *old,
			    const struct frontend *frontend, bool keep)
{
	struct dialler who = { .addr = p->tuple.source, .inside = true };
	__u32 set = frontend->set;
	struct decision d = {};
	struct flow flow;
	int reason;

	if (p->reason)
		return drop(p, set, p->reason);
	if (lengths_contradict(skb, p))
		return drop(p, set, REASON_MALFORMED);
	if (keep && old) {
		d.pick.addr = old->addr;
		d.pick.port = old->port;
		d.pick.backend = old->backend;
	} else {
		decide(&who, frontend, &p->tuple.destination, &d);
	}
	reason = d.reason;
	if (d.reject) {
		drop_report(&p->tuple, set, reason, VIA_PACKET);
		return refuse_packet(skb, p);
	}
	if (!reason && old)
		flow_delete_reverse(&p->tuple, old);
	if (!reason)
		reason = flow_begin(p, &d.pick, old, &flow);
	if (reason)
		return drop(p, set, reason);
	return translated(p, flow_apply_forward(skb, p, &flow));
}

static __always_inline int translate_sent(struct __sk_buff *skb, const struct packet *p)
{
	const struct frontend *frontend;
	struct flow *flow;
	bool goes_on;

	flow = look_up(&flows_v2, &p->tuple);
	goes_on = flow && !p->reason && flow_goes_on(p, flow);
	if (goes_on && flow_is_whole(&p->tuple, flow)) {
		flow_note_end(p, flow);
		return translated(p, flow_apply_forward(skb, p, flow));
	}
	frontend = dialled(p);
	if (!frontend) {
		if (p->syn || (p->tuple.protocol == IPPROTO_UDP && !p->reason))
			end_flow_of_reused_port(p);
		return PASS;
	}
	return begin(skb, p, flow, frontend, goes_on);
}

static __always_inline int translate_got(struct __sk_buff *skb, struct packet *p)
{
	struct flow *flow;

	if (p->reason)
		return PASS;
	p->tuple.leaving = 1;
	flow = look_up(&flows_v2, &p->tuple);
	if (!flow)
		return PASS;
	flow_note_end(p, flow);
	return translated(p, flow_apply_reverse(skb, p, flow));
}

static __always_inline int pod_sends(struct __sk_buff *skb)
{
	struct packet *p = packet_room();
	int verdict = FRAGMENT_UNDECIDED;

	if (!p)
		return PASS;
	if (!read_packet(skb, p))
		return translate_error(skb, p, false);
	if (p->first || p->later)
		verdict = fragment_begin(skb, p, false);
	if (verdict != FRAGMENT_UNDECIDED)
		return verdict;
	verdict = translate_sent(skb, p);
	return p->first ? fragment_end(skb, p, false, verdict) : verdict;
}

static __always_inline int pod_gets(struct __sk_buff *skb)
{
	struct packet *p = packet_room();
	int verdict = FRAGMENT_UNDECIDED;

	if (!p)
		return PASS;
	if (!read_packet(skb, p))
		return translate_error(skb, p, true);
	if (p->first || p->later)
		verdict = fragment_begin(skb, p, true);
	if (verdict != FRAGMENT_UNDECIDED)
		return verdict;
	verdict = translate_got(skb, p);
	return p->first ? fragment_end(skb, p, true, verdict) : verdict;
}
