/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The answer to a client that is refused, made out of the client's own packet: a TCP RST (RFC 9293
 * 3.10.7.1), an SCTP ABORT (RFC 9260 8.4) or an ICMP port unreachable (RFC 792, RFC 4443 3.1),
 * from the address dialled, sent back through the interface the packet came by, or as if it had
 * come by the one it was about to leave by. To SCTP an ICMP
 * message would be a hint, after which Linux goes on trying; an ABORT ends the attempt at once.
 *
 * IPv4 options and IPv6 extension headers are quoted in ICMP messages and left out of the others.
 * A first fragment is answered as what it is the start of; a VLAN's tag, which is beside the
 * packet, stays.
 *
 * A packet that waits for its checksum (CHECKSUM_PARTIAL) keeps doing so whatever is written into
 * it. The answers stay right whether that happens or not: RST and ABORT have their checksum field
 * where the packet had it; the ICMP message quotes the datagram with the field in its old place,
 * and its own checksum counts what will be there.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "sctp.h"

/* Answers per second and processor, and how many may come at once. Set at load. */
volatile const __u32 refusals_per_second = 1000;

struct allowance {
	__u64 time;   /* of the last refill, ns */
	__u64 tokens; /* in ns: an answer costs a second divided by refusals_per_second */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct allowance);
} refusals SEC(".maps");

#define SECOND		  1000000000ULL

#define TCP_FLAG_BYTE_ACK 0x10
#define TCP_FLAG_BYTE_RST 0x04

/* Destination unreachable: RFC 792 and RFC 4443 3.1 lay it out alike. */
struct unreachable {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 unused;
};

#define ICMP_UNREACHABLE	3
#define ICMP_PORT_UNREACHABLE	3
#define ICMPV6_UNREACHABLE	1
#define ICMPV6_PORT_UNREACHABLE 4

/* RFC 1812 5.2.7.1, RFC 4443 3.1. */
#define ICMP_PROHIBITED	  13
#define ICMPV6_PROHIBITED 1

/* What of the client's packet an ICMP message quotes beyond the IP header: ports, all of UDP. */
#define QUOTED 8

/* The longest headers that are quoted with it: those of packets that are translated. */
#define QUOTED_MOST (TRANSPORT_FARTHEST - ETH_HLEN + QUOTED)

/* Room for what is quoted, one a processor: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[(QUOTED_MOST + 7) / 8 * 8]);
} quoted_room SEC(".maps");

static __always_inline bool refusal_allowed(void)
{
	struct allowance *a;
	__u64 now, elapsed;
	__u32 zero = 0;

	a = look_up(&refusals, &zero);
	if (!a || !refusals_per_second)
		return false;
	now = bpf_ktime_get_ns();
	elapsed = now - a->time;
	a->time = now;
	a->tokens = elapsed > SECOND - a->tokens ? SECOND : a->tokens + elapsed;
	if (a->tokens < SECOND / refusals_per_second)
		return false;
	a->tokens -= SECOND / refusals_per_second;
	return true;
}

static __always_inline long swap_ethernet(struct __sk_buff *skb)
{
	struct ethhdr *eth = packet_start(skb);
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > packet_end(skb))
		return -1;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	return 0;
}

static __always_inline __u64 sum_address(const struct address *a)
{
	return (__u64)a->words[0] + a->words[1] + a->words[2] + a->words[3];
}

/* The pseudo header's sum (RFC 9293 3.1, RFC 8200 8.1). A mapped address's prefix must not count.
 */
static __always_inline __u64 sum_pseudo(const struct packet *p, __u8 protocol, __u16 length)
{
	const struct tuple *t = &p->tuple;
	__u64 sum = bpf_htons(protocol) + bpf_htons(length);

	if (p->v6)
		return sum + sum_address(&t->source) + sum_address(&t->destination);
	return sum + t->source.words[3] + t->destination.words[3];
}

/*
 * Says if a packet's checksum is still to be filled in. Kernels that don't tell are asked by what
 * the field would then hold: wrong once in 65,536 packets, for an answer that the client can do
 * without.
 */
static __always_inline bool awaits_checksum(struct __sk_buff *skb, const struct packet *p,
					    __u16 field, __u16 length)
{
	enum checksum_state state = checksum_state(skb);

	if (state == CHECKSUM_UNKNOWN)
		return field == sum_fold(sum_pseudo(p, p->tuple.protocol, length));
	return state == CHECKSUM_PARTIAL;
}

/* Words of a header on the stack. */
static __always_inline __u64 sum_words(const void *header, int bytes)
{
	const __u16 *word = header;
	__u64 sum = 0;

	for (int i = 0; i < bytes / 2; i++)
		sum += word[i];
	return sum;
}

