/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors that we send (RFC 792, RFC 4443), made out of the packet that they are about: a port
 * unreachable, a packet too big with the MTU that would do (RFC 1191, RFC 8201), a time exceeded.
 * They come from where the packet was sent to, but a time exceeded from this node, which is the
 * router there. As much of the packet is quoted as fits into what every link takes (RFC 1812
 * 4.3.2.3, RFC 4443 2.4), options and extension headers with it, in whole words.
 *
 * A packet that waits for its checksum (CHECKSUM_PARTIAL) keeps doing so. It is quoted with the
 * field in its old place, and the message's own checksum counts what will be there. An SCTP packet
 * that does can't be told of: a CRC is not foreseen as easily.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "answer.h"
#include "checksum.h"
#include "host.h"
#include "icmp.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"

/* All errors are laid out alike: RFC 792, RFC 1191 4, RFC 4443 3. */
struct error {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 mtu; /* of a packet too big; else 0 */
};

/* Type and code. Prohibited: RFC 1812 5.2.7.1. */
#define ICMP_PORT_UNREACHABLE	(3 << 8 | 3)
#define ICMP_TOO_BIG		(3 << 8 | 4)
#define ICMP_PROHIBITED		(3 << 8 | 13)
#define ICMP_TIME_EXCEEDED	(11 << 8)
#define ICMPV6_PROHIBITED	(1 << 8 | 1)
#define ICMPV6_PORT_UNREACHABLE (1 << 8 | 4)
#define ICMPV6_TOO_BIG		(2 << 8)
#define ICMPV6_TIME_EXCEEDED	(3 << 8)

/* What each link takes in one piece, without the IP header and the error's. */
#define QUOTED_MOST    (576 - sizeof(struct iphdr) - sizeof(struct error))
#define QUOTED_MOST_V6 (1280 - sizeof(struct ipv6hdr) - sizeof(struct error))
#define QUOTED_LEAST   (sizeof(struct iphdr) + 8)

/* bpf_csum_diff takes no more at once. */
#define SUMMED_AT_ONCE 512
#define SUMMED_TIMES   3

/* Room for what is quoted, one a processor: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[SUMMED_TIMES * SUMMED_AT_ONCE + 8]);
} quoted_room SEC(".maps");

/*
 * The sum of what is quoted, as it lies in the room: 4 bytes at least. The part's length is masked,
 * which changes nothing, since the verifier of Linux 6.1 doesn't see that it is bounded.
 */
static __always_inline __u64 sum_room(__u8 *room, __u32 bytes)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < SUMMED_TIMES && bytes; i++) {
		__u32 part = (bytes < SUMMED_AT_ONCE ? bytes : SUMMED_AT_ONCE) - 4;

		barrier_var(part);
		part = (part & (SUMMED_AT_ONCE - 1)) + 4;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)(room + i * SUMMED_AT_ONCE), part,
					    0);
		bytes -= part;
	}
	return sum;
}

/* Says if a packet's checksum is still to be filled in, and what its field holds until then. */
static __always_inline bool field_to_fill(struct __sk_buff *skb, const struct packet *p,
					  __u16 *field)
{
	bool udp = p->tuple.protocol == IPPROTO_UDP;
	__u32 at = p->transport +
		   (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__be16 length = bpf_htons(skb->len - p->transport);

	if ((!udp && p->tuple.protocol != IPPROTO_TCP) ||
	    bpf_skb_load_bytes(skb, at, field, sizeof(*field)) ||
	    (udp && bpf_skb_load_bytes(skb, p->transport + offsetof(struct udphdr, len), &length,
				       sizeof(length))))
		return false;
	return awaits_checksum(skb, p, *field, bpf_ntohs(length));
}

/*
 * Loads what is quoted and returns its sum as it will be. Once a checksum is filled in, all from
 * the transport header on comes to what the field held before, complemented.
 */
static __always_inline long sum_quoted(struct __sk_buff *skb, const struct packet *p, __u32 bytes)
{
	__u32 zero = 0, headers = p->transport - ETH_HLEN;
	__u8 *room = look_up(&quoted_room, &zero);
	__u16 field;

	if (!room || !within(&bytes, QUOTED_LEAST, QUOTED_MOST_V6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, room, bytes))
		return -1;
	if (!field_to_fill(skb, p, &field))
		return sum_room(room, bytes);
	return headers < bytes ? sum_room(room, headers) + (__u16)~field : -1;
}

/* Turns a packet into an error about it. */
static __always_inline long make_error(struct __sk_buff *skb, const struct packet *p,
				       const struct address *from, struct error *icmp)
{
	const __u32 header = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u8 protocol = p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	__u32 quoted = packet_length(skb, p) - ETH_HLEN;
	__u64 sum;
	long part;

	if (p->tuple.protocol == IPPROTO_SCTP && checksum_state(skb) == CHECKSUM_PARTIAL)
		return -1;
	if (quoted > (p->v6 ? QUOTED_MOST_V6 : QUOTED_MOST))
		quoted = p->v6 ? QUOTED_MOST_V6 : QUOTED_MOST;
	quoted &= ~3;
	part = sum_quoted(skb, p, quoted);
	if (part < 0)
		return -1;
	sum = part + sum_words(icmp, sizeof(*icmp));
	if (p->v6)
		sum += sum_pseudo(p, from, protocol, sizeof(*icmp) + quoted);
	icmp->checksum = ~sum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) ||
	    bpf_skb_adjust_room(skb, header + sizeof(*icmp), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	return write_ip(skb, p, from, protocol, sizeof(*icmp) + quoted)
		       ?: bpf_skb_store_bytes(skb, ETH_HLEN + header, icmp, sizeof(*icmp),
					      BPF_F_RECOMPUTE_CSUM);
}

/*
 * Tells a packet's sender of an error, by type and code; mtu in network byte order. Returns the
 * verdict: who may not be told (answer.h) is not, no error is told of, and the packet is dropped in
 * any case. Global, as
 * refuse_packet.
 */
__noinline int tell(struct __sk_buff *skb, __u32 error, __u32 mtu)
{
	struct error icmp = { .type = error >> 8, .code = error, .mtu = mtu };
	const struct packet *p = packet_now();
	struct address from;

	if (!p || is_error(skb, p) || !may_be_answered(skb, p))
		return TC_ACT_SHOT;
	from = p->tuple.destination;
	if (error == ICMP_TIME_EXCEEDED || error == ICMPV6_TIME_EXCEEDED) {
		from = host_address(!p->v6);
		if (!address_is_one_host(&from))
			return TC_ACT_SHOT;
	}
	if (make_error(skb, p, &from, &icmp))
		return TC_ACT_SHOT;
	return send_back(skb, p);
}

/* prohibited: by a policy. */
static __always_inline int tell_unreachable(struct __sk_buff *skb, const struct packet *p,
					    bool prohibited)
{
	if (p->v6)
		return tell(skb, prohibited ? ICMPV6_PROHIBITED : ICMPV6_PORT_UNREACHABLE, 0);
	return tell(skb, prohibited ? ICMP_PROHIBITED : ICMP_PORT_UNREACHABLE, 0);
}

/* mtu: what would go on in one piece, from its IP header on. */
static __always_inline int tell_too_big(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	return tell(skb, p->v6 ? ICMPV6_TOO_BIG : ICMP_TOO_BIG, bpf_htonl(mtu));
}

static __always_inline int tell_time_exceeded(struct __sk_buff *skb, const struct packet *p)
{
	return tell(skb, p->v6 ? ICMPV6_TIME_EXCEEDED : ICMP_TIME_EXCEEDED, 0);
}
