/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether what comes by a pod's interface has a source of this pod: a process that may make its own
 * packets writes what it likes there, and policies judge by it. The node's routes say whose an
 * address is, as for strict reverse-path filtering: the way back must be the way it came, asked
 * either as an answer of that interface or as the node's own (operators have rules for what comes
 * by an interface, and some networks lead to a pod only by such a rule).
 *
 * An address that can't be routed (none yet, or a link's alone) goes no further than the node.
 * Where the node forwards nothing, nothing is asked.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "packet.h"
#include "route.h"

/* Pods send from their own addresses alone. Set at load. */
volatile const bool check_sources;

static __always_inline bool is_unrouted(const struct address *addr)
{
	if (address_is_v4(addr))
		return !addr->words[3];
	return (addr->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	       !(addr->words[0] | addr->words[1] | addr->words[2] | addr->words[3]);
}

/*
 * Asks for the way to an address of what comes by an interface. Returns what the kernel does; way
 * is then the interface that leads there, or 0. __noinline: asked twice.
 */
static __noinline int find_way(struct __sk_buff *skb, const struct address *to, __u32 *way)
{
	struct bpf_fib_lookup route = { .tot_len = ANY_LENGTH, .ifindex = *way };
	struct address any = {};
	int result;

	set_ends(&route, &any, to);
	result = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	*way = leads_somewhere(result) ? route.ifindex : 0;
	return result;
}

/* __noinline: asked of new connections alone, and to be verified once. */
static __noinline bool is_own_source(struct __sk_buff *skb, const struct address *source)
{
	__u32 way = skb->ifindex;
	int answer, own;

	if (is_unrouted(source))
		return true;
	answer = find_way(skb, source, &way);
	if (way == skb->ifindex)
		return true;
	way = LOOPBACK_IFINDEX;
	own = find_way(skb, source, &way);
	return way == skb->ifindex ||
	       (answer == BPF_FIB_LKUP_RET_FWD_DISABLED && own == BPF_FIB_LKUP_RET_FWD_DISABLED);
}
