/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SCTP's checksum is a CRC32c over the whole packet (RFC 9260 6.8 and appendix A), ports included,
 * addresses not. A CRC is linear: of two packets of one length it differs by the CRC, begun and
 * ended with zero, of what differs. So a changed port changes it by
 *
 *   (old ports ^ new ports) · x^(8 · length)   modulo the polynomial
 *
 * whatever the packet carries: no byte of it has to be read, it may be of any length and lie in
 * pages, and one that was damaged on its way is still seen to be.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "checksum.h"
#include "packet.h"
#include "reasons.h"

/* As bits are sent: the lowest first. */
#define CRC32C_POLYNOMIAL 0x82f63b78
#define CRC32C_ONE	  0x80000000

struct sctphdr {
	__be16 source;
	__be16 dest;
	__be32 tag;
	__le32 checksum;
};
_Static_assert(sizeof(struct sctphdr) == SCTP_HEADER, "sctphdr");

/* An SCTP packet of one chunk without content; of an INIT, its start. */
struct sctp_packet {
	struct sctphdr header;
	__u8 type;
	__u8 flags;
	__be16 length;
	__be32 tag; /* INIT: the one that answers must have */
};

/* x^(8·2^i) modulo the polynomial: what 2^i more bytes multiply a CRC by. */
static const __u32 crc32c_bytes[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a,
	0xb82be955, 0xb8fdb1e7, 0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a,
	0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/*
 * a·b modulo the polynomial; the highest bit is 1, the next x, and so on. Global and without
 * branches, so that the verifier walks its 32 steps once, whoever calls it.
 */
__noinline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = (b >> 1) ^ (CRC32C_POLYNOMIAL & -(b & 1));
	}
	return product;
}

/* How much a CRC changes by a change of the first four bytes of so many, up to 65,535. Global, as
 * above. */
__noinline __u32 crc32c_change(__u32 change, __u32 length)
{
	for (int i = 0; i < 16; i++)
		change = crc32c_multiply(length >> i & 1 ? crc32c_bytes[i] : CRC32C_ONE, change);
	return change;
}

/* The packet's length from its SCTP header on. Frames may be padded behind it. */
static __always_inline __u32 sctp_length(struct __sk_buff *skb, const struct packet *p)
{
	__be16 field = 0;

	if (p->v6) {
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &field,
				   sizeof(field));
		return bpf_ntohs(field) + ETH_HLEN + sizeof(struct ipv6hdr) - p->transport;
	}
	bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &field, sizeof(field));
	return bpf_ntohs(field) + ETH_HLEN - p->transport;
}

/*
 * Writes ports and checksum. One that is still to be filled in, by a device or when a large packet
 * is cut into those that are sent (GSO), stays: that is CHECKSUM_PARTIAL, and where the kernel does
 * not tell, a field of zero. The ports of a fragment stay: its datagram's length and with it the
 * CRC are known only to who has all of it. Returns a reason. __noinline: a rare path.
 */
static __noinline int rewrite_sctp(struct __sk_buff *skb, const struct packet *p, __u32 ports,
				   enum checksum_state state)
{
	struct sctphdr sctp;
	__u32 old;

	if (p->first)
		return REASON_UNSUPPORTED;
	if (bpf_skb_load_bytes(skb, p->transport, &sctp, sizeof(sctp)))
		return REASON_MALFORMED;
	__builtin_memcpy(&old, &sctp, sizeof(old));
	__builtin_memcpy(&sctp, &ports, sizeof(ports));
	if (state != CHECKSUM_PARTIAL && !(state == CHECKSUM_UNKNOWN && !sctp.checksum))
		sctp.checksum ^= crc32c_change(old ^ ports, sctp_length(skb, p));
	if (bpf_skb_store_bytes(skb, p->transport, &sctp, sizeof(sctp), BPF_F_RECOMPUTE_CSUM))
		return REASON_REWRITE;
	return REASON_NONE;
}

/* The CRC with four bytes more. Global, as above. */
__noinline __u32 crc32c_add(__u32 crc, __u32 word)
{
	crc ^= word;
	for (int i = 0; i < 32; i++)
		crc = (crc >> 1) ^ (CRC32C_POLYNOMIAL & -(crc & 1));
	return crc;
}

/* The CRC32c of a packet of one chunk without content, whose own checksum counts as zero: its words
 * as they lie in memory. */
static __always_inline __u32 crc32c_of(__u32 ports, __u32 tag, __u32 chunk)
{
	return ~crc32c_add(crc32c_add(crc32c_add(crc32c_add(~0, ports), tag), 0), chunk);
}

/* The checksum of an answer, which is in one piece. */
static __always_inline __le32 sctp_checksum(const struct sctp_packet *packet)
{
	__u32 words[4];

	__builtin_memcpy(words, packet, sizeof(words));
	return crc32c_of(words[0], words[1], words[3]);
}