/* The IP header of an answer: from the Service to the client. */
static __always_inline long write_ip(struct __sk_buff *skb, const struct packet *p, __u8 protocol,
				     __u16 length)
{
	const struct tuple *t = &p->tuple;

	if (p->v6) {
		struct ipv6hdr ip = {
			.version = 6,
			.payload_len = bpf_htons(length),
			.nexthdr = protocol,
			.hop_limit = 64,
		};

		__builtin_memcpy(&ip.saddr, &t->destination, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, &t->source, sizeof(ip.daddr));
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(ip) + length),
			.ttl = 64,
			.protocol = protocol,
			.saddr = t->destination.words[3],
			.daddr = t->source.words[3],
		};

		ip.check = ~sum_fold(sum_words(&ip, sizeof(ip)));
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
}

/* Sequence and acknowledgment of the RST to a segment, RFC 9293 3.10.7.1. */
static __always_inline void reset_of(struct __sk_buff *skb, const struct packet *p,
				     const struct tcphdr *segment, struct tcphdr *reset)
{
	__u32 length = skb->len - p->transport - segment->doff * 4;
	void *start = packet_start(skb) + ETH_HLEN;
	__u8 *flags = (__u8 *)reset + 13;

	*reset = (struct tcphdr){
		.source = segment->dest,
		.dest = segment->source,
		.doff = 5,
	};
	*flags = TCP_FLAG_BYTE_RST;
	if (segment->ack) {
		reset->seq = segment->ack_seq;
		return;
	}
	/* Ethernet pads short frames: the IP header's length counts, if it has one (BIG TCP). */
	if (!p->v6 && start + sizeof(struct iphdr) <= packet_end(skb)) {
		struct iphdr *ip = start;

		if (ip->tot_len)
			length = bpf_ntohs(ip->tot_len) + ETH_HLEN - p->transport -
				 segment->doff * 4;
	} else if (p->v6 && start + sizeof(struct ipv6hdr) <= packet_end(skb)) {
		struct ipv6hdr *ip = start;

		if (ip->payload_len)
			length = bpf_ntohs(ip->payload_len) + ETH_HLEN + sizeof(*ip) -
				 p->transport - segment->doff * 4;
	}
	*flags |= TCP_FLAG_BYTE_ACK;
	reset->ack_seq = bpf_htonl(p->sequence + length + segment->syn + segment->fin);
}

/* Where the transport header of an answer without options begins. */
static __always_inline __u32 plain_transport(const struct packet *p)
{
	return ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* Cuts a packet behind so many bytes of its transport header and takes options and extension
 * headers out, so that what is left of the IP header is to be written. */
static __always_inline long cut(struct __sk_buff *skb, const struct packet *p, __u32 bytes)
{
	__s32 extra = p->transport - plain_transport(p);

	return bpf_skb_change_tail(skb, p->transport + bytes, 0)
		       ?: (extra ? bpf_skb_adjust_room(skb, -extra, BPF_ADJ_ROOM_MAC, 0) : 0);
}

static __noinline long make_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct tcphdr segment, reset;
	bool partial;
	__u64 sum;

	if (bpf_skb_load_bytes(skb, p->transport, &segment, sizeof(segment)))
		return -1;
	partial = awaits_checksum(skb, p, segment.check, skb->len - p->transport);
	reset_of(skb, p, &segment, &reset);
	if (cut(skb, p, sizeof(reset)))
		return -1;
	sum = sum_pseudo(p, IPPROTO_TCP, sizeof(reset));
	reset.check = partial ? sum_fold(sum) : ~sum_fold(sum + sum_words(&reset, sizeof(reset)));
	return write_ip(skb, p, IPPROTO_TCP, sizeof(reset))
		       ?: bpf_skb_store_bytes(skb, plain_transport(p), &reset, sizeof(reset),
					      BPF_F_RECOMPUTE_CSUM);
}

#define SCTP_INIT	       1
#define SCTP_ABORT	       6
#define SCTP_SHUTDOWN_COMPLETE 14
#define SCTP_TAG_REFLECTED     1

/* RFC 9260 8.4: never to an ABORT or SHUTDOWN COMPLETE. */
static __noinline long make_abort(struct __sk_buff *skb, const struct packet *p)
{
	struct sctp_packet packet = {}, answer = {};
	const __u32 bytes = offsetof(struct sctp_packet, tag);
	enum checksum_state state = checksum_state(skb);

	/* Without a chunk its type is zero, which is DATA: any but those two does. */
	if (bpf_skb_load_bytes(skb, p->transport, &packet, bytes) &&
	    bpf_skb_load_bytes(skb, p->transport, &packet.header, sizeof(packet.header)))
		return -1;
	if (packet.type == SCTP_ABORT || packet.type == SCTP_SHUTDOWN_COMPLETE)
		return -1;
	answer.header.source = packet.header.dest;
	answer.header.dest = packet.header.source;
	answer.header.tag = packet.header.tag;
	answer.type = SCTP_ABORT;
	answer.flags = SCTP_TAG_REFLECTED;
	answer.length = bpf_htons(4);
	if (packet.type == SCTP_INIT) {
		if (bpf_skb_load_bytes(skb, p->transport, &packet, sizeof(packet)) || !packet.tag)
			return -1;
		answer.header.tag = packet.tag;
		answer.flags = 0;
	}
	if (state != CHECKSUM_PARTIAL && !(state == CHECKSUM_UNKNOWN && !packet.header.checksum))
		answer.header.checksum = sctp_checksum(&answer);
	if (cut(skb, p, bytes))
		return -1;
	return write_ip(skb, p, IPPROTO_SCTP, bytes)
		       ?: bpf_skb_store_bytes(skb, plain_transport(p), &answer, bytes,
					      BPF_F_RECOMPUTE_CSUM);
}

