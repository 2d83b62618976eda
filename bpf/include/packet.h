/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet's headers: read once, at its first program. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "extension.h"
#include "reasons.h"
#include "route.h"

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS  0x2000

#define SCTP_HEADER	     12 /* without chunks */

/*
 * Whether a number of bytes is one to read or write by. It is made anew from how far it is above
 * the least: of two comparisons the verifier of Linux 6.1 doesn't see that zero is excluded.
 */
static __always_inline bool within(__u32 *bytes, __u32 least, __u32 most)
{
	__u32 above = *bytes - least;

	barrier_var(above);
	*bytes = above + least;
	return above <= most - least;
}

struct packet {
	struct tuple tuple; /* ports are 0 where the packet has none to be read */
	__u32 transport;    /* offset of the header behind IP's, or of a later fragment's data */
	__u32 sequence;	    /* TCP, host byte order */
	__u32 acknowledged; /* TCP, host byte order; 0 without ACK */
	__u32 id;	    /* of a fragment's datagram, as in the header */
	__u32 epoch;	    /* of policy_v1, at a pod's interface; 0: nothing is judged here */
	__u32 node;	    /* that wrapped it for this one; 0: it came as it is */
	__u32 backend;	    /* that the node picked, by id; 0: it is an answer on its way back */
	__u32 service;	    /* the set of what goes on to another node; 0: not known */
	bool v6;
	bool syn; /* of TCP; the first of a connection: SYN without ACK */
	bool fin;
	bool rst;
	bool ack;
	bool syn_ack; /* the answer to a SYN */
	bool first;   /* fragment of a datagram: it has the ports. See fragment.h */
	bool later;   /* fragment of a datagram: it has none */
	/*
	 * Why the packet cannot be translated, if it cannot: it is dropped only if it is for a
	 * Service. REASON_NONE for a packet that can.
	 */
	__u8 reason;
};

/*
 * Room for a packet's headers, one a processor, zeroed: NULL never happens. Not on the stack: a
 * verifier remembers of a stack which values came together, and would walk all that follows once
 * for each way through the headers; of a map's value it knows nothing. A packet that is sent from
 * within the program (bpf_clone_redirect) may overwrite it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

static __always_inline struct packet *packet_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&packets, &zero);
}

static __always_inline struct packet *packet_room(void)
{
	struct packet *p = packet_now();

	if (p)
		__builtin_memset(p, 0, sizeof(*p));
	return p;
}

/*
 * The packet's bounds. In assembly, since clang likes to compute the address of a context's field
 * in one place for several loads, and the verifier refuses to load by such an address.
 */
static __always_inline void *packet_start(const struct __sk_buff *skb)
{
	void *start;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(start)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return start;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(end)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

/* The verifier of older kernels forgets what it knew of a number that was on the stack. */
static __always_inline void *transport_start(const struct __sk_buff *skb, const struct packet *p)
{
	return packet_start(skb) + (p->transport & 0xff);
}

/*
 * Makes the first bytes of a packet readable in place. They are, except for raw sockets and tunnels
 * that put headers into pages. All pointers into the packet are invalid afterwards, and must be
 * compared with its end once more.
 */
static __always_inline void bring_in(struct __sk_buff *skb, __u32 bytes)
{
	if (packet_start(skb) + bytes > packet_end(skb) && bytes <= skb->len)
		bpf_skb_pull_data(skb, bytes);
}

/* Ports of a packet that is not translated. Returns false if it has none. */
static __always_inline bool read_ports(struct __sk_buff *skb, struct packet *p)
{
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, p->transport, ports, sizeof(ports)))
		return false;
	p->tuple.source_port = ports[0];
	p->tuple.destination_port = ports[1];
	return true;
}

static __always_inline bool read_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip;
	__u16 fragment;

	bring_in(skb, ETH_HLEN + sizeof(*ip));
	ip = packet_start(skb) + ETH_HLEN;
	if ((void *)(ip + 1) > packet_end(skb) || ip->version != 4 || ip->ihl < 5)
		return false;
	p->tuple.source = address_of_v4(ip->saddr);
	p->tuple.destination = address_of_v4(ip->daddr);
	p->tuple.protocol = ip->protocol;
	p->transport = ETH_HLEN + ip->ihl * 4;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS)) {
		p->id = ip->id;
		p->later = fragment & IPV4_FRAGMENT_OFFSET;
		p->first = !p->later;
	}
	return carries_services(p->tuple.protocol);
}

