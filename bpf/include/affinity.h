/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Session affinity: a client that dials again gets the backend it had, until it has not dialled for
 * as long as its Service says. A client is an address to packets, a network namespace to sockets.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "adopt.h"
#include "clock.h"
#include "maps.h"
#include "operate.h"

/* The backend that a client had last, by id; 0 for none, or too long ago. One lookup. */
static __always_inline __u32 affinity_recall(const struct affinity_key *key, __u32 seconds)
{
	struct affinity *had = find_affinity(key);

	/* Whole seconds: rather up to one more than one less. */
	return had && now_seconds() - had->seen <= seconds ? had->backend : 0;
}

/* One lookup, and a write for a client that was not known. */
static __always_inline void affinity_remember(const struct affinity_key *key, __u32 backend)
{
	struct affinity now = { .backend = backend, .seen = now_seconds() };
	struct affinity *had = look_up(&affinities_v1, key);

	if (had && !adopting) {
		*had = now;
		return;
	}
	write_affinity(key, &now);
	look_up(&affinities_v1, key); /* unread it would be the first to be evicted */
}
