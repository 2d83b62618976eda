/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet at a pod's interface may go on. It is judged as the node sees it between the
 * exchanges of addresses (docs/adr/0013-policy-judges-between-the-exchanges.md), as one of a
 * connection of the pod:
 *
 *   sent from another's address? ──► drop, see source.h
 *   from the pod to itself? ──► passes
 *   connection known? ── judged since policies changed ──► passes
 *                     ── before ──► judged again as it began ── denied ──► drop
 *   pod unknown, of a network of pods? ──► drop; of another network ──► passes
 *   a new one is judged as this packet would begin it:
 *     SYN, echo request    in its own direction alone, whatever is known of its ports
 *     TCP, not a SYN       it began unseen: passes if either end might have begun it
 *     all else             in its own direction
 *   allowed ──► its entry is written, passes
 *
 * What is denied leaves no entry. A denied connection that was allowed before keeps its entry, and
 * with it who began it, for as long as that end goes on: else its next answer, which may be on its
 * way, would begin one the other way, of which all that is denied would be the answers.
 *
 * A source is asked after where no entry says that its pod is behind this interface.
 *
 * Lookups: known 1, judged again 2 and those of verdict.h, new 3 and those, and a write; one more
 * where a rule decided, and at its first on a processor a write. A test counts them.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "adopt.h"
#include "clock.h"
#include "connection.h"
#include "frontend.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "reasons.h"
#include "source.h"
#include "verdict.h"

/* Connections that have begun go on, whatever policies say since. Set at load. */
volatile const bool keep_established;

/* A packet that is judged: one a processor, for the same reason as packet_room. */
struct judgement {
	struct question question; /* its key is the connection's */
	struct connection entry;  /* of a new one that is allowed */
	__u32 epoch;
	__u32 incarnation; /* of the pod */
	__u16 interface;   /* the pod's, as of struct connection; 0: sources are not checked */
	struct sighting sighting;
	bool begins;	/* it can be nothing but the first of a connection in its direction */
	bool continues; /* it can't be that */
	bool error;	/* ICMP, about the connection */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct judgement);
} judgements SEC(".maps");

static __always_inline struct judgement *judgement_room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&judgements, &zero);
}

/* 0 while there is no policy in the cluster. */
static __always_inline __u32 policy_epoch(void)
{
	__u32 zero = 0, *epoch = look_up(&policy_v1, &zero);

	return epoch ? *(volatile __u32 *)epoch : 0;
}

static __always_inline __u8 direction_of(const struct judgement *j)
{
	return j->sighting.from_pod ? DIRECTION_EGRESS : DIRECTION_INGRESS;
}

static __always_inline __u8 opposite(__u8 direction)
{
	return DIRECTION_INGRESS + DIRECTION_EGRESS - direction;
}

static __always_inline __u8 began_in(const struct connection *c)
{
	return began_by_pod(c) ? DIRECTION_EGRESS : DIRECTION_INGRESS;
}

/* __noinline: to be verified once. */
static __noinline void count_hit(struct question *q)
{
	__u64 *hits, one = 1;

	if (!q->rule)
		return;
	hits = look_up(&rule_hits_v1, &q->rule);
	if (hits)
		__sync_fetch_and_add(hits, 1);
	else
		write_to(&rule_hits_v1, &q->rule, &one, BPF_ANY);
}

/* Says if a packet begins a connection though there is an entry. */
static __always_inline bool begins_anew(const struct judgement *j, const struct connection *c)
{
	return j->begins &&
	       (keep_established || began_in(c) != direction_of(j) || connection_is_over(c));
}

/* Judges a connection by its first packet. What is allowed is then in j->entry. Returns a reason.
 */
static __always_inline int judge_new(struct judgement *j)
{
	__u8 direction = direction_of(j);
	int reason = ask(&j->question, direction);

	if (reason && j->continues) {
		if (ask(&j->question, opposite(direction)))
			ask(&j->question, direction);
		else
			reason = REASON_NONE;
	}
	count_hit(&j->question);
	j->entry = (struct connection){
		.rule_set = j->question.rule_set,
		.rule = j->question.rule,
		.epoch = j->epoch,
		.seen = now_seconds(),
		.incarnation = j->incarnation,
		.state = j->question.direction == DIRECTION_INGRESS ? CONNECTION_INGRESS : 0,
		.interface = j->interface,
	};
	connection_note(&j->entry, &j->sighting);
	return reason;
}

