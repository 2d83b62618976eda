/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all answers have in common that are made out of the packet they answer: how many are given,
 * to whom none is, their IP header, and the way back, through the interface that the packet came
 * by, or as if the answer had come by the one that it was about to leave by.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "checksum.h"
#include "operate.h"
#include "packet.h"

/* Answers per second and processor, and how many may come at once. Set at load. */
volatile const __u32 refusals_per_second = 1000;

struct allowance {
	__u64 time;   /* of the last refill, ns */
	__u64 tokens; /* in ns: an answer costs a second divided by refusals_per_second */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct allowance);
} refusals SEC(".maps");

#define SECOND 1000000000ULL

static __always_inline bool refusal_allowed(void)
{
	struct allowance *a;
	__u64 now, elapsed;
	__u32 zero = 0;

	a = look_up(&refusals, &zero);
	if (!a || !refusals_per_second)
		return false;
	now = bpf_ktime_get_ns();
	elapsed = now - a->time;
	a->time = now;
	a->tokens = elapsed > SECOND - a->tokens ? SECOND : a->tokens + elapsed;
	if (a->tokens < SECOND / refusals_per_second)
		return false;
	a->tokens -= SECOND / refusals_per_second;
	return true;
}

static __always_inline long swap_ethernet(struct __sk_buff *skb)
{
	struct ethhdr *eth = packet_start(skb);
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > packet_end(skb))
		return -1;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	return 0;
}

static __always_inline __u64 sum_address(const struct address *a)
{
	return (__u64)a->words[0] + a->words[1] + a->words[2] + a->words[3];
}

/* The pseudo header's sum (RFC 9293 3.1, RFC 8200 8.1) between a packet's sender and another. A
 * mapped address's prefix must not count. */
static __always_inline __u64 sum_pseudo(const struct packet *p, const struct address *other,
					__u8 protocol, __u16 length)
{
	const struct address *sender = &p->tuple.source;
	__u64 sum = bpf_htons(protocol) + bpf_htons(length);

	if (p->v6)
		return sum + sum_address(sender) + sum_address(other);
	return sum + sender->words[3] + other->words[3];
}

/*
 * Says if a packet's checksum is still to be filled in. Kernels that don't tell are asked by what
 * the field would then hold: wrong once in 65,536 packets, for an answer that the client can do
 * without.
 */
static __always_inline bool awaits_checksum(struct __sk_buff *skb, const struct packet *p,
					    __u16 field, __u16 length)
{
	enum checksum_state state = checksum_state(skb);

	if (state == CHECKSUM_UNKNOWN)
		return field ==
		       sum_fold(sum_pseudo(p, &p->tuple.destination, p->tuple.protocol, length));
	return state == CHECKSUM_PARTIAL;
}

/* The IP header of an answer to who sent the packet. */
static __always_inline long write_ip(struct __sk_buff *skb, const struct packet *p,
				     const struct address *from, __u8 protocol, __u16 length)
{
	const struct address *to = &p->tuple.source;

	if (p->v6) {
		struct ipv6hdr ip = {
			.version = 6,
			.payload_len = bpf_htons(length),
			.nexthdr = protocol,
			.hop_limit = 64,
		};

		__builtin_memcpy(&ip.saddr, from, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, to, sizeof(ip.daddr));
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(ip) + length),
			.ttl = 64,
			.protocol = protocol,
			.saddr = from->words[3],
			.daddr = to->words[3],
		};

		ip.check = ~sum_fold(sum_words(&ip, sizeof(ip)));
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
}

/*
 * Says if a packet may be answered. Never a group's or nobody's, what came to more than this host,
 * a later fragment, what contradicts itself, nor more than refusals_per_second.
 */
static __always_inline bool may_be_answered(struct __sk_buff *skb, const struct packet *p)
{
	return !p->later && !lengths_contradict(skb, p) && address_is_one_host(&p->tuple.source) &&
	       skb->pkt_type != PACKET_BROADCAST && skb->pkt_type != PACKET_MULTICAST &&
	       refusal_allowed();
}

/* Sends the answer that a packet has become: what was about to leave is answered as if its receiver
 * had. Returns a verdict. */
static __always_inline int send_back(struct __sk_buff *skb, const struct packet *p)
{
	if (swap_ethernet(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, p->tuple.leaving ? BPF_F_INGRESS : 0);
}
