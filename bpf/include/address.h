/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses: 16 bytes, IPv4 mapped, so that one path serves both families. */
#pragma once

#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

static __always_inline struct address address_of_v4(__be32 v4)
{
	return (struct address){ { 0, 0, bpf_htonl(0xffff), v4 } };
}

static __always_inline bool address_is_v4(const struct address *a)
{
	return !(a->words[0] | a->words[1] | (a->words[2] ^ bpf_htonl(0xffff)));
}

static __always_inline bool address_equal(const struct address *a, const struct address *b)
{
	return !((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) |
		 (a->words[2] ^ b->words[2]) | (a->words[3] ^ b->words[3]));
}

/* Multicast (RFC 1112, RFC 4291), broadcast and the unspecified address: nobody to answer to. */
static __always_inline bool address_is_one_host(const struct address *a)
{
	if (address_is_v4(a)) {
		__u32 v4 = bpf_ntohl(a->words[3]);

		return v4 && (v4 >> 28) < 14;
	}
	return (a->words[0] | a->words[1] | a->words[2] | a->words[3]) &&
	       (bpf_ntohl(a->words[0]) >> 24) != 0xff;
}
