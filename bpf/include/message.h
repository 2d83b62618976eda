/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Judging what has no ports. An ICMP echo is known by its identifier, an error is one of the
 * connection that it is about, all else is known by its addresses alone.
 *
 * Without neighbours and multicast groups (RFC 4861, RFC 2710, RFC 3810) IPv6 has no link, so these
 * pass whatever policies say, also while a pod is not known yet. Only a node's own are still fresh
 * where they leave; what a pod sends so to where no neighbour can be is judged.
 *
 * What hides its ports from here, but not from who gets it, passes nowhere.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "adopt.h"
#include "connection.h"
#include "extension.h"
#include "flow.h"
#include "frontend.h"
#include "icmp.h"
#include "judge.h"
#include "operate.h"
#include "packet.h"

/* The start of an ICMP message. */
struct message {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 id; /* of an echo */
	__u16 sequence;
};

#define ICMP_ECHO_REPLY	     0
#define ICMP_ECHO_REQUEST    8
#define ICMPV6_ECHO_REQUEST  128
#define ICMPV6_ECHO_REPLY    129
#define ICMPV6_GROUPS_FIRST  130
#define ICMPV6_ROUTERS	     133
#define ICMPV6_REDIRECT	     137
#define ICMPV6_GROUPS_REPORT 143

static __always_inline bool is_icmp(__u8 protocol, bool v6)
{
	return protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* How many hops a message of the link has left that was not forwarded, RFC 4861 3.1 and RFC 3810 5;
 * 0 for others. */
static __always_inline __u8 hops_on_link(__u8 type)
{
	if (type >= ICMPV6_ROUTERS && type <= ICMPV6_REDIRECT)
		return 255;
	return (type >= ICMPV6_GROUPS_FIRST && type < ICMPV6_ROUTERS) ||
	       type == ICMPV6_GROUPS_REPORT;
}

/* Says if an address may be a neighbour's of a pod: a group's, a link's, the node's, or a pod's for
 * which the node answers. Up to 2 lookups. */
static __always_inline bool is_neighbours(const struct address *a)
{
	__u32 start = bpf_ntohl(a->words[0]);

	return start >> 24 == 0xff || start >> 22 == 0xfe80 >> 6 || look_up(&locals_v1, a) ||
	       network_kind(a) == NETWORK_PODS;
}

/* Says if a message is one that is not forwarded. __noinline: rare. */
static __noinline bool is_of_link(struct __sk_buff *skb, const struct packet *p, __u8 type)
{
	__u8 hops;

	return p->v6 && hops_on_link(type) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hops,
				   sizeof(hops)) &&
	       hops == hops_on_link(type) &&
	       (p->tuple.leaving || is_neighbours(&p->tuple.destination));
}

static __always_inline bool is_echo_request(__u8 type, bool v6)
{
	return type == (v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO_REQUEST);
}

static __always_inline bool is_echo(__u8 type, bool v6)
{
	return is_echo_request(type, v6) || type == (v6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY);
}

/* The ends of what an error quotes, the other way round, as the node sees it between the exchanges.
 */
static __always_inline bool read_quoted_connection(struct __sk_buff *skb, const struct packet *p,
						   bool from_pod, struct quoted *q)
{
	struct rewrite to;
	struct message m;
	struct flow *flow;

	if (!read_quoted_ends(skb, p->v6, q) ||
	    !address_equal(&q->key.destination, &p->tuple.destination) ||
	    (from_pod && !address_equal(&q->key.source, &p->tuple.source)) ||
	    bpf_skb_load_bytes(skb, q->transport, &m, sizeof(m)))
		return false;
	if (carries_services(q->key.protocol)) {
		/* As they lie in the packet: source, then destination. */
		__builtin_memcpy(&q->key.destination_port, &m, sizeof(__be16));
		__builtin_memcpy(&q->key.source_port, (__u8 *)&m + sizeof(__be16), sizeof(__be16));
	} else if (is_icmp(q->key.protocol, p->v6) && is_echo(m.type, p->v6)) {
		q->key.source_port = q->key.destination_port = m.id;
	}
	flow = from_pod ? find_flow(&q->key) : NULL;
	if (flow) {
		to = flow_exchange(&q->key, flow);
		q->key.destination = to.destination;
		q->key.source_port = to.source_port;
		q->key.destination_port = to.destination_port;
	}
	return true;
}

/* Says if an error is about a known connection. __noinline: what it quotes stays off its caller's
 * stack. */
static __noinline bool quotes_connection(struct __sk_buff *skb, const struct packet *p,
					 struct judgement *j)
{
	struct quoted q = { .ip = p->transport + sizeof(struct message) };
	const struct tuple *t = &q.key;
	struct connection *c;

	if (!read_quoted_connection(skb, p, j->sighting.from_pod, &q))
		return false;
	if (j->sighting.from_pod)
		judge_ends(j, p, &t->source, &t->destination, t->source_port, t->destination_port);
	else
		judge_ends(j, p, &t->destination, &t->source, t->destination_port, t->source_port);
	j->question.key.protocol = t->protocol;
	j->error = true;
	c = find_connection(&j->question.key);
	if (!c || !comes_from_own(skb, j, c))
		return false;
	if (is_refusal(j, c))
		return true;
	return connection_stands(t->protocol, c) &&
	       (c->epoch == j->epoch || (find_pod(j) && c->incarnation == j->incarnation &&
					 (keep_established || !ask(&j->question, began_in(c)))));
}

/* Why a packet has ports that only its receiver finds, if it has: more extension headers than are
 * walked, or a first fragment that ends before them (RFC 7112). */
static __always_inline int hides_ports(const struct packet *p)
{
	if (p->v6 && is_extension(p->tuple.protocol))
		return REASON_UNSUPPORTED;
	return p->first && carries_services(p->tuple.protocol) ? REASON_MALFORMED : REASON_NONE;
}

/* Judges what has no ports. Returns a reason. __noinline: a rare path. */
static __noinline int admit_without_ports(struct __sk_buff *skb, const struct packet *p,
					  bool from_pod)
{
	const struct address *source = &p->tuple.source, *destination = &p->tuple.destination;
	struct judgement *j = judgement_of(p, from_pod);
	struct message m;
	__be16 id = 0;
	int reason;

	if (!j)
		return REASON_POLICY_CLOSED;
	/* TCP without ports has no flags either: the worst is assumed. */
	j->begins = p->tuple.protocol == IPPROTO_TCP;
	j->continues = false;
	if (is_icmp(p->tuple.protocol, p->v6) &&
	    !bpf_skb_load_bytes(skb, p->transport, &m, sizeof(m))) {
		if (is_of_link(skb, p, m.type) ||
		    (icmp_is_error(m.type, p->v6) && quotes_connection(skb, p, j)))
			return REASON_NONE;
		if (is_echo(m.type, p->v6))
			id = m.id;
		j->begins = is_echo_request(m.type, p->v6);
		j->error = false;
	}
	judge_ends(j, p, from_pod ? source : destination, from_pod ? destination : source, id, id);
	reason = hides_ports(p);
	if (reason) {
		j->question.rule_set = j->question.rule = 0;
		j->question.direction = direction_of(j);
		return reason;
	}
	return admit(skb);
}
