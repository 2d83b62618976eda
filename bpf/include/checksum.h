/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Checksums by difference (RFC 1624). A packet whose checksum the device is to fill in
 * (CHECKSUM_PARTIAL, most of what a pod's own stack sends) holds the sum of the pseudo header
 * instead: there only addresses count and nothing is complemented. Programs see which of the two it
 * is since Linux 6.2; before, the kernel's helpers, which know, do the work at about twice the
 * cost.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* The kernel's values, include/linux/skbuff.h. */
enum checksum_state {
	CHECKSUM_NONE = 0,
	CHECKSUM_UNNECESSARY = 1,
	CHECKSUM_COMPLETE = 2,
	CHECKSUM_PARTIAL = 3,
	CHECKSUM_UNKNOWN = 4, /* ours: this kernel does not tell */
};

struct sk_buff {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* Cleared by a test that wants the helpers' way where the kernel has both. */
volatile const bool inline_checksums = true;

static __always_inline enum checksum_state checksum_state(struct __sk_buff *skb)
{
	const struct sk_buff *kernel;

	if (!inline_checksums || !bpf_cast_to_kern_ctx)
		return CHECKSUM_UNKNOWN;
	kernel = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(kernel, ip_summed);
}

/* A sum in 64 bits of 32- and 16-bit words, in the order in which they lie in memory. */

static __always_inline __u64 sum_change(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline __u64 sum_change_address(const struct address *from,
						const struct address *to)
{
	return sum_change(from->words[0], to->words[0]) + sum_change(from->words[1], to->words[1]) +
	       sum_change(from->words[2], to->words[2]) + sum_change(from->words[3], to->words[3]);
}

static __always_inline __u64 sum_change_port(__be16 from, __be16 to)
{
	return (__u64)(__u16)~from + to;
}

static __always_inline __u32 sum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline __u16 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
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

/* RFC 1624, equation 3. */
static __always_inline __u16 checksum_update(__u16 checksum, __u64 change)
{
	return ~sum_fold((__u64)(__u16)~checksum + change);
}

/*
 * A transport checksum after a change of addresses and ports. For UDP a field of zero is no
 * checksum and stays (RFC 768), and a sum of zero is written as all ones.
 */
static __always_inline __u16 checksum_transport(__u16 checksum, enum checksum_state state, bool udp,
						__u64 addresses, __u64 ports)
{
	if (state == CHECKSUM_UNKNOWN)
		return checksum; /* helpers have changed it already */
	if (state == CHECKSUM_PARTIAL)
		return sum_fold((__u64)checksum + addresses);
	if (udp && !checksum)
		return 0;
	checksum = checksum_update(checksum, addresses + ports);
	return udp && !checksum ? 0xffff : checksum;
}
