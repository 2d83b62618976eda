/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The end of a packet that is denied: it is dropped and told, with the rule set and the rule, as
 * the node sees it between the exchanges of addresses. By choice what no rule of a NetworkPolicy
 * allows is answered; what a ClusterNetworkPolicy denies never is.
 *
 * An answer comes by a pod's interface itself, from somebody who never dialled: so it is expected.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "adopt.h"
#include "clock.h"
#include "count.h"
#include "drop.h"
#include "judge.h"
#include "maps.h"
#include "packet.h"
#include "reasons.h"
#include "refuse.h"

/* Answer what NetworkPolicies isolate pods from, with a RST or ICMP's "prohibited". Set at load. */
volatile const bool policy_reject;

/* Lets an answer to a packet pass on its way to who sent that, once. __noinline: a rare path. */
static __noinline void expect_refusal(const struct packet *p)
{
	const struct tuple *t = &p->tuple;
	__u8 state = refused(t->leaving);
	struct judgement *j = judgement_room();
	struct connection *c;

	if (!j)
		return;
	/* An echo's is there: it is never exchanged. */
	if (carries_services(t->protocol))
		judge_ends(j, p, t->leaving ? &t->destination : &t->source,
			   t->leaving ? &t->source : &t->destination,
			   t->leaving ? t->destination_port : t->source_port,
			   t->leaving ? t->source_port : t->destination_port);
	c = find_connection(&j->question.key);
	if (c) {
		c->state |= state;
		return;
	}
	j->entry = (struct connection){ .seen = now_seconds(), .state = state };
	write_connection(&j->question.key, &j->entry);
}

/* Answers a packet at a pod's interface; prohibited as of refuse_packet. An answer that is not
 * given is not expected. */
static __always_inline int refuse_judged(struct __sk_buff *skb, const struct packet *p,
					 __u32 prohibited)
{
	int verdict = refuse_packet(skb, prohibited);

	if (verdict != TC_ACT_SHOT)
		expect_refusal(p);
	return verdict;
}

static __noinline void drop_judged(const struct judgement *j, __u32 set, __u8 reason)
{
	const struct question *q = &j->question;
	bool from_pod = j->sighting.from_pod;
	const struct connection_key *key = &q->key;
	struct tuple tuple = {
		.source = from_pod ? key->pod : key->peer,
		.destination = from_pod ? key->peer : key->pod,
		.source_port = from_pod ? key->pod_port : key->peer_port,
		.destination_port = from_pod ? key->peer_port : key->pod_port,
		.protocol = key->protocol,
	};
	struct drop_event *event;

	count_drop(set, reason);
	event = bpf_ringbuf_reserve(&drops_v2, sizeof(*event), 0);
	if (!event)
		return;
	drop_fill(event, &tuple, set, reason, VIA_PACKET);
	event->direction = q->direction;
	event->rule_set = q->rule_set;
	event->rule = q->rule;
	bpf_ringbuf_submit(event, 0);
}

/* Ends the packet that was judged last. set is the Service's, 0 for none. Global, as admit. */
__noinline int deny(struct __sk_buff *skb, __u32 set, __u32 reason)
{
	struct judgement *j = judgement_room();
	const struct packet *p = packet_now();

	if (!j || !p)
		return TC_ACT_SHOT;
	drop_judged(j, set, reason);
	if (!policy_reject || reason != REASON_POLICY_ISOLATED ||
	    !(carries_services(p->tuple.protocol) || j->begins))
		return TC_ACT_SHOT;
	return refuse_judged(skb, p, true);
}
