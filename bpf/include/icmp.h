/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about packets of a flow: who says them quotes a packet as it was on its way, which
 * its sender never sent. It is given back its own, so that path MTU discovery (RFC 1191, RFC 8201)
 * works through Services, whichever end has to send less. The quoted packet the other way round is
 * as if it had come by this hook in the error's direction, and is exchanged as that would be:
 *
 *        error of              quotes                   becomes
 *   out  a router              client:c → backend:b     client:p → Service:s
 *   out  the backend           client:c → backend:b     client:p → Service:s   from the Service
 *   in   a router, the client  Service:s → client:p     backend:b → client:c   to the backend
 *   in   a router, the backend node:m → backend:b       client:c → backend:b   to the client
 *
 * Up to four checksums change: the quoted IP header's, the quoted transport's if it was quoted that
 * far (TCP's is beyond the eight bytes that must be, RFC 792), the message's, the outer IP
 * header's. All by difference, so what was wrong stays wrong; the device's sum of the whole packet
 * stays, since each change is taken back by a checksum within it.
 *
 * An error about a later fragment names no port, and passes as it is. errors.h has which way each
 * of them goes.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "adopt.h"
#include "checksum.h"
#include "extension.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"

/* Destination unreachable, time exceeded, parameter problem; for IPv6 also packet too big. */
static __always_inline bool icmp_is_error(__u8 type, bool v6)
{
	return v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

static __always_inline bool is_error(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	return p->tuple.protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) &&
	       !bpf_skb_load_bytes(skb, p->transport, &type, sizeof(type)) &&
	       icmp_is_error(type, p->v6);
}

/* What an error quotes: where its headers are in the frame, and its ends. */
struct quoted {
	__u32 ip;
	__u32 transport;
	__u32 end;	  /* of the message */
	struct tuple key; /* the other way round */
};

/* Addresses are looked at as they lie in the packet. */
static __always_inline bool load_address(struct __sk_buff *skb, __u32 offset, bool v6,
					 struct address *a)
{
	if (v6)
		return !bpf_skb_load_bytes(skb, offset, a, sizeof(*a));
	*a = address_of_v4(0);
	return !bpf_skb_load_bytes(skb, offset, &a->words[3], sizeof(a->words[3]));
}

static __always_inline long store_address(struct __sk_buff *skb, __u32 offset, bool v6,
					  const struct address *a)
{
	return v6 ? bpf_skb_store_bytes(skb, offset, a, sizeof(*a), 0)
		  : bpf_skb_store_bytes(skb, offset, &a->words[3], sizeof(a->words[3]), 0);
}

static __always_inline bool read_quoted_v4(struct __sk_buff *skb, struct quoted *q)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, q->ip, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
	    bpf_ntohs(ip.frag_off) & IPV4_FRAGMENT_OFFSET)
		return false;
	q->transport = q->ip + ip.ihl * 4;
	q->key.protocol = ip.protocol;
	return true;
}

static __always_inline bool read_quoted_v6(struct __sk_buff *skb, struct quoted *q)
{
	struct chain c = { .offset = q->ip + sizeof(struct ipv6hdr) };
	__u8 start[8];

	if (bpf_skb_load_bytes(skb, q->ip, start, sizeof(start)) || start[0] >> 4 != 6)
		return false;
	c.next = start[6];
	skip_extensions(skb, &c);
	q->transport = c.offset;
	q->key.protocol = c.next;
	return !c.later;
}

/* The addresses and the protocol. */
static __always_inline bool read_quoted_ends(struct __sk_buff *skb, bool v6, struct quoted *q)
{
	const __u32 source = v6 ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr);
	const __u32 size = v6 ? 16 : 4;

	return (v6 ? read_quoted_v6(skb, q) : read_quoted_v4(skb, q)) &&
	       load_address(skb, q->ip + source, v6, &q->key.destination) &&
	       load_address(skb, q->ip + source + size, v6, &q->key.source);
}

static __always_inline bool read_quoted(struct __sk_buff *skb, bool v6, struct quoted *q)
{
	__be16 ports[4]; /* and four bytes more: less is not quoted */

	if (!read_quoted_ends(skb, v6, q) || !carries_services(q->key.protocol) ||
	    q->transport + sizeof(ports) > q->end ||
	    bpf_skb_load_bytes(skb, q->transport, ports, sizeof(ports)))
		return false;
	q->key.source_port = ports[1];
	q->key.destination_port = ports[0];
	return true;
}

