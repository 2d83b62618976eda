/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows: which backend a client's packets go to, and what its replies must look like. A flow is two
 * entries, one a direction:
 *
 *   forward  client:p → Service   becomes  client:c → backend      (c is p, but see below)
 *   reverse  backend  → client:c  becomes  Service  → client:p
 *
 * c differs from p only where two Services of one client port got the same backend: there a reply
 * would not say which of them it is from.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "reasons.h"
#include "rewrite.h"
#include "service.h"

/* Tries for another client port; 4 are all taken once in 10^8 with 600 of 60,000 in use. */
#define PORT_ATTEMPTS 4
#define PORT_LOWEST   1024

static __always_inline struct tuple flow_reverse_key(const struct tuple *forward,
						     const struct address *addr, __be16 port,
						     __be16 other_port)
{
	return (struct tuple){
		.source = *addr,
		.destination = forward->source,
		.source_port = port,
		.destination_port = other_port,
		.protocol = forward->protocol,
		.leaving = 1,
	};
}

static __always_inline struct tuple flow_forward_key(const struct tuple *reverse_key,
						     const struct flow *reverse)
{
	return (struct tuple){
		.source = reverse_key->destination,
		.destination = reverse->addr,
		.source_port = reverse->other_port,
		.destination_port = reverse->port,
		.protocol = reverse_key->protocol,
	};
}

/* Says if another flow's replies use this key: it has both entries, and neither side has ended it.
 */
static __always_inline bool flow_reverse_taken(const struct tuple *key, const struct flow *ours)
{
	struct flow *theirs = look_up(&flows_v2, key);
	struct tuple forward_key;
	struct flow *forward;

	if (!theirs)
		return false;
	forward_key = flow_forward_key(key, theirs);
	if (theirs->port == ours->port && theirs->other_port == ours->other_port &&
	    address_equal(&theirs->addr, &ours->addr))
		return false;
	forward = look_up(&flows_v2, &forward_key);
	return forward && !((forward->state | theirs->state) & (FLOW_FIN | FLOW_RESET)) &&
	       forward->port == key->source_port && forward->other_port == key->destination_port &&
	       address_equal(&forward->addr, &key->source);
}

/* Writes the reverse entry and finds the client port to use. Returns a reason. */
static __noinline int flow_insert_reverse(const struct tuple *forward, struct flow *flow)
{
	struct flow reverse = {};
	struct tuple key;

	reverse.addr = forward->destination;
	reverse.port = forward->destination_port;
	reverse.other_port = forward->source_port;
	reverse.backend = flow->backend;
	reverse.sequence = flow->sequence;
	flow->other_port = forward->source_port;
	for (int i = 0; i < PORT_ATTEMPTS; i++) {
		int error;

		key = flow_reverse_key(forward, &flow->addr, flow->port, flow->other_port);
		error = write_to(&flows_v2, &key, &reverse, BPF_NOEXIST);
		if (error == -EEXIST && !flow_reverse_taken(&key, &reverse))
			error = write_to(&flows_v2, &key, &reverse, BPF_ANY);
		if (!error) {
			/* A fresh entry is the first to be evicted until something has read it. */
			look_up(&flows_v2, &key);
			return REASON_NONE;
		}
		if (error != -EEXIST)
			return REASON_FLOWS_FULL;
		/* See rewrite_packet: a flow whose packets would all be dropped is not begun. */
		if (forward->protocol == IPPROTO_SCTP)
			return REASON_UNSUPPORTED;
		flow->other_port =
			bpf_htons(PORT_LOWEST + bpf_get_prandom_u32() % (65536 - PORT_LOWEST));
	}
	return REASON_FLOWS_FULL;
}

/* Says if a flow has the reverse entry of this key: a flow that took its place may, or none. */
static __always_inline bool flow_has_reverse(const struct tuple *forward, const struct tuple *key)
{
	struct flow *reverse = look_up(&flows_v2, key);

	return reverse && reverse->port == forward->destination_port &&
	       reverse->other_port == forward->source_port &&
	       address_equal(&reverse->addr, &forward->destination);
}

/* Deletes the reverse entry of a flow, if it still has it. */
static __always_inline void flow_delete_reverse(const struct tuple *forward,
						const struct flow *flow)
{
	struct tuple key = flow_reverse_key(forward, &flow->addr, flow->port, flow->other_port);

	if (flow_has_reverse(forward, &key))
		delete_from(&flows_v2, &key);
}

/*
 * Says if answers to a flow would be translated. Where a client sends much and hears little, only
 * its forward entry is ever read, and the other is evicted: for datagrams that would be for good,
 * since nothing else ends such a flow. Being read here, both entries also grow old together. A
 * connection's answers come at least as acknowledgments.
 */
static __always_inline bool flow_is_whole(const struct tuple *forward, const struct flow *flow)
{
	struct tuple key;

	if (forward->protocol != IPPROTO_UDP)
		return true;
	key = flow_reverse_key(forward, &flow->addr, flow->port, flow->other_port);
	return flow_has_reverse(forward, &key);
}

/*
 * Begins a flow from p to the picked backend; flow is filled for its first packet. Another
 * processor may begin the same flow at the same time: the first one's backend counts. old is the
 * flow that this one replaces, if any.
 */
static __always_inline int flow_begin(const struct packet *p, const struct pick *pick,
				      const struct flow *old, struct flow *flow)
{
	struct flow *first;
	int error;
	int reason;

	if (p->tuple.protocol == IPPROTO_SCTP && pick->port != p->tuple.destination_port)
		return REASON_UNSUPPORTED;
	*flow = (struct flow){
		.addr = pick->addr,
		.backend = pick->backend,
		.port = pick->port,
		.sequence = p->sequence,
	};
	reason = flow_insert_reverse(&p->tuple, flow);
	if (reason)
		return reason;
	error = write_to(&flows_v2, &p->tuple, flow, old ? BPF_ANY : BPF_NOEXIST);
	first = look_up(&flows_v2, &p->tuple); /* and so it is read, see above */
	if (error == -EEXIST && first) {
		if (first->port != flow->port || !address_equal(&first->addr, &flow->addr))
			flow_delete_reverse(&p->tuple, flow);
		*flow = *first;
		return REASON_NONE;
	}
	return error ? REASON_FLOWS_FULL : REASON_NONE;
}

/* Remembers an end. At most two writes a flow and direction, in place. */
static __always_inline void flow_note_end(const struct packet *p, struct flow *flow)
{
	if ((p->fin || p->rst))
		flow->state |= p->rst ? FLOW_RESET : FLOW_FIN;
}

static __noinline int flow_apply_forward(struct __sk_buff *skb, const struct packet *p,
					 const struct flow *flow)
{
	struct rewrite to = {
		.source = p->tuple.source,
		.destination = flow->addr,
		.source_port = flow->other_port,
		.destination_port = flow->port,
	};

	return rewrite_packet(skb, p, &to);
}

static __always_inline int flow_apply_reverse(struct __sk_buff *skb, const struct packet *p,
					      const struct flow *flow)
{
	struct rewrite to = {
		.source = flow->addr,
		.destination = p->tuple.destination,
		.source_port = flow->port,
		.destination_port = flow->other_port,
	};

	return rewrite_packet(skb, p, &to);
}
