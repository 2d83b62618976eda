/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cluster's nodes, as they reach each other. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "maps.h"
#include "operate.h"

/* This node's number; 0: nothing is wrapped for others. Set at load. */
volatile const __u32 own_node;

/* Written by user space while programs run. */
struct {
	__u32 ifindex; /* of the device that wraps; 0: there is none, and nothing is wrapped */
	__u32 pad;
	__u64 strict; /* uplinks that check sources of IPv4 strictly: bit (index % 64) of each */
} tunnel;

/* The addresses that a wrapped packet goes from and to. */
struct node_ends {
	struct address from;
	struct address to;
};

static __always_inline bool address_is_set(const struct address *a)
{
	return a->words[0] | a->words[1] | a->words[2] | a->words[3];
}

static __always_inline struct node *find_node(__u32 id)
{
	return look_up(&nodes_v1, &id);
}

/* How to reach a node: over IPv4 if both have it. Returns false if there is no way: others
 * don't believe a node without a row. 2 lookups. */
static __noinline bool find_node_ends(__u32 id, struct node_ends *ends)
{
	struct node *node = find_node(id), *own = find_node(own_node);
	bool v4;

	if (!node || !own)
		return false;
	v4 = address_is_set(&node->v4) && address_is_set(&own->v4);
	ends->from = v4 ? own->v4 : own->v6;
	ends->to = v4 ? node->v4 : node->v6;
	return address_is_set(&ends->from) && address_is_set(&ends->to);
}

/* Says if what is wrapped gets to a node. __noinline: the addresses stay off its caller's stack. */
static __noinline bool is_reached_node(__u32 id)
{
	struct node_ends ends;

	return tunnel.ifindex && find_node_ends(id, &ends);
}

/*
 * Says if a new flow's packets may be wrapped for a node: the kernel sends from addresses of this
 * node alone. One that is gone for a moment ends no flow. __noinline: as above. 3 lookups.
 */
static __noinline bool may_send_to_node(__u32 id)
{
	struct node_ends ends;

	return find_node_ends(id, &ends) && look_up(&locals_v1, &ends.from);
}

/* Says if an address is a node's. */
static __noinline bool is_of_node(__u32 id, const struct address *a)
{
	struct node *node = find_node(id);

	return node && (address_equal(&node->v4, a) || address_equal(&node->v6, a));
}
