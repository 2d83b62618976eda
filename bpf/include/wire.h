/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet's way where there is no socket buffer yet, as path.h has it where there is one. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "begin.h"
#include "drop.h"
#include "flow.h"
#include "frame.h"
#include "frontend.h"
#include "hook.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "service.h"
#include "track.h"

static __always_inline int drop_frame(const struct packet *p, __u32 set, __u8 reason)
{
	drop_report(&p->tuple, set, reason, VIA_PACKET);
	return XDP_DROP;
}

/* Says if a frontend is one that clients outside are given. */
static __always_inline bool serves_outside(const struct frontend *frontend)
{
	return frontend->kind == FRONTEND_NODE_PORT || frontend->kind == FRONTEND_EXTERNAL_IP ||
	       frontend->kind == FRONTEND_LOAD_BALANCER;
}

/*
 * A datagram to a NodePort may be for a socket of the node that dialled from that port, which only
 * the packet programs ask after.
 */
static __always_inline bool may_begin(const struct packet *p, const struct frontend *frontend)
{
	return frontend->kind != FRONTEND_NODE_PORT || p->syn || p->tuple.protocol == IPPROTO_SCTP;
}

/* A packet of no known flow. __noinline: to be verified once. */
static __noinline int begin_by_wire(const struct packet *p)
{
	const struct frontend *frontend;
	struct beginning *b;

	if (p->tuple.protocol == IPPROTO_TCP && !p->syn)
		return XDP_PASS;
	frontend = dialled(p, HOOK_UPLINK);
	if (!frontend || !serves_outside(frontend) || !may_begin(p, frontend) ||
	    comes_from_inside(p))
		return XDP_PASS;
	b = beginning_room();
	if (!b)
		return XDP_PASS;
	b->who = (struct dialler){ .addr = p->tuple.source };
	decide(&b->who, frontend, &p->tuple.destination, &b->decision);
	if (b->decision.reason && !b->decision.reject)
		return drop_frame(p, b->decision.root, b->decision.reason);
	return XDP_PASS;
}

/* A plain frame for this host. */
static __always_inline int comes_by_wire(const struct packet *p)
{
	struct flow *flow = find_flow(&p->tuple);

	return flow ? XDP_PASS : begin_by_wire(p);
}
