/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's own network namespace, as sockets know it. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "maps.h"
#include "operate.h"

/*
 * The cookie of the node's network namespace. Processes of pods with hostNetwork have it too: they
 * are the node's. 0 where user space cannot ask for it, before Linux 5.14; the first namespace's
 * counts then.
 */
volatile const __u64 host_cookie;

static __always_inline bool is_host(__u64 cookie)
{
	return cookie == (host_cookie ? host_cookie : bpf_get_netns_cookie(NULL));
}

/* 1 for 0, else 0; of 32 bits. Without a branch, each of which doubles what the verifier follows.
 */
static __always_inline __u32 is_zero(__u32 bits)
{
	return ((__u64)bits - 1) >> 63;
}

/*
 * What a process of the node means by an address: 127.0.0.0/8 and 0.0.0.0 are 127.0.0.1, and :: is
 * ::1.
 */
static __always_inline void host_loopback(struct address *addr)
{
	const __be32 net = bpf_htonl(0xff000000), loopback = bpf_htonl(0x7f000001);
	__u32 high = addr->words[0] | addr->words[1];
	__be32 v4 = addr->words[3];
	__u32 is4 = is_zero(high | (addr->words[2] ^ bpf_htonl(0xffff))) &
		    (is_zero((v4 ^ loopback) & net) | is_zero(v4));
	__u32 is6 = is_zero(high | addr->words[2] | v4);

	addr->words[3] = (v4 & (is4 - 1)) | (loopback & -is4) | (bpf_htonl(1) & -is6);
}

/* The node's address where the way out does not matter; zero if there is none. One lookup. */
static __always_inline struct address host_address(bool v4)
{
	__u32 any = UPLINK_ANY;
	struct uplink *uplink = look_up(&uplinks_v1, &any);

	if (!uplink)
		return (struct address){};
	return v4 ? uplink->v4 : uplink->v6;
}
