/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows: which backend a client's packets go to, and what its replies must look like. An entry says
 * what one direction becomes at one hook, so a flow is two entries, or four if it is masqueraded:
 *
 *   in   client:p → Service:s   becomes  client:c → backend:b     (c is p, but see below)
 *   out  client:c → backend:b   becomes    node:m → backend:b     masqueraded flows alone
 *   in   backend:b → node:m     becomes  backend:b → client:c     masqueraded flows alone
 *   out  backend:b → client:c   becomes  Service:s → client:p
 *
 * The first and the last are a pair, as are the two between: each is found from the other, and
 * tells how its direction stands. The last is written first, so that no reply finds its flow
 * missing.
 *
 * c differs from p only where two Services of one client port got the same backend: there a reply
 * would not say which of them it is from. m is found when the first packet leaves, see
 * masquerade.h.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "adopt.h"
#include "affinity.h"
#include "clock.h"
#include "packet.h"
#include "ports.h"
#include "reasons.h"
#include "rewrite.h"
#include "service.h"

/* What a packet becomes: another destination where it comes in, another source where it leaves. */
static __always_inline struct rewrite flow_exchange(const struct tuple *t, const struct flow *flow)
{
	if (t->leaving)
		return (struct rewrite){
			.source = flow->addr,
			.destination = t->destination,
			.source_port = flow->port,
			.destination_port = flow->other_port,
		};
	return (struct rewrite){
		.source = t->source,
		.destination = flow->addr,
		.source_port = flow->other_port,
		.destination_port = flow->port,
	};
}

/* The key of an entry's other half: what it becomes, turned round, at the other hook. */
static __always_inline struct tuple flow_peer_key(const struct tuple *key, const struct flow *flow)
{
	struct rewrite to = flow_exchange(key, flow);

	return (struct tuple){
		.source = to.destination,
		.destination = to.source,
		.source_port = to.destination_port,
		.destination_port = to.source_port,
		.protocol = key->protocol,
		.leaving = !key->leaving,
	};
}

static __always_inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/* The other half of an entry; NULL if it is gone, or another flow's. */
static __noinline struct flow *flow_peer(const struct tuple *key, const struct flow *flow)
{
	struct tuple other = flow_peer_key(key, flow), back;
	struct flow *peer = find_flow(&other);

	if (!peer)
		return NULL;
	back = flow_peer_key(&other, peer);
	return tuple_equal(&back, key) ? peer : NULL;
}

/* Says if neither side will send any more. */
static __always_inline bool flow_is_over(const struct flow *a, const struct flow *b)
{
	return a->state & b->state & FLOW_FIN || (a->state | b->state) & FLOW_RESET;
}

/* Writes the other half of an entry, flags as of write_flow; -EEXIST if its key is taken. */
static __noinline int flow_write_peer(const struct tuple *key, const struct flow *flow, __u64 flags)
{
	struct tuple other = flow_peer_key(key, flow);
	struct flow reverse = {
		.addr = key->leaving ? key->source : key->destination,
		.port = key->leaving ? key->source_port : key->destination_port,
		.other_port = key->leaving ? key->destination_port : key->source_port,
		.backend = flow->backend,
		.set = flow->set,
		.seen = flow->seen - 1, /* so that its first packet is noted as an answer */
		.state = FLOW_ANSWERED,
		.way = flow->way == WAY_VIA ? WAY_WRAP : WAY_HERE,
		.node = flow->node,
	};
	int error = write_flow(&other, &reverse, flags);

	/* A fresh entry is the first to be evicted until something has read it. */
	if (!error)
		find_flow(&other);
	return error;
}

/*
 * Says if the key of a flow's other half is another's that lives. A flow that is over, or has lost
 * a half, gives way: its client uses the port again.
 */
static __noinline bool flow_peer_taken(const struct tuple *key, const struct flow *flow)
{
	struct tuple other = flow_peer_key(key, flow), back;
	struct flow *theirs = find_flow(&other), *peer;

	if (!theirs)
		return false;
	back = flow_peer_key(&other, theirs);
	if (tuple_equal(&back, key))
		return false;
	peer = flow_peer(&other, theirs);
	return peer && !flow_is_over(theirs, peer);
}

/* Writes the other half of an entry unless its key is another's: -EEXIST. */
static __noinline int flow_claim(const struct tuple *key, const struct flow *flow)
{
	int error = flow_write_peer(key, flow, BPF_NOEXIST);

	if (error == -EEXIST && !flow_peer_taken(key, flow))
		error = flow_write_peer(key, flow, BPF_ANY);
	return error;
}

/* What a port is looked for: one a processor, since the function that tries one takes no pointers.
 */
