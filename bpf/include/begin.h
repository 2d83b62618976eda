/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a flow begins with, wherever its first packet is seen. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "count.h"
#include "frontend.h"
#include "maps.h"
#include "node.h"
#include "operate.h"
#include "packet.h"
#include "service.h"

/* Says if a packet from outside the node is one of the cluster's all the same. Up to 2 lookups. */
static __always_inline bool comes_from_inside(const struct packet *p)
{
	return network_kind(&p->tuple.source) == NETWORK_PODS ||
	       look_up(&locals_v1, &p->tuple.source);
}

/* What a flow begins with: one a processor, for the same reason as packet_room. */
struct beginning {
	struct dialler who;
	struct decision decision;
	struct flow flow;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct beginning);
} beginnings SEC(".maps");

static __always_inline struct beginning *beginning_room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&beginnings, &zero);
}

/* Counts a flow that begins by an uplink, by how its packets go on. */
static __always_inline void count_flow(const struct decision *d, const struct flow *flow)
{
	__u8 forwarding = FORWARDED_SNAT;

	if (flow->way == WAY_WRAP)
		forwarding = d->flags & FRONTEND_FORWARD_DSR ? FORWARDED_DSR : FORWARDED_TUNNEL;
	else if (d->local || (own_node && d->pick.node == own_node))
		forwarding = FORWARDED_LOCAL;
	count_of_service(d->root, REASON_NONE, forwarding);
}