/* Judges a known connection. Returns a reason. */
static __always_inline int judge_again(struct judgement *j, struct connection *c)
{
	struct question *q = &j->question;
	int reason = REASON_NONE;

	if (!keep_established) {
		reason = ask(q, began_in(c));
		if (c->rule != q->rule)
			count_hit(q);
		c->rule = q->rule;
		c->rule_set = q->rule_set;
	}
	if (reason) {
		if (j->sighting.from_pod == began_by_pod(c))
			connection_seen(c);
		return reason;
	}
	c->epoch = j->epoch;
	connection_note(c, &j->sighting);
	return REASON_NONE;
}

/* Finds whose packet it is. Returns false for no pod of this node. One lookup. */
static __always_inline bool find_pod(struct judgement *j)
{
	struct endpoint *pod = look_up(&endpoints_v2, &j->question.key.pod);

	if (!pod)
		return false;
	j->question.ingress = pod->ingress;
	j->question.egress = pod->egress;
	j->incarnation = pod->incarnation;
	return true;
}

/* Says if what a pod sends is from its own address. What the kernel led to a pod shows whose the
 * interface is as well. c is of the pod's address, or NULL. */
static __always_inline bool comes_from_own(struct __sk_buff *skb, struct judgement *j,
					   struct connection *c)
{
	j->interface = check_sources ? skb->ifindex : 0;
	if (!check_sources || !j->sighting.from_pod ||
	    (c && c->interface && c->interface == j->interface))
		return true;
	if (!is_own_source(skb, &j->question.key.pod))
		return false;
	if (c)
		c->interface = j->interface;
	return true;
}

static __always_inline int spoofed(struct judgement *j)
{
	j->question.rule_set = j->question.rule = 0;
	j->question.direction = direction_of(j);
	return REASON_SPOOFED;
}

/*
 * What is no known pod's: of another container network perhaps. What says that it comes from the
 * node itself does not come by a pod's interface: where it went that would be believed.
 */
static __always_inline int judge_unknown(struct judgement *j)
{
	const struct address *pod = &j->question.key.pod;

	j->question.rule_set = j->question.rule = 0;
	j->question.direction = direction_of(j);
	if (network_kind(pod) == NETWORK_PODS || (j->sighting.from_pod && look_up(&locals_v1, pod)))
		return REASON_UNKNOWN_POD;
	return REASON_NONE;
}

/*
 * Says if a packet is of a pod to itself. What others send in its name leaves by its interface as
 * well, if they aren't pods or sources aren't checked, and IPv6 doesn't mind: a pod's own has come
 * by the interface that it leaves by.
 */
static __always_inline bool is_to_itself(const struct __sk_buff *skb, const struct judgement *j)
{
	const struct connection_key *key = &j->question.key;

	return address_equal(&key->pod, &key->peer) &&
	       (j->sighting.from_pod || !skb->ingress_ifindex ||
		skb->ingress_ifindex == skb->ifindex);
}

static __always_inline int judge(struct judgement *j, struct connection *c)
{
	int reason;

	if (!find_pod(j))
		return judge_unknown(j);
	if (c && c->incarnation != j->incarnation)
		c = NULL;
	if (c && !begins_anew(j, c))
		return judge_again(j, c);
	reason = judge_new(j);
	if (!reason && (!c || connection_is_over(c)))
		write_connection(&j->question.key, &j->entry);
	return reason;
}

/* What is noted of an answer to a packet that would have gone to the pod, or that came from it. */
static __always_inline __u8 refused(bool to_pod)
{
	return to_pod ? CONNECTION_POD_REFUSED : CONNECTION_REFUSED;
}

/* Says if a packet is the answer that the programs gave in place of its sender. */
static __always_inline bool is_refusal(const struct judgement *j, struct connection *c)
{
	__u8 state = refused(j->sighting.from_pod);

	if (!(c->state & state) ||
	    !(j->sighting.rst || j->error || j->question.key.protocol == IPPROTO_SCTP))
		return false;
	c->state &= ~state;
	return true;
}

