/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What goes around a frame that is sent to another node where there is no socket buffer, byte by
 * byte what the kernel's device writes where there is one: outer Ethernet, IP, UDP, VXLAN.
 */
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

#include "address.h"
#include "checksum.h"
#include "frame.h"
#include "node.h"
#include "ports.h"
#include "wrapping.h"

/* RFC 7348 5. */
struct vxlan {
	__be32 flags;
	__be32 vni; /* in its upper 24 bits */
};

#define VXLAN_HAS_VNI 0x08000000

struct datagram {
	struct udphdr udp;
	struct vxlan vxlan;
};

/* Explicit congestion notification, RFC 6040: what is within shows outside, but that congestion was
 * met before. */
#define ECN_MASK 3
#define ECN_ECT0 2

static __always_inline __u8 outer_ecn(__u8 inner)
{
	inner &= ECN_MASK;
	return inner == ECN_MASK ? ECN_ECT0 : inner;
}

/* A flow keeps its way through the fabric: by its hash, of the ports that the kernel takes. */
static __always_inline __be16 outer_port(const struct tuple *t)
{
	const __u64 *words = (const __u64 *)t;
	__u64 hash = 0;

	for (int i = 0; i < 5; i++) {
		hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
	}
	return bpf_htons(ephemeral_first +
			 ((hash >> 32) * (__u32)(ephemeral_last - ephemeral_first) >> 32));
}

static __always_inline void fill_datagram(struct datagram *d, __be16 source, __u32 length)
{
	*d = (struct datagram){
		.udp = {
			.source = source,
			.dest = bpf_htons(tunnel_port),
			.len = bpf_htons(sizeof(*d) + length),
		},
		.vxlan = {
			.flags = bpf_htonl(VXLAN_HAS_VNI),
			.vni = bpf_htonl(tunnel_vni << 8),
		},
	};
}

/* A frame of that length goes around what wraps it. */
static __always_inline void fill_ipv4(struct iphdr *ip, const struct node_ends *ends, __u8 ecn,
				      __u32 length)
{
	*ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tos = ecn,
		.tot_len = bpf_htons(sizeof(*ip) + sizeof(struct datagram) + length),
		.id = bpf_get_prandom_u32(), /* routers may take it apart, RFC 6864 */
		.ttl = WRAPPED_TTL,
		.protocol = IPPROTO_UDP,
		.saddr = ends->from.words[3],
		.daddr = ends->to.words[3],
	};
	ip->check = ~sum_fold(sum_words(ip, sizeof(*ip)));
}

static __always_inline void fill_ipv6(struct ipv6hdr *ip, const struct node_ends *ends, __u8 ecn,
				      __u32 length)
{
	*ip = (struct ipv6hdr){
		.version = 6,
		.flow_lbl = { ecn << 4 },
		.payload_len = bpf_htons(sizeof(struct datagram) + length),
		.nexthdr = IPPROTO_UDP,
		.hop_limit = WRAPPED_TTL,
	};
	__builtin_memcpy(&ip->saddr, &ends->from, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &ends->to, sizeof(ip->daddr));
}