/* Where the IP packet ends in the frame, which may be padded. */
static __always_inline __u32 packet_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 at = ETH_HLEN + (p->v6 ? offsetof(struct ipv6hdr, payload_len)
				     : offsetof(struct iphdr, tot_len));
	__u32 before = ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : 0);
	__be16 length = 0;

	bpf_skb_load_bytes(skb, at, &length, sizeof(length));
	return length ? before + bpf_ntohs(length) : skb->len;
}

/* Updates a checksum field by a change. Returns what that changes in a sum that counts it. */
static __always_inline __u64 update_field(struct __sk_buff *skb, __u32 offset, __u64 change,
					  bool udp)
{
	__u16 old, new;

	if (bpf_skb_load_bytes(skb, offset, &old, sizeof(old)) || (udp && !old))
		return 0;
	new = checksum_update(old, change);
	if (udp && !new)
		new = 0xffff;
	bpf_skb_store_bytes(skb, offset, &new, sizeof(new), 0);
	return sum_change_port(old, new);
}

/* The quoted transport checksum, if there is one and it was quoted. */
static __always_inline __u64 update_quoted(struct __sk_buff *skb, const struct quoted *q,
					   __u64 change)
{
	bool udp = q->key.protocol == IPPROTO_UDP;
	__u32 at = q->transport +
		   (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));

	if (q->key.protocol == IPPROTO_SCTP || at + sizeof(__u16) > q->end)
		return 0;
	return update_field(skb, at, change, udp);
}

/* The quoted packet's ends, or the error's own. q->key has what was there, to what will be. */
static __noinline int exchange_quoted(struct __sk_buff *skb, const struct packet *p,
				      const struct quoted *q, const struct flow *flow)
{
	const bool v6 = p->v6, in = !q->key.leaving;
	const __u32 source = v6 ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr);
	const __u32 destination = source + (v6 ? 16 : 4);
	const struct address *old = in ? &q->key.destination : &q->key.source;
	const struct address *own = in ? &p->tuple.destination : &p->tuple.source;
	__u64 addresses = sum_change_address(old, &flow->addr), change;
	__be16 ports[2];

	/* The quoted packet's source is the error's destination. */
	ports[0] = in ? flow->port : flow->other_port;
	ports[1] = in ? flow->other_port : flow->port;
	change = addresses + sum_change_port(q->key.destination_port, ports[0]) +
		 sum_change_port(q->key.source_port, ports[1]);
	if (bpf_skb_store_bytes(skb, q->transport, ports, sizeof(ports), 0) ||
	    store_address(skb, q->ip + (in ? source : destination), v6, &flow->addr))
		return TC_ACT_UNSPEC;
	change += update_quoted(skb, q, change);
	if (!v6)
		change +=
			update_field(skb, q->ip + offsetof(struct iphdr, check), addresses, false);
	if (address_equal(own, old)) {
		store_address(skb, ETH_HLEN + (in ? destination : source), v6, &flow->addr);
		if (v6) /* in the pseudo header */
			change += addresses;
		else
			update_field(skb, ETH_HLEN + offsetof(struct iphdr, check), addresses,
				     false);
	}
	update_field(skb, p->transport + 2, change, false);
	return TC_ACT_UNSPEC;
}

/*
 * Reads an ICMP error and the ends of what it quotes. Returns false for all else, and for one that
 * doesn't go to who sent what it quotes. q->key.leaving is the caller's.
 */
static __always_inline bool read_error(struct __sk_buff *skb, const struct packet *p,
				       struct quoted *q)
{
	if (p->first || p->later || !is_error(skb, p))
		return false;
	q->ip = p->transport + 8;
	q->end = packet_length(skb, p);
	return q->end <= skb->len && read_quoted(skb, p->v6, q) &&
	       address_equal(&q->key.destination, &p->tuple.destination);
}

/* The flow of what was quoted; NULL if it is none's. One that is to be masqueraded has no address
 * yet, and its own was never sent. */
static __always_inline struct flow *flow_of_quoted(const struct packet *p, const struct quoted *q)
{
	struct flow *flow = find_flow(&q->key);

	if (!flow || p->v6 == address_is_v4(&flow->addr) ||
	    !(flow->addr.words[0] | flow->addr.words[1] | flow->addr.words[2] |
	      flow->addr.words[3]))
		return NULL;
	return flow;
}
