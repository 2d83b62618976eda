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
#include "half.h"
#include "hook.h"
#include "maglev.h"
#include "maps.h"
#include "operate.h"
#include "node.h"
#include "outer.h"
#include "packet.h"
#include "route.h"
#include "service.h"
#include "steer.h"
#include "track.h"
#include "wrapping.h"

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

/*
 * Where a frame goes that is wrapped: the way that the kernel's device would find. False where it
 * would not be that easy, which is then the kernel's: no way or neighbour yet, too long, another
 * interface. length is the whole frame's.
 */
static __noinline bool find_way(struct xdp_md *xdp, const struct node_ends *ends, __u32 length,
				struct bpf_fib_lookup *way)
{
	bool v4 = address_is_v4(&ends->to);

	*way = (struct bpf_fib_lookup){
		.l4_protocol = IPPROTO_UDP,
		.dport = bpf_htons(tunnel_port),
		.tot_len = length + (v4 ? WRAPPING_V4 : WRAPPING_V6) - ETH_HLEN,
		.ifindex = LOOPBACK_IFINDEX,
	};
	set_ends(way, &ends->from, &ends->to);
	return bpf_fib_lookup(xdp, way, sizeof(*way), 0) == BPF_FIB_LKUP_RET_SUCCESS &&
	       way->ifindex == xdp->ingress_ifindex;
}

/* What the inner IP header says about the outer one. False if it has no hop left. */
static __always_inline bool read_hops(const struct xdp_md *xdp, const struct packet *p, __u8 *ecn)
{
	void *start = frame_start(xdp) + ETH_HLEN;
	struct ipv6hdr *v6 = start;
	struct iphdr *v4 = start;

	if (p->v6) {
		if ((void *)(v6 + 1) > frame_end(xdp))
			return false;
		*ecn = outer_ecn(v6->flow_lbl[0] >> 4);
		return v6->hop_limit > 1;
	}
	if ((void *)(v4 + 1) > frame_end(xdp))
		return false;
	*ecn = outer_ecn(v4->tos);
	return v4->ttl > 1;
}

/* Writes all around a frame of that length, before which there is room now. */
static __always_inline bool write_around(struct xdp_md *xdp, const struct packet *p,
					 const struct node_ends *ends,
					 const struct bpf_fib_lookup *way, __u8 ecn, __u32 length,
					 __u32 backend)
{
	bool v4 = way->family == AF_INET;
	__u32 around = v4 ? WRAPPING_V4 : WRAPPING_V6;
	void *start = frame_start(xdp), *end = frame_end(xdp), *inner = start + around;
	struct ethhdr *eth = start;
	struct datagram *datagram = inner - sizeof(*datagram);

	if (inner + ETH_HLEN > end)
		return false;
	__builtin_memcpy(eth->h_dest, way->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, way->smac, ETH_ALEN);
	eth->h_proto = bpf_htons(v4 ? ETH_P_IP : ETH_P_IPV6);
	if (v4)
		fill_ipv4((void *)(eth + 1), ends, ecn, length);
	else
		fill_ipv6((void *)(eth + 1), ends, ecn, length);
	fill_datagram(datagram, outer_port(&p->tuple), length);
	number_ethernet(inner, backend);
	return take_hop_at(inner + ETH_HLEN, end, p->v6);
}

/* Sends a frame to another node, or passes it on as it is. */
static __noinline int wrap_frame(struct xdp_md *xdp, const struct packet *p, __u32 node,
				 __u32 backend)
{
	__u32 length = frame_length(xdp);
	struct bpf_fib_lookup way;
	struct node_ends ends;
	__u8 ecn = 0;

	if (!tunnel.ifindex || !read_hops(xdp, p, &ecn) || !find_node_ends(node, &ends) ||
	    !find_way(xdp, &ends, length, &way) ||
	    bpf_xdp_adjust_head(xdp, way.family == AF_INET ? -(int)WRAPPING_V4 : -(int)WRAPPING_V6))
		return XDP_PASS;
	if (!write_around(xdp, p, &ends, &way, ecn, length, backend))
		return drop_frame(p, 0, REASON_REWRITE); /* never: all of it was read before */
	return XDP_TX;
}

/*
 * Begins a flow to a backend on another node. One that is known by now is another
 * processor's: the packet programs know better what is to become of it.
 */
static __noinline int steer_frame(struct xdp_md *xdp, const struct packet *p, struct beginning *b,
				  __u32 node)
{
	const struct decision *d = &b->decision;
	int reason;

	b->flow = (struct flow){
		.addr = d->pick.addr,
		.port = d->pick.port,
		.backend = d->pick.backend,
		.set = d->root,
		.half_open = half_open_begin(),
		.node = node,
	};
	reason = steer_begin(p, &b->flow);
	if (reason)
		return drop_frame(p, d->root, reason);
	if (!flow_is_steered(&b->flow))
		return XDP_PASS;
	count_flow(d, &b->flow);
	return wrap_frame(xdp, p, b->flow.node, b->flow.backend);
}

/* A packet of no known flow. Segments amid a connection are the packet programs'. __noinline: to be
 * verified once. */
static __noinline int begin_by_wire(struct xdp_md *xdp, const struct packet *p)
{
	const struct frontend *frontend;
	struct beginning *b;
	__u32 node;

	if (p->tuple.protocol == IPPROTO_TCP && !p->syn)
		return XDP_PASS;
	frontend = dialled(p, HOOK_UPLINK);
	if (!frontend || !serves_outside(frontend) || !may_begin(p, frontend) ||
	    comes_from_inside(p))
		return XDP_PASS;
	b = beginning_room();
	if (!b)
		return XDP_PASS;
	b->who = (struct dialler){ .addr = p->tuple.source, .hash = maglev_hash(&p->tuple) };
	decide(&b->who, frontend, &p->tuple.destination, &b->decision);
	if (b->decision.reject)
		return XDP_PASS;
	if (b->decision.reason)
		return drop_frame(p, b->decision.root, b->decision.reason);
	node = b->decision.sure ? wraps_to(&b->decision, &b->who) : 0;
	return node && may_pass_stack(xdp, p, xdp->ingress_ifindex) ? steer_frame(xdp, p, b, node)
								    : XDP_PASS;
}

/*
 * A packet of a flow that leads to another node. What doesn't stand any more is the packet
 * programs' to end, as is what can't be wrapped here: they find the flow as if nobody had looked.
 */
static __noinline int goes_on(struct xdp_md *xdp, const struct packet *p, struct flow *flow)
{
	int verdict = XDP_PASS;
	__u32 seen = flow->seen;

	if (!flow_is_steered(flow))
		return XDP_PASS;
	if (flow_standing(p, flow, HOOK_UPLINK) == STANDS)
		verdict = wrap_frame(xdp, p, flow->node, flow->backend);
	if (verdict == XDP_PASS) {
		flow->seen = seen;
		return verdict;
	}
	half_open_note(flow);
	flow_note(p, flow);
	flow_follow(p, flow);
	return verdict;
}

/* A plain frame for this host. */
static __always_inline int comes_by_wire(struct xdp_md *xdp, const struct packet *p)
{
	struct flow *flow = find_flow(&p->tuple);

	return flow ? goes_on(xdp, p, flow) : begin_by_wire(xdp, p);
}