/* __noinline: a rare path. Returns false where no ports can be found. */
static __noinline bool read_extensions(struct __sk_buff *skb, struct packet *p)
{
	struct chain c = { .offset = p->transport, .next = p->tuple.protocol };

	skip_extensions(skb, &c);
	p->transport = c.offset;
	p->tuple.protocol = c.next;
	p->id = c.id;
	p->first = c.first;
	p->later = c.later;
	p->reason = c.reason;
	/* What a later fragment's data is, its first says: here it may be an extension, too. */
	return carries_services(c.next) || (c.later && is_extension(c.next));
}

static __always_inline bool read_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip;

	bring_in(skb, ETH_HLEN + sizeof(*ip));
	ip = packet_start(skb) + ETH_HLEN;
	if ((void *)(ip + 1) > packet_end(skb) || ip->version != 6)
		return false;
	__builtin_memcpy(&p->tuple.source, &ip->saddr, sizeof(p->tuple.source));
	__builtin_memcpy(&p->tuple.destination, &ip->daddr, sizeof(p->tuple.destination));
	p->v6 = true;
	p->tuple.protocol = ip->nexthdr;
	p->transport = ETH_HLEN + sizeof(*ip);
	return carries_services(ip->nexthdr) || read_extensions(skb, p);
}

static __always_inline bool read_transport(struct __sk_buff *skb, struct packet *p)
{
	__u32 end = p->transport & 0xff;
	struct tcphdr *tcp;

	if (p->later)
		return true;
	if (p->reason)
		return read_ports(skb, p);
	if (p->tuple.protocol == IPPROTO_UDP)
		end += sizeof(struct udphdr);
	else
		end += p->tuple.protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : SCTP_HEADER;
	bring_in(skb, end < skb->len ? end : skb->len);
	tcp = transport_start(skb, p);
	if ((void *)tcp + sizeof(struct udphdr) > packet_end(skb))
		return false;
	p->tuple.source_port = tcp->source; /* UDP and SCTP have their ports in the same place */
	p->tuple.destination_port = tcp->dest;
	if (p->tuple.protocol == IPPROTO_UDP)
		return true;
	/* A first fragment without all of the header is an attack, RFC 1858 and RFC 8200 4.5. */
	if (p->tuple.protocol == IPPROTO_SCTP) {
		if ((void *)tcp + SCTP_HEADER > packet_end(skb))
			p->reason = REASON_MALFORMED;
		return true;
	}
	if ((void *)(tcp + 1) > packet_end(skb) || tcp->doff < 5) {
		p->reason = REASON_MALFORMED;
		return true;
	}
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

/*
 * Reads the headers. Returns false for a packet without ports, and so no Service's whatever the
 * tables say: no IP, or another protocol than TCP, UDP and SCTP. What was read of such a packet is
 * in p all the same; so are the reason of one whose ports are out of sight, and the addresses of a
 * later fragment, which is true. p is zeroed by the caller.
 */
static __always_inline bool read_packet(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read_ipv4(skb, p) && read_transport(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return read_ipv6(skb, p) && read_transport(skb, p);
	return false;
}

/*
 * Lengths that contradict each other, looked at only before a packet begins a flow or is answered:
 * the receiver checks them again in any case. A zero total length is a packet of more than 64 KiB
 * (BIG TCP).
 */
static __always_inline bool lengths_contradict(struct __sk_buff *skb, const struct packet *p)
{
	__u32 length, header = p->tuple.protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : 8;
	void *start = packet_start(skb) + ETH_HLEN;
	__be16 field;

	if (p->v6) {
		struct ipv6hdr *ip = start;

		if ((void *)(ip + 1) > packet_end(skb))
			return true;
		field = ip->payload_len;
		length = bpf_ntohs(field) + ETH_HLEN + sizeof(*ip);
	} else {
		struct iphdr *ip = start;

		if ((void *)(ip + 1) > packet_end(skb))
			return true;
		field = ip->tot_len;
		length = bpf_ntohs(field) + ETH_HLEN;
	}
	return field && (length > skb->len || length < p->transport + header);
}
