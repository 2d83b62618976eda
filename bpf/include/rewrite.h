/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Exchanges addresses and ports in a packet, with all the checksums that depend on them. */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"
#include "packet.h"

struct rewrite {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
};

#define CHECKSUM_OF_TCP offsetof(struct tcphdr, check)
#define CHECKSUM_OF_UDP offsetof(struct udphdr, check)

static __always_inline int rewrite_transport(struct __sk_buff *skb, const struct packet *p,
					     const struct rewrite *to, enum checksum_state state,
					     __u64 addresses, __u64 ports)
{
	void *transport = transport_start(skb, p);
	struct tcphdr *tcp = transport;
	struct udphdr *udp = transport;

	if ((void *)(udp + 1) > packet_end(skb))
		return REASON_REWRITE;
	udp->source = to->source_port;
	udp->dest = to->destination_port;
	if (p->tuple.protocol == IPPROTO_UDP) {
		udp->check = checksum_transport(udp->check, state, true, addresses, ports);
	} else if (p->tuple.protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > packet_end(skb))
			return REASON_REWRITE;
		tcp->check = checksum_transport(tcp->check, state, false, addresses, ports);
	}
	return REASON_NONE;
}

static __always_inline int rewrite_addresses(struct __sk_buff *skb, const struct packet *p,
					     const struct rewrite *to, __u64 addresses)
{
	void *start = packet_start(skb) + ETH_HLEN;

	if (p->v6) {
		struct ipv6hdr *ip = start;

		if ((void *)(ip + 1) > packet_end(skb))
			return REASON_REWRITE;
		__builtin_memcpy(&ip->saddr, &to->source, sizeof(to->source));
		__builtin_memcpy(&ip->daddr, &to->destination, sizeof(to->destination));
	} else {
		struct iphdr *ip = start;

		if ((void *)(ip + 1) > packet_end(skb))
			return REASON_REWRITE;
		ip->saddr = to->source.words[3];
		ip->daddr = to->destination.words[3];
		ip->check = checksum_update(ip->check, addresses);
	}
	return REASON_NONE;
}

/* The same through helpers: they know what kind of checksum the packet has. __noinline: old kernels
 * only. */
static __noinline int checksum_by_helpers(struct __sk_buff *skb, const struct packet *p,
					  __u32 addresses, __u32 ports)
{
	__u64 udp = BPF_F_MARK_MANGLED_0;
	__u32 offset;
	long failed;

	offset = p->transport;
	if (p->tuple.protocol == IPPROTO_TCP) {
		offset += CHECKSUM_OF_TCP;
		udp = 0;
	} else if (p->tuple.protocol == IPPROTO_UDP) {
		offset += CHECKSUM_OF_UDP;
	} else {
		return REASON_NONE;
	}
	failed = bpf_l4_csum_replace(skb, offset, 0, addresses, BPF_F_PSEUDO_HDR | udp);
	if (!failed && ports)
		failed = bpf_l4_csum_replace(skb, offset, 0, ports, udp);
	return failed ? REASON_REWRITE : REASON_NONE;
}

/*
 * Exchanges what the packet has for what it is to have. Both families must be the same: the tables
 * never ask for another. Returns a reason, REASON_NONE for done. All pointers into the packet are
 * invalid afterwards.
 */
static __always_inline int rewrite_packet(struct __sk_buff *skb, const struct packet *p,
					  const struct rewrite *to)
{
	const struct tuple *from = &p->tuple;
	enum checksum_state state = checksum_state(skb);
	__u64 addresses = sum_change_address(&from->source, &to->source) +
			  sum_change_address(&from->destination, &to->destination);
	__u64 ports = sum_change_port(from->source_port, to->source_port) +
		      sum_change_port(from->destination_port, to->destination_port);
	int reason;

	/* SCTP's checksum is a CRC over all of the packet, ports included (RFC 9260 6.8), addresses
	 * not. */
	if (from->protocol == IPPROTO_SCTP && (from->source_port != to->source_port ||
					       from->destination_port != to->destination_port))
		return REASON_UNSUPPORTED;
	if (p->v6 == (address_is_v4(&to->source) || address_is_v4(&to->destination)))
		return REASON_STALE_TABLES;
	/*
	 * The device's sum of the whole packet: what changes in IPv6 addresses the transport's
	 * checksum takes back, where in IPv4 the header's does so once more. The helpers know the
	 * latter only (their flag for the former, BPF_F_IPV6, came with Linux 6.16).
	 */
	if (state == CHECKSUM_COMPLETE && p->v6)
		state = CHECKSUM_NONE;
	if (state == CHECKSUM_COMPLETE || state == CHECKSUM_UNKNOWN) {
		reason = checksum_by_helpers(skb, p, sum_fold32(addresses), sum_fold32(ports));
		if (reason)
			return reason;
		state = CHECKSUM_UNKNOWN;
	}
	reason = rewrite_addresses(skb, p, to, addresses);
	return reason ?: rewrite_transport(skb, p, to, state, addresses, ports);
}
