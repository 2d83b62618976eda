/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a client from outside belongs in a set's Maglev table: the same on every node, so that its
 * connection survives when the fabric brings it to another one. User space fills the tables. The
 * twin of internal/maglev: nodes of different versions share connections, so a hash never changes.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "operate.h"

/* The first digits of pi: what hashes begin with. */
#define MAGLEV_TUPLE_SEED  0x3243f6a8885a308dULL
#define MAGLEV_CLIENT_SEED 0x313198a2e0370734ULL

/* Slots of a table, a prime, set at load. */
volatile const __u32 maglev_size = 4093;

static __always_inline __u64 maglev_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
	return hash ^ hash >> 33;
}

static __always_inline __u64 maglev_last(__u64 hash)
{
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash ^ hash >> 33;
}

static __always_inline __u64 maglev_mix_address(__u64 hash, const struct address *addr)
{
	hash = maglev_mix(hash, addr->words[0] | (__u64)addr->words[1] << 32);
	return maglev_mix(hash, addr->words[2] | (__u64)addr->words[3] << 32);
}

/* Of a client's packet to a Service as it came from outside. It has ports: where a connection
 * begins there are some, and later fragments follow their first. */
static __always_inline __u64 maglev_hash(const struct tuple *t)
{
	__u64 hash = maglev_mix_address(MAGLEV_TUPLE_SEED, &t->source);

	hash = maglev_mix_address(hash, &t->destination);
	hash = maglev_mix(hash, t->source_port | (__u64)t->destination_port << 16 |
					(__u64)t->protocol << 32);
	return maglev_last(hash);
}

/* Of a client of a Service with session affinity. */
static __always_inline __u64 maglev_hash_client(const struct address *client)
{
	return maglev_last(maglev_mix_address(MAGLEV_CLIENT_SEED, client));
}

/*
 * The backend, by id, of a hash in a set's table; 0 if the set has none. A table that has just been
 * taken away may have another set's backends already. Two lookups: the table's number, the table.
 */
static __always_inline __u32 maglev_backend(__u32 set, __u64 hash)
{
	__u32 *number = look_up(&maglev_index_v1, &set), *slots, key;
	__u64 slot = (hash >> 32) * maglev_size >> 32;

	if (!number)
		return 0;
	key = *(volatile __u32 *)number;
	slots = look_up(&maglev_v1, &key);
	barrier_var(slot); /* apart from its multiplication by 4 the verifier knows its bounds */
	return slots ? *(volatile __u32 *)&slots[slot] : 0;
}
