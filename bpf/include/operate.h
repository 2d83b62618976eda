/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Map operations, counted where a test asks for it: what a packet costs is a promise. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Set by tests only. The verifier removes what it switches while it is false. */
volatile const bool count_operations;

struct {
	__u64 lookups;
	__u64 writes; /* updates and deletions */
} operations;

static __always_inline void *look_up(void *map, const void *key)
{
	if (count_operations)
		operations.lookups++;
	return bpf_map_lookup_elem(map, key);
}

/* An int: before Linux 6.4 the upper half of what the kernel returns here is not to be looked at.
 */
static __always_inline int write_to(void *map, const void *key, const void *value, __u64 flags)
{
	if (count_operations)
		operations.writes++;
	return bpf_map_update_elem(map, key, value, flags);
}

static __always_inline int delete_from(void *map, const void *key)
{
	if (count_operations)
		operations.writes++;
	return bpf_map_delete_elem(map, key);
}
