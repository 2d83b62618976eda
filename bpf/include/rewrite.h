/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Exchanges addresses and ports in a packet, with all the checksums that depend on them. */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"
#include "packet.h"
#include "sctp.h"

struct rewrite {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
};

#define CHECKSUM_OF_TCP offsetof(struct tcphdr, check)
#define CHECKSUM_OF_UDP offsetof(struct udphdr, check)

/*
 * Ports and the transport's checksum. The device's sum of the whole packet (CHECKSUM_COMPLETE) is
 * changed by what that and the addresses change; an IPv4 header sums up to zero before and after.
 */
static __always_inline int rewrite_transport(struct __sk_buff *skb, const struct packet *p,
					     const struct rewrite *to, enum checksum_state state,
					     __u64 addresses, __u64 ports)
{
	void *transport = transport_start(skb, p);
	struct tcphdr *tcp = transport;
	struct udphdr *udp = transport;
	__u16 old = 0, new = 0;

	if ((void *)(udp + 1) > packet_end(skb))
		return REASON_REWRITE;
	udp->source = to->source_port;
	udp->dest = to->destination_port;
	if (p->tuple.protocol == IPPROTO_UDP) {
		old = udp->check;
		new = checksum_transport(old, state, true, addresses, ports);
		udp->check = new;
	} else if (p->tuple.protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > packet_end(skb))
			return REASON_REWRITE;
		old = tcp->check;
		new = checksum_transport(old, state, false, addresses, ports);
		tcp->check = new;
	}
	if (state == CHECKSUM_COMPLETE)
		bpf_csum_update(skb, sum_fold32((p->v6 ? addresses : 0) + ports +
						sum_change_port(old, new)));
	return REASON_NONE;
}

/* IPv4 header and addresses of both families. */
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

/* Addresses alone: of a later fragment, or of a packet whose ports stay and whose checksum does not
 * count addresses. */
static __always_inline int rewrite_ends(struct __sk_buff *skb, const struct packet *p,
					const struct rewrite *to, __u64 addresses)
{
	int reason = rewrite_addresses(skb, p, to, addresses);

	/* Changes the device's sum of the whole packet, if there is one. */
	if (!reason && p->v6)
		bpf_csum_update(skb, sum_fold32(addresses));
	return reason;
}

static __always_inline __u32 ports_of(const struct rewrite *to)
{
	return (__u32)to->destination_port << 16 | to->source_port;
}

/*
 * Exchanges what the packet has for what it is to have; of a later fragment only the addresses.
 * Both families must be the same: the tables never ask for another. Returns a reason, REASON_NONE
 * for done. All pointers into the packet are invalid afterwards.
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

	if (p->v6 == (address_is_v4(&to->source) || address_is_v4(&to->destination)))
		return REASON_STALE_TABLES;
	if (p->later)
		return rewrite_ends(skb, p, to, addresses);
	if (from->protocol == IPPROTO_SCTP) {
		reason = REASON_NONE;
		if (from->source_port != to->source_port ||
		    from->destination_port != to->destination_port)
			reason = rewrite_sctp(skb, p, ports_of(to), state);
		return reason ?: rewrite_ends(skb, p, to, addresses);
	}
	if (state == CHECKSUM_UNKNOWN) {
		reason = checksum_by_helpers(skb, p, sum_fold32(addresses), sum_fold32(ports));
		if (reason)
			return reason;
	}
	reason = rewrite_addresses(skb, p, to, addresses);
	return reason ?: rewrite_transport(skb, p, to, state, addresses, ports);
}