/* The sum of what is quoted beyond the IP header, as it will be once the datagram's checksum is
 * there. */
static __always_inline __u64 sum_quoted(struct __sk_buff *skb, const struct packet *p,
					const __u8 *quoted)
{
	__u64 sum = sum_words(quoted, QUOTED);
	struct udphdr udp;
	__u16 check;

	__builtin_memcpy(&udp, quoted, sizeof(udp));
	if (p->tuple.protocol != IPPROTO_UDP ||
	    !awaits_checksum(skb, p, udp.check, bpf_ntohs(udp.len)))
		return sum;
	/* Only the quoted bytes are left to be summed then. Zero is written as all ones. */
	check = ~sum_fold(sum);
	return sum - udp.check + (check ? check : 0xffff);
}

static __always_inline __u8 unreachable_code(bool v6, bool prohibited)
{
	if (prohibited)
		return v6 ? ICMPV6_PROHIBITED : ICMP_PROHIBITED;
	return v6 ? ICMPV6_PORT_UNREACHABLE : ICMP_PORT_UNREACHABLE;
}

static __noinline long make_unreachable(struct __sk_buff *skb, const struct packet *p,
					bool prohibited)
{
	const __u32 header = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 before = p->transport - ETH_HLEN, length = before + QUOTED, zero = 0;
	struct unreachable icmp = {
		.type = p->v6 ? ICMPV6_UNREACHABLE : ICMP_UNREACHABLE,
		.code = unreachable_code(p->v6, prohibited),
	};
	__u8 quoted[QUOTED];
	__u8 *headers;
	__u64 sum;

	headers = look_up(&quoted_room, &zero);
	/* All headers are of four bytes or a multiple. */
	before &= 0xfc;
	if (!headers || !within(&before, sizeof(struct iphdr), QUOTED_MOST - QUOTED) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, headers, before) ||
	    bpf_skb_load_bytes(skb, p->transport, quoted, sizeof(quoted)))
		return -1;
	sum = sum_words(&icmp, sizeof(icmp)) + sum_quoted(skb, p, quoted) +
	      (__u32)bpf_csum_diff(NULL, 0, (__be32 *)headers, before, 0);
	length += sizeof(icmp);
	if (p->v6)
		sum += sum_pseudo(p, IPPROTO_ICMPV6, length);
	icmp.checksum = ~sum_fold(sum);
	if (bpf_skb_change_tail(skb, p->transport + QUOTED, 0) ||
	    bpf_skb_adjust_room(skb, header + sizeof(icmp), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	return write_ip(skb, p, p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, length)
		       ?: bpf_skb_store_bytes(skb, ETH_HLEN + header, &icmp, sizeof(icmp),
					      BPF_F_RECOMPUTE_CSUM);
}

static __always_inline long make_answer(struct __sk_buff *skb, const struct packet *p,
					bool prohibited)
{
	switch (p->tuple.protocol) {
	case IPPROTO_TCP:
		return make_reset(skb, p);
	case IPPROTO_SCTP:
		return make_abort(skb, p);
	default:
		return make_unreachable(skb, p, prohibited);
	}
}

/*
 * Turns the packet into its refusal. Never answers a RST or an ABORT, a group or nobody, what came
 * to more than this host, a later fragment, what contradicts itself, nor faster than
 * refusals_per_second; what is not answered is dropped. prohibited: by a policy, if the answer is
 * an ICMP message. What was about to leave is answered as if its receiver had. Global, so that the
 * verifier looks at it once and by itself, and not at each place where a packet is refused.
 */
__noinline int refuse_packet(struct __sk_buff *skb, __u32 prohibited)
{
	const struct packet *p = packet_now();

	if (!p || p->rst || p->later || lengths_contradict(skb, p) ||
	    !address_is_one_host(&p->tuple.source) || skb->pkt_type == PACKET_BROADCAST ||
	    skb->pkt_type == PACKET_MULTICAST || !refusal_allowed() ||
	    make_answer(skb, p, prohibited) || swap_ethernet(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, p->tuple.leaving ? BPF_F_INGRESS : 0);
}
