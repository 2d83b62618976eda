/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A frame's headers before there is a socket buffer (XDP). Only what is plain is read: Ethernet, IP
 * without options or extension headers and in one piece, all headers in the first buffer, lengths
 * that agree. Everything else is the packet programs' to read, which get what is passed on.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "operate.h"
#include "packet.h"

/* The kernel tells how long a frame of several buffers is, Linux 5.18. Set at load. */
volatile const bool sees_buffers;

/* As packet_start and packet_end. */

static __always_inline void *frame_start(const struct xdp_md *xdp)
{
	void *start;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(start)
		     : "r"(xdp), "i"(offsetof(struct xdp_md, data)));
	return start;
}

static __always_inline void *frame_end(const struct xdp_md *xdp)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(end)
		     : "r"(xdp), "i"(offsetof(struct xdp_md, data_end)));
	return end;
}

static __always_inline __u32 frame_length(struct xdp_md *xdp)
{
	if (sees_buffers)
		return bpf_xdp_get_buff_len(xdp);
	return frame_end(xdp) - frame_start(xdp);
}

/*
 * The interfaces that have this program, by index, and their hardware addresses: what is sent to
 * another is another host's, see is_another_hosts. Private to a load of the programs; user space
 * fills it before it attaches.
 */
struct wire {
	__u8 address[ETH_ALEN];
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct wire);
} wires SEC(".maps");

/* Says if a frame is for this host alone. Test runs seem to come by the loopback interface. */
static __always_inline bool is_this_hosts(const struct xdp_md *xdp)
{
	__u32 ifindex = xdp->ingress_ifindex;
	struct ethhdr *eth = frame_start(xdp);
	struct wire *wire;

	if ((void *)(eth + 1) > frame_end(xdp))
		return false;
	if (ifindex == LOOPBACK_IFINDEX)
		return true;
	wire = look_up(&wires, &ifindex);
	return wire && !__builtin_memcmp(wire->address, eth->h_dest, ETH_ALEN);
}

/* Reads the header behind a plain IP header. rest is how long it and what follows are, as IP says.
 */
static __always_inline bool read_plain_transport(const struct xdp_md *xdp, struct packet *p,
						 void *header, __u32 rest)
{
	struct tcphdr *tcp = header;

	if (header + sizeof(struct udphdr) > frame_end(xdp) || rest < sizeof(struct udphdr))
		return false;
	p->tuple.source_port = tcp->source; /* UDP and SCTP have their ports in the same place */
	p->tuple.destination_port = tcp->dest;
	switch (p->tuple.protocol) {
	case IPPROTO_UDP:
		return true;
	case IPPROTO_SCTP:
		return header + SCTP_HEADER <= frame_end(xdp) && rest >= SCTP_HEADER;
	case IPPROTO_TCP:
		break;
	default:
		return false;
	}
	if ((void *)(tcp + 1) > frame_end(xdp) || rest < sizeof(*tcp) || tcp->doff < 5)
		return false;
	p->sequence = bpf_ntohl(tcp->seq);
	p->ack = tcp->ack;
	if (p->ack)
		p->acknowledged = bpf_ntohl(tcp->ack_seq);
	p->syn = tcp->syn && !tcp->ack;
	p->syn_ack = tcp->syn && tcp->ack;
	p->fin = tcp->fin;
	p->rst = tcp->rst;
	return true;
}

static __always_inline bool read_plain_ipv4(struct xdp_md *xdp, struct packet *p)
{
	struct iphdr *ip = frame_start(xdp) + ETH_HLEN;
	__u32 length;

	if ((void *)(ip + 1) > frame_end(xdp) || ip->version != 4 || ip->ihl != 5 ||
	    ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS))
		return false;
	length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) || length + ETH_HLEN > frame_length(xdp))
		return false;
	p->tuple.source = address_of_v4(ip->saddr);
	p->tuple.destination = address_of_v4(ip->daddr);
	p->tuple.protocol = ip->protocol;
	p->transport = ETH_HLEN + sizeof(*ip);
	return read_plain_transport(xdp, p, ip + 1, length - sizeof(*ip));
}

static __always_inline bool read_plain_ipv6(struct xdp_md *xdp, struct packet *p)
{
	struct ipv6hdr *ip = frame_start(xdp) + ETH_HLEN;
	__u32 length;

	if ((void *)(ip + 1) > frame_end(xdp) || ip->version != 6)
		return false;
	length = bpf_ntohs(ip->payload_len);
	if (length + sizeof(*ip) + ETH_HLEN > frame_length(xdp))
		return false;
	__builtin_memcpy(&p->tuple.source, &ip->saddr, sizeof(p->tuple.source));
	__builtin_memcpy(&p->tuple.destination, &ip->daddr, sizeof(p->tuple.destination));
	p->v6 = true;
	p->tuple.protocol = ip->nexthdr;
	p->transport = ETH_HLEN + sizeof(*ip);
	return read_plain_transport(xdp, p, ip + 1, length);
}

/* Reads a plain frame's headers, as read_packet reads a packet's. False for all others. p is zeroed
 * by the caller. */
static __always_inline bool read_frame(struct xdp_md *xdp, struct packet *p)
{
	struct ethhdr *eth = frame_start(xdp);

	if ((void *)(eth + 1) > frame_end(xdp))
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return read_plain_ipv4(xdp, p);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return read_plain_ipv6(xdp, p);
	return false;
}