/*
 * Judges the packet in judgement_room. Returns a reason. Global, so that the verifier looks at it
 * once and by itself, and not at each place where a packet is judged.
 */
__noinline int admit(struct __sk_buff *skb)
{
	struct judgement *j = judgement_room();
	struct connection_key *key;
	struct connection *c = NULL;
	bool itself;

	if (!j)
		return REASON_POLICY_CLOSED;
	key = &j->question.key;
	j->question.arrived = !j->sighting.from_pod && skb->ingress_ifindex;
	itself = is_to_itself(skb, j);
	if (!itself)
		c = find_connection(key);
	if (!comes_from_own(skb, j, c))
		return spoofed(j);
	if (itself || (c && is_refusal(j, c)))
		return REASON_NONE;
	if (c && !connection_stands(key->protocol, c))
		c = NULL;
	if (!c || c->epoch != j->epoch || begins_anew(j, c))
		return judge(j, c);
	connection_note(c, &j->sighting);
	return REASON_NONE;
}

/* Judges the packet in judgement_room as the first of a connection whose entry is to be written
 * later. Returns a reason. */
__noinline int admit_beginning(struct __sk_buff *skb)
{
	struct judgement *j = judgement_room();

	if (!j)
		return REASON_POLICY_CLOSED;
	j->entry.epoch = 0;
	j->question.arrived = false;
	if (!comes_from_own(skb, j, NULL))
		return spoofed(j);
	if (address_equal(&j->question.key.pod, &j->question.key.peer))
		return REASON_NONE;
	return find_pod(j) ? judge_new(j) : judge_unknown(j);
}

/* Writes the entry of a connection that was judged so. */
static __noinline void track_beginning(__be16 pod_port)
{
	struct judgement *j = judgement_room();

	if (!j || !j->entry.epoch)
		return;
	j->question.key.pod_port = pod_port;
	write_connection(&j->question.key, &j->entry);
}

/* Fills judgement_room with what a packet is; whose it is, is up to the caller. */
static __always_inline struct judgement *judgement_of(const struct packet *p, bool from_pod)
{
	struct judgement *j = judgement_room();
	bool tcp = p->tuple.protocol == IPPROTO_TCP;

	if (!j)
		return NULL;
	j->epoch = p->epoch;
	j->sighting = (struct sighting){ .from_pod = from_pod, .fin = p->fin, .rst = p->rst };
	/* Of what is out of sight the worst is assumed. */
	j->begins = tcp && (p->syn || p->reason);
	j->continues = tcp && !j->begins;
	j->error = false;
	return j;
}

/* Where a packet goes between the exchanges: what it sends becomes its key. */
static __always_inline void judge_ends(struct judgement *j, const struct packet *p,
				       const struct address *pod, const struct address *peer,
				       __be16 pod_port, __be16 peer_port)
{
	j->question.key = (struct connection_key){
		.pod = *pod,
		.peer = *peer,
		.pod_port = pod_port,
		.peer_port = peer_port,
		.protocol = p->tuple.protocol,
	};
}

/* Judges what a pod sends, with the ends that it is given. Returns a reason. */
static __always_inline int admit_from_pod(struct __sk_buff *skb, const struct packet *p,
					  const struct address *peer, __be16 pod_port,
					  __be16 peer_port)
{
	struct judgement *j = judgement_of(p, true);

	if (!j)
		return REASON_POLICY_CLOSED;
	judge_ends(j, p, &p->tuple.source, peer, pod_port, peer_port);
	return admit(skb);
}

/* Judges what a pod gets, before its ends are exchanged. Returns a reason. */
static __always_inline int admit_to_pod(struct __sk_buff *skb, const struct packet *p)
{
	const struct tuple *t = &p->tuple;
	struct judgement *j = judgement_of(p, false);

	if (!j)
		return REASON_POLICY_CLOSED;
	judge_ends(j, p, &t->destination, &t->source, t->destination_port, t->source_port);
	return admit(skb);
}
