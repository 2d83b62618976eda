/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the policies that select a pod say about a connection:
 *
 *   peer's address ──► identity: by the address, else by the longest block, else 0
 *   rule set, identity ──► verdict, else that of identity 0, else nothing passes
 *   its table of ports ──► an exception for the port dialled, else the verdict itself
 *
 * Without a rule set no policy selects the pod in this direction, and all passes. So does what
 * comes from the pod's own node: kubelet's probes.
 *
 * Lookups: 0 without a rule set; a peer 2, with a table of ports 3; others up to 2 more, and one to
 * see who the node is where others begin.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "extension.h"
#include "maps.h"
#include "operate.h"
#include "reasons.h"

/* Action of internal/model. */
#define ACTION_ALLOW   1
#define ACTION_DENY    2
#define ACTION_ISOLATE 3
#define ACTION_CLOSED  4

/* Direction of internal/model. */
#define DIRECTION_INGRESS 1
#define DIRECTION_EGRESS  2

#define PORT_VERDICT_BITS (64 + 16 + 16)

/* A connection that is asked about, and what was found. */
struct question {
	struct connection_key key;
	union { /* what is looked up, one after the other */
		struct network_key block;
		struct verdict_key verdict;
		struct port_verdict_key port;
	};
	__u64 ingress; /* the rule sets of the pod */
	__u64 egress;
	__u64 rule_set; /* that was asked; 0: none had to be */
	__u64 rule;	/* that decided; 0: none */
	__u8 direction;
	bool arrived; /* by an interface, on its way to a pod: the node only forwards it */
};

static __always_inline __u32 identity_of(struct question *q)
{
	struct identity *identity = look_up(&peers_v1, &q->key.peer);

	if (identity)
		return identity->id;
	q->block.bits = 128;
	q->block.addr = q->key.peer;
	identity = look_up(&blocks_v1, &q->block);
	return identity ? identity->id : 0;
}

static __always_inline struct verdict *find_verdict(struct question *q)
{
	struct verdict *verdict;

	q->verdict = (struct verdict_key){ .rule_set = q->rule_set, .identity = identity_of(q) };
	verdict = look_up(&verdicts_v1, &q->verdict);
	if (verdict || !q->verdict.identity)
		return verdict;
	q->verdict.identity = 0;
	return look_up(&verdicts_v1, &q->verdict);
}

static __always_inline struct port_verdict *find_port_verdict(struct question *q, __u64 ports)
{
	__be64 table = bpf_cpu_to_be64(ports);

	q->port.bits = PORT_VERDICT_BITS;
	__builtin_memcpy(q->port.ports, &table, sizeof(table));
	q->port.protocol = q->key.protocol;
	q->port.pad = 0;
	q->port.port = q->direction == DIRECTION_INGRESS ? q->key.pod_port : q->key.peer_port;
	return look_up(&port_verdicts_v1, &q->port);
}

static __always_inline __u8 action_of(struct question *q)
{
	struct verdict *verdict = find_verdict(q);
	struct port_verdict *port;

	if (!verdict)
		return ACTION_CLOSED;
	if (verdict->ports && carries_services(q->key.protocol)) {
		port = find_port_verdict(q, verdict->ports);
		if (port) {
			q->rule = port->rule;
			return port->action;
		}
	}
	q->rule = verdict->rule;
	return verdict->action;
}

static __always_inline int reason_of(__u8 action)
{
	switch (action) {
	case ACTION_ALLOW:
		return REASON_NONE;
	case ACTION_DENY:
		return REASON_POLICY_DENIED;
	case ACTION_ISOLATE:
		return REASON_POLICY_ISOLATED;
	}
	return REASON_POLICY_CLOSED;
}

/* Says if it is the pod's own node that asks. One of its addresses alone says so only of IPv4: what
 * arrives from outside with such a source the stack drops there (a martian), IPv6's it forwards. */
static __always_inline bool is_own_nodes(const struct question *q)
{
	return (!q->arrived || address_is_v4(&q->key.peer)) && look_up(&locals_v1, &q->key.peer);
}

/* Asks if a connection may be begun in a direction. Returns a reason. __noinline: asked for both,
 * and to be verified once for each. */
static __noinline int ask(struct question *q, __u8 direction)
{
	q->direction = direction;
	q->rule = 0;
	q->rule_set = direction == DIRECTION_INGRESS ? q->ingress : q->egress;
	if (!q->rule_set)
		return REASON_NONE;
	if (direction == DIRECTION_INGRESS && is_own_nodes(q)) {
		q->rule_set = 0;
		return REASON_NONE;
	}
	return reason_of(action_of(q));
}
