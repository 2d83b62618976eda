/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about what a client sent to a Service: a router or the backend quotes the translated
 * packet, which the client never sent. It is given back its own, so that path MTU discovery (RFC
 * 1191, RFC 8201) works through Services.
 *
 *   from        quotes                                       becomes
 *   a router    client:c → backend:b                         client:p → Service:s
 *   the backend client:c → backend:b    from the Service,    client:p → Service:s
 *
 * Up to four checksums change: the quoted IP header's, the quoted transport's if it was quoted that
 * far (TCP's is beyond the eight bytes that must be, RFC 792), the message's, the outer IP
 * header's.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "checksum.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"

/* Destination unreachable, time exceeded, parameter problem; for IPv6 also packet too big. */
static __always_inline bool icmp_is_error(__u8 type, bool v6)
{
	return v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* The reverse flow's key of a quoted packet: the other way round. False if it has no ports. */
static __always_inline bool quoted_key(void *ip, const __be16 *ports, bool v6, struct tuple *key)
{
	if (v6) {
		struct ipv6hdr *ip6 = ip;

		if (ip6->version != 6 || !carries_services(ip6->nexthdr))
			return false;
		__builtin_memcpy(&key->source, &ip6->daddr, sizeof(key->source));
		__builtin_memcpy(&key->destination, &ip6->saddr, sizeof(key->destination));
		key->protocol = ip6->nexthdr;
	} else {
		struct iphdr *ip4 = ip;

		if (ip4->version != 4 || ip4->ihl != 5 || !carries_services(ip4->protocol) ||
		    bpf_ntohs(ip4->frag_off) & IPV4_FRAGMENT_OFFSET)
			return false;
		key->source = address_of_v4(ip4->daddr);
		key->destination = address_of_v4(ip4->saddr);
		key->protocol = ip4->protocol;
	}
	key->source_port = ports[1];
	key->destination_port = ports[0];
	key->leaving = 1;
	return true;
}

/* Updates a checksum field within the message and returns what that changes in the message's own.
 */
static __always_inline __u64 update_within(__u16 *field, __u64 change, bool never_zero)
{
	__u16 old = *field, new = checksum_update(old, change);

	if (never_zero && !new)
		new = 0xffff;
	*field = new;
	return sum_change_port(old, new);
}

/* The quoted transport checksum, if there is one and it was quoted. */
static __always_inline __u64 update_quoted(void *transport, void *end, __u8 protocol, __u64 change)
{
	struct udphdr *udp = transport;
	struct tcphdr *tcp = transport;

	if (protocol == IPPROTO_UDP && (void *)(udp + 1) <= end && udp->check)
		return update_within(&udp->check, change, true);
	if (protocol == IPPROTO_TCP && (void *)(&tcp->check + 1) <= end)
		return update_within(&tcp->check, change, false);
	return 0;
}

static __always_inline int translate_error(struct __sk_buff *skb, bool v6)
{
	const __u32 header = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 message = ETH_HLEN + header, quoted = message + 8, transport = quoted + header;
	__u64 addresses, ports_changed, change;
	struct tuple key = {};
	struct flow *flow;
	void *start, *end;
	__be16 *ports;

	bring_in(skb, transport + sizeof(struct udphdr));
	start = packet_start(skb);
	end = packet_end(skb);
	ports = start + transport;
	if (start + transport + sizeof(struct udphdr) > end ||
	    !icmp_is_error(*(__u8 *)(start + message), v6) ||
	    !quoted_key(start + quoted, ports, v6, &key))
		return TC_ACT_UNSPEC;
	flow = look_up(&flows_v2, &key);
	if (!flow || v6 == address_is_v4(&flow->addr))
		return TC_ACT_UNSPEC;

	addresses = sum_change_address(&key.source, &flow->addr);
	ports_changed = sum_change_port(ports[0], flow->other_port) +
			sum_change_port(ports[1], flow->port);
	change = addresses + ports_changed;
	change += update_quoted(start + transport, end, key.protocol, change);
	ports[0] = flow->other_port;
	ports[1] = flow->port;
	if (v6) {
		struct ipv6hdr *outer = start + ETH_HLEN, *inner = start + quoted;
		struct address from;

		__builtin_memcpy(&from, &outer->saddr, sizeof(from));
		__builtin_memcpy(&inner->daddr, &flow->addr, sizeof(inner->daddr));
		if (address_equal(&from, &key.source)) {
			__builtin_memcpy(&outer->saddr, &flow->addr, sizeof(outer->saddr));
			change += addresses; /* in the pseudo header */
		}
	} else {
		struct iphdr *outer = start + ETH_HLEN, *inner = start + quoted;

		inner->daddr = flow->addr.words[3];
		change += update_within(&inner->check, addresses, false);
		if (outer->saddr == key.source.words[3]) {
			outer->saddr = flow->addr.words[3];
			outer->check = checksum_update(outer->check, addresses);
		}
	}
	update_within(start + message + 2, change, false);
	return TC_ACT_UNSPEC;
}

/* What is no transport packet: an ICMP error is translated, all else passes. */
static __noinline int error_to_pod(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = packet_start(skb) + ETH_HLEN;

		if ((void *)(ip + 1) <= packet_end(skb) && ip->protocol == IPPROTO_ICMP &&
		    ip->ihl == 5 && !(bpf_ntohs(ip->frag_off) & ~0x4000))
			return translate_error(skb, false);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = packet_start(skb) + ETH_HLEN;

		if ((void *)(ip + 1) <= packet_end(skb) && ip->nexthdr == IPPROTO_ICMPV6)
			return translate_error(skb, true);
	}
	return TC_ACT_UNSPEC;
}
