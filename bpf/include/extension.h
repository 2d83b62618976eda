/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv6 extension headers (RFC 8200 4): what lies between the IP header and the ports.
 *
 *   hop-by-hop, destination options   skipped
 *   routing                           skipped; with segments left the packet is not for whom it
 *                                     seems to be, and its checksum counts another destination
 *   fragment                          noted; without offset and more to come it is a whole packet
 *                                     (RFC 6946); another in a first one ends the walk
 *   authentication (RFC 4302)         skipped; it signs the addresses, so they cannot be exchanged
 *   encrypted (RFC 4303)              hides the ports
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "reasons.h"

/* RFC 8200 4.1 recommends each kind once, destination options twice; all but ESP are six. */
#define EXTENSIONS 6

/* How far into the frame a transport header may begin to be translated in place. */
#define TRANSPORT_FARTHEST   214

#define IPV6_FRAGMENT_OFFSET 0xfff8
#define IPV6_MORE_FRAGMENTS  1

/* A packet's chain of headers, and a place in it. */
struct chain {
	__u32 offset; /* of the next header, in the frame */
	__u32 id;     /* of the datagram, as in the fragment header */
	__u8 next;    /* its protocol */
	__u8 reason;  /* why it can't be translated */
	bool first;   /* fragment with more to come */
	bool later;   /* fragment with another offset than 0: what follows is no header */
};

static __always_inline bool carries_services(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_AH ||
	       protocol == IPPROTO_FRAGMENT;
}

/* Skips one header. Returns false at the end of the chain, or where it is cut. */
static __always_inline bool skip_extension(struct __sk_buff *skb, struct chain *c)
{
	__u8 header[8];
	__u16 fragment;

	if (c->later || !is_extension(c->next) || (c->first && c->next == IPPROTO_FRAGMENT) ||
	    bpf_skb_load_bytes(skb, c->offset, header, sizeof(header)))
		return false;
	if (c->next == IPPROTO_FRAGMENT) {
		fragment = header[2] << 8 | header[3];
		c->later = fragment & IPV6_FRAGMENT_OFFSET;
		c->first = !c->later && fragment & IPV6_MORE_FRAGMENTS;
		__builtin_memcpy(&c->id, header + 4, sizeof(c->id));
		c->offset += sizeof(header);
	} else if (c->next == IPPROTO_AH) {
		c->reason = REASON_UNSUPPORTED;
		c->offset += (header[1] + 2) * 4;
	} else {
		if (c->next == IPPROTO_ROUTING && header[3])
			c->reason = REASON_UNSUPPORTED;
		c->offset += (header[1] + 1) * 8;
	}
	c->next = header[0];
	return true;
}

/*
 * Skips to the end of the chain: the transport header, a later fragment's data, or a header that is
 * none of RFC 8200's. __noinline: a rare path. By the helper that loads bytes, since kernels before
 * 5.12 refuse to walk in place.
 */
static __noinline void skip_extensions(struct __sk_buff *skb, struct chain *c)
{
	for (int i = 0; i < EXTENSIONS; i++) {
		if (!skip_extension(skb, c))
			break;
	}
	if (is_extension(c->next) || c->next == IPPROTO_ESP || c->offset > TRANSPORT_FARTHEST)
		c->reason = REASON_UNSUPPORTED;
	if (c->later)
		c->reason = REASON_NONE;
}
