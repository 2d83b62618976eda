/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The answer to a client that is refused, made out of the client's own packet: a TCP RST (RFC 9293
 * 3.10.7.1), an SCTP ABORT (RFC 9260 8.4) or an ICMP port unreachable (tell.h), from the address
 * dialled. To SCTP an ICMP message would be a hint, after which Linux goes on trying; an ABORT ends
 * the attempt at once.
 *
 * IPv4 options and IPv6 extension headers are left out of a RST and an ABORT. A first fragment is
 * answered as what it is the start of; a VLAN's tag, which is beside the packet, stays.
 *
 * A packet that waits for its checksum (CHECKSUM_PARTIAL) keeps doing so whatever is written into
 * it. The answers stay right whether that happens or not: they have their checksum field where the
 * packet had it.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "answer.h"
#include "checksum.h"
#include "packet.h"
#include "sctp.h"
#include "tell.h"

#define TCP_FLAG_BYTE_ACK 0x10
#define TCP_FLAG_BYTE_RST 0x04

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
	sum = sum_pseudo(p, &p->tuple.destination, IPPROTO_TCP, sizeof(reset));
	reset.check = partial ? sum_fold(sum) : ~sum_fold(sum + sum_words(&reset, sizeof(reset)));
	return write_ip(skb, p, &p->tuple.destination, IPPROTO_TCP, sizeof(reset))
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
	return write_ip(skb, p, &p->tuple.destination, IPPROTO_SCTP, bytes)
		       ?: bpf_skb_store_bytes(skb, plain_transport(p), &answer, bytes,
					      BPF_F_RECOMPUTE_CSUM);
}

/*
 * Turns the packet into its refusal. Never answers a RST or an ABORT, nor what may_be_answered
 * excludes; what is not answered is dropped. prohibited: by a policy, if the answer is an ICMP
 * message. Global, so that the verifier looks at it once and by itself, and not at each place where
 * a packet is refused.
 */
__noinline int refuse_packet(struct __sk_buff *skb, __u32 prohibited)
{
	const struct packet *p = packet_now();
	bool tcp;

	if (!p)
		return TC_ACT_SHOT;
	tcp = p->tuple.protocol == IPPROTO_TCP;
	if (!tcp && p->tuple.protocol != IPPROTO_SCTP)
		return tell_unreachable(skb, p, prohibited);
	if (p->rst || !may_be_answered(skb, p) || (tcp ? make_reset(skb, p) : make_abort(skb, p)))
		return TC_ACT_SHOT;
	return send_back(skb, p);
}
