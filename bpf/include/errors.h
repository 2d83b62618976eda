/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of ICMP errors: that of the flow that they are about, the other way round. icmp.h says
 * how they are translated; here is by which node.
 *
 *   from a client's router, at any first node   wrapped, for the node that has the flow; there
 *                                               translated, and on to the backend
 *   from a backend or its node                  translated, and wrapped as an answer is; from the
 *                                               first node on to the client
 *
 * So a backend's node alone has to know the flow.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "begin.h"
#include "drop.h"
#include "flow.h"
#include "frontend.h"
#include "hook.h"
#include "icmp.h"
#include "maglev.h"
#include "packet.h"
#include "service.h"
#include "steer.h"
#include "track.h"
#include "tunnel.h"

/*
 * An error about an answer to a client whose packets another node has got until now: the backend's
 * node is the one that all nodes pick for the client. Where they pick as they like it may be
 * another, which drops the error.
 */
static __noinline int error_by_table(struct packet *p, const struct quoted *q)
{
	const struct tuple *t = &q->key;
	const struct frontend *frontend =
		find_frontend(&t->destination, t->destination_port, t->protocol, false);
	struct beginning *b = beginning_room();
	__u32 node;

	if (!b || !frontend || !keeps_clients(frontend->flags, frontend->kind))
		return TC_ACT_UNSPEC;
	b->who = (struct dialler){ .addr = t->source, .hash = maglev_hash(t), .amid = true };
	decide(&b->who, frontend, &t->destination, &b->decision);
	if (b->decision.reason)
		return TC_ACT_UNSPEC;
	node = wraps_to(&b->decision, &b->who);
	p->service = b->decision.root;
	return node ? to_be_wrapped(p, node, b->decision.pick.backend) : TC_ACT_UNSPEC;
}

/* An error that comes in by a pod's interface or by an uplink. __noinline: a rare path, whose stack
 * is its own. */
static __noinline int error_comes_in(struct __sk_buff *skb, struct packet *p, enum hook hook)
{
	struct quoted q = {};
	struct flow *flow;

	if (!read_error(skb, p, &q))
		return TC_ACT_UNSPEC;
	flow = flow_of_quoted(p, &q);
	if (!flow)
		return hook == HOOK_UPLINK ? error_by_table(p, &q) : TC_ACT_UNSPEC;
	p->service = flow->set;
	if (hook == HOOK_UPLINK && flow_is_steered(flow))
		return to_be_wrapped(p, flow->node, flow->backend);
	return exchange_quoted(skb, p, &q, flow);
}

/* An error that leaves. */
static __noinline int error_leaves(struct __sk_buff *skb, struct packet *p, enum hook hook)
{
	struct quoted q = { .key.leaving = 1 };
	struct flow *flow;

	if (!read_error(skb, p, &q))
		return TC_ACT_UNSPEC;
	flow = flow_of_quoted(p, &q);
	if (!flow)
		return TC_ACT_UNSPEC;
	p->service = flow->set;
	exchange_quoted(skb, p, &q, flow);
	if (hook == HOOK_UPLINK && flow->way == WAY_WRAP && !(flow->state & FLOW_FORWARD))
		return to_be_wrapped(p, flow->node, 0);
	return TC_ACT_UNSPEC;
}

/* An error that another node has wrapped: for a client, or for a backend that is here. */
static __noinline int error_comes_unwrapped(struct __sk_buff *skb, struct packet *p)
{
	const struct frontend *frontend;
	struct quoted q = {};
	struct flow *flow;
	__u8 reason = REASON_FOREIGN_TUNNEL;

	if (!read_error(skb, p, &q))
		goto drop;
	if (!p->backend) {
		frontend = find_frontend(&q.key.source, q.key.source_port, q.key.protocol, false);
		if (frontend && frontend->set) {
			p->service = frontend->set;
			return send_on(skb, p);
		}
		goto drop;
	}
	flow = flow_of_quoted(p, &q);
	if (flow && !flow_is_steered(flow))
		return exchange_quoted(skb, p, &q, flow);
	reason = REASON_NO_FLOW;
drop:
	drop_report(&p->tuple, 0, reason, VIA_PACKET);
	return TC_ACT_SHOT;
}
