/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What wrapping does to a packet, whoever writes what goes around it. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "checksum.h"
#include "node.h"
#include "packet.h"

/* Set at load. */
volatile const __u32 tunnel_vni;  /* of the nodes' packets: others' are foreign */
volatile const __u16 tunnel_port; /* UDP, host byte order */

/* What wrapping adds to a packet: the inner Ethernet header, VXLAN's, UDP's and the outer IP's. */
#define WRAPPING_V4  (ETH_HLEN + 8 + sizeof(struct udphdr) + sizeof(struct iphdr))
#define WRAPPING_V6  (ETH_HLEN + 8 + sizeof(struct udphdr) + sizeof(struct ipv6hdr))

#define WRAPPED_TTL  64
#define WRAPPED_MARK 0x02de /* of both Ethernet addresses: locally administered */

/* Says if a datagram may be one that nodes wrap. At no cost for what isn't. */
static __always_inline bool may_be_wrapped(const struct packet *p)
{
	return tunnel_port && p->tuple.destination_port == bpf_htons(tunnel_port) &&
	       p->tuple.protocol == IPPROTO_UDP;
}

struct wrapped_ethernet {
	__be16 mark;
	__be32 backend;
	__be16 node_mark;
	__be32 node;
} __attribute__((packed));

/* Takes one hop off an IP header in a packet. Returns false if none is left. */
static __always_inline bool take_hop_at(void *start, const void *end, bool v6)
{
	if (v6) {
		struct ipv6hdr *ip = start;

		if ((void *)(ip + 1) > end || ip->hop_limit <= 1)
			return false;
		ip->hop_limit--;
	} else {
		struct iphdr *ip = start;
		__u16 old, new;

		if ((void *)(ip + 1) > end || ip->ttl <= 1)
			return false;
		old = *(__u16 *)&ip->ttl;
		ip->ttl--;
		new = *(__u16 *)&ip->ttl;
		ip->check = checksum_update(ip->check, sum_change_port(old, new));
	}
	return true;
}

/* Writes the numbers in place of a frame's addresses. */
static __always_inline void number_ethernet(struct wrapped_ethernet *eth, __u32 backend)
{
	*eth = (struct wrapped_ethernet){
		.mark = bpf_htons(WRAPPED_MARK),
		.backend = bpf_htonl(backend),
		.node_mark = bpf_htons(WRAPPED_MARK),
		.node = bpf_htonl(own_node),
	};
}
