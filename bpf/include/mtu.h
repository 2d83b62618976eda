/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How large a packet may be that is wrapped for another node: what the way there takes in one
 * piece, by the kernel's routes and what it has learned of them (RFC 1191, RFC 8201), less what
 * wrapping adds. What is larger
 *
 *   over IPv4, without "don't fragment", or IPv6 of what each link takes   is wrapped as it is: the
 *                                   kernel sends the wrapping in fragments, which lose nothing
 *   else                            is told to its sender, with the MTU that would do
 *
 * Over IPv6 the kernel drops a wrapping that is too large: there nothing is spared.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "icmp.h"
#include "node.h"
#include "packet.h"
#include "route.h"
#include "steer.h"
#include "wrapping.h"

#define IPV4_DONT_FRAGMENT 0x4000

/* Each link of IPv6 takes so much (RFC 8200 5): what is as short needs no look at the routes, and
 * no sender is asked for less. */
#define MTU_LEAST_V6 1280

/* In place of a size where each segment has its own: SCTP's. */
#define GSO_BY_FRAGS 0xffff

/* How long a packet is on the wire, from its IP header on: of many that the kernel takes for one,
 * how long each will be. */
static __always_inline __u32 length_in_pieces(struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = skb->gso_size, header = sizeof(struct udphdr);
	__u8 words;

	if (!size)
		return packet_length(skb, p) - ETH_HLEN;
	if (size == GSO_BY_FRAGS)
		return 0;
	if (p->tuple.protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->transport + 12, &words, sizeof(words)))
			return 0;
		header = (words >> 4) * 4;
	}
	return p->transport - ETH_HLEN + header + size;
}

/* Says if the kernel may send what wraps a packet in fragments: to an IPv4 address it does. */
static __always_inline bool may_go_in_pieces(struct __sk_buff *skb, const struct packet *p,
					     __u32 length)
{
	__be16 flags;

	if (p->v6)
		return length <= MTU_LEAST_V6;
	return !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, frag_off), &flags,
				   sizeof(flags)) &&
	       !(bpf_ntohs(flags) & IPV4_DONT_FRAGMENT);
}

/*
 * Returns 0 for a packet that may be wrapped and sent between these ends, else the most that may be
 * of its family. What the routes can't tell the kernel will find out. Before Linux 5.12 they say no
 * number: then it is what each link takes. Where only the device forwards, it is asked as if by
 * that. __noinline: not for small packets.
 */
static __noinline __u32 most_wrapped(struct __sk_buff *skb, const struct packet *p,
				     const struct node_ends *ends)
{
	bool v4 = address_is_v4(&ends->to);
	__u32 wrapping = v4 ? WRAPPING_V4 : WRAPPING_V6, most;
	__u32 length = length_in_pieces(skb, p);
	struct bpf_fib_lookup way = {
		.l4_protocol = IPPROTO_UDP,
		.dport = bpf_htons(tunnel_port),
		.ifindex = LOOPBACK_IFINDEX,
	};
	long found;

	if (length + wrapping <= MTU_LEAST_V6 || (v4 && may_go_in_pieces(skb, p, length)))
		return 0;
	most = length + wrapping;
	way.tot_len = routed_length(most);
	set_ends(&way, &ends->from, &ends->to);
	found = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED) {
		way.ifindex = tunnel.ifindex;
		found = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	}
	if (found != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	most = way.mtu_result < most && way.mtu_result > wrapping ? way.mtu_result : MTU_LEAST_V6;
	most -= wrapping;
	return p->v6 && most < MTU_LEAST_V6 ? MTU_LEAST_V6 : most;
}
