/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's routes, asked with what it would ask them with itself: operators have rules for
 * where packets come from, by which interface, and for their ports. What the node sends comes by
 * the loopback interface to such rules. Marks are none: what would set one isn't passed.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "address.h"

#define AF_INET	 2
#define AF_INET6 10

/*
 * Packets that are run through a program for its verdict (BPF_PROG_TEST_RUN) seem to come by the
 * loopback interface, which has no hook: nothing is sent then.
 */
#define LOOPBACK_IFINDEX 1

/* With this length the kernel asks for no MTU. */
#define ANY_LENGTH 1

/* Fills in the ends of a packet that the way is for; from may be all zeros. */
static __always_inline void set_ends(struct bpf_fib_lookup *way, const struct address *from,
				     const struct address *to)
{
	if (address_is_v4(to)) {
		way->family = AF_INET;
		way->ipv4_src = from->words[3];
		way->ipv4_dst = to->words[3];
	} else {
		way->family = AF_INET6;
		__builtin_memcpy(way->ipv6_src, from, sizeof(way->ipv6_src));
		__builtin_memcpy(way->ipv6_dst, to, sizeof(way->ipv6_dst));
	}
}

/* A packet is no longer than this to the routes. */
static __always_inline __u16 routed_length(__u32 length)
{
	return length > 0xffff ? 0xffff : length;
}

/* Says if the kernel found a way. A neighbour that isn't known is no obstacle. */
static __always_inline bool leads_somewhere(long found)
{
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/*
 * Says if packets to an address leave by the interface that one from there came by: what strict
 * reverse-path filtering asks of IPv4 (RFC 3704 2.2, __fib_validate_source). Of several ways of
 * equal cost it sees one. Where the node forwards nothing, nothing is asked. __noinline: asked of
 * new flows alone, and to be verified once.
 */
static __noinline bool is_way_back(void *ctx, const struct address *from, const struct address *to,
				   __u32 ifindex)
{
	struct bpf_fib_lookup way = { .tot_len = ANY_LENGTH, .ifindex = LOOPBACK_IFINDEX };
	long found;

	set_ends(&way, to, from);
	found = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	return found == BPF_FIB_LKUP_RET_FWD_DISABLED ||
	       (leads_somewhere(found) && way.ifindex == ifindex);
}