struct claim {
	struct tuple key;
	struct flow flow;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct claim);
} claims SEC(".maps");

static __always_inline struct claim *claim_room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&claims, &zero);
}

/*
 * Claims with a random port, in place of the one outside or of the client's. Returns 0 or -EEXIST,
 * or another error. Global, so that the verifier walks it once and not for each attempt.
 */
__noinline int flow_claim_once(__u32 outside)
{
	struct claim *c = claim_room();
	__be16 port = random_port();

	if (!c || !port)
		return -EEXIST;
	if (outside)
		c->flow.port = port;
	else
		c->flow.other_port = port;
	return flow_write_peer(&c->key, &c->flow, BPF_NOEXIST);
}

/* The same again and again, in place of a port that is taken. */
static __always_inline int flow_claim_random(const struct tuple *key, struct flow *flow,
					     bool outside)
{
	struct claim *c = claim_room();
	int error = -EEXIST;

	if (!c)
		return error;
	c->key = *key;
	c->flow = *flow;
	for (int i = 0; i < PORT_ATTEMPTS && error == -EEXIST; i++)
		error = flow_claim_once(outside);
	flow->port = c->flow.port;
	flow->other_port = c->flow.other_port;
	return error;
}

/* Finds the client port with which replies are the flow's alone. Returns a reason. */
static __always_inline int flow_claim_port(const struct tuple *key, struct flow *flow)
{
	int error;

	flow->other_port = key->source_port;
	error = flow_claim(key, flow);
	if (error == -EEXIST)
		error = flow_claim_random(key, flow, false);
	return error ? REASON_FLOWS_FULL : REASON_NONE;
}

/* The key of what leaves the node towards the backend. */
static __always_inline struct tuple flow_leaving_key(const struct tuple *key,
						     const struct flow *flow)
{
	return (struct tuple){
		.source = key->source,
		.destination = flow->addr,
		.source_port = flow->other_port,
		.destination_port = flow->port,
		.protocol = key->protocol,
		.leaving = 1,
	};
}

/* Notes that what leaves is to be masqueraded; by what, masquerade.h finds out. */
static __noinline int flow_mark_leaving(const struct tuple *key, const struct flow *flow)
{
	struct tuple leaving = flow_leaving_key(key, flow);
	struct flow pending = {
		.backend = flow->backend,
		.set = flow->set,
		.sequence = flow->sequence,
		.seen = flow->seen,
		.other_port = flow->port,
		.state = flow->state,
	};
	int error = write_flow(&leaving, &pending, BPF_ANY);

	if (!error)
		find_flow(&leaving); /* and so it is read, see above */
	return error;
}

/*
 * Gives the entry of what leaves back if it was evicted: else the client's own address would leave.
 * If the port that it had outside can't be kept, the backend ends the connection, and the client
 * learns of it.
 */
static __noinline void flow_keep_leaving(const struct tuple *key, const struct flow *flow)
{
	struct tuple leaving = flow_leaving_key(key, flow);

	if (!find_flow(&leaving))
		flow_mark_leaving(key, flow);
}

/* Deletes all entries of a flow, by that of the client's packets as they come in. */
static __noinline void flow_end(const struct tuple *key, const struct flow *flow)
{
	struct tuple other = flow_peer_key(key, flow);
	struct flow *leaving;

	if (flow_peer(key, flow))
		delete_flow(&other);
	if (flow->state & FLOW_MASQUERADE) {
		other = flow_leaving_key(key, flow);
		leaving = find_flow(&other);
		if (leaving && leaving->port) {
			struct tuple back = flow_peer_key(&other, leaving);

			if (flow_peer(&other, leaving))
				delete_flow(&back);
		}
		delete_flow(&other);
	}
	delete_flow(key);
}

/*
 * Begins a flow; *flow has backend, address, port, set and state, and is completed for its first
 * packet. Another processor may begin the same flow at the same time: the first one's backend
 * counts. Returns a reason.
 */
static __always_inline int flow_begin(const struct packet *p, struct flow *flow)
{
	struct flow *first;
	int error, reason;

	flow->sequence = p->sequence;
	flow->seen = now_seconds();
	flow->state |= FLOW_FORWARD;
	reason = flow_claim_port(&p->tuple, flow);
	if (reason)
		return reason;
	error = flow->state & FLOW_MASQUERADE ? flow_mark_leaving(&p->tuple, flow) : 0;
	if (!error)
		error = write_flow(&p->tuple, flow, BPF_NOEXIST);
	first = find_flow(&p->tuple); /* and so it is read, see above */
	if (error == -EEXIST && first) {
		*flow = *first;
		return REASON_NONE;
	}
	return error ? REASON_FLOWS_FULL : REASON_NONE;
}
