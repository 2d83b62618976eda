/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts: what is dropped, in all and of each Service, and the flows that begin. Never a packet of
 * a known flow. A Service's counts take room as they come; without any left only the totals go on,
 * and how often that was is a count itself.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "operate.h"
#include "reasons.h"

/* Beside the reasons, of which there are fewer. */
#define COUNTER_WITHOUT_SERVICE 255

static __always_inline void count(__u32 index)
{
	__u64 *counter = look_up(&counters_v1, &index);

	if (counter)
		__sync_fetch_and_add(counter, 1); /* per CPU, but a program may interrupt another */
}

/* Takes no pointer and is global: the verifier walks it once. */
__noinline int count_of_service(__u32 set, __u32 reason, __u32 forwarding)
{
	struct count_key key = { .set = set, .reason = reason, .forwarding = forwarding };
	__u64 *counter, one = 1;

	counter = look_up(&service_counts_v1, &key);
	if (counter)
		__sync_fetch_and_add(counter, 1);
	else if (write_to(&service_counts_v1, &key, &one, BPF_ANY))
		count(COUNTER_WITHOUT_SERVICE);
	return 0;
}

/* set 0: of no Service. One lookup, two of a Service, and a write at its first on a node. */
static __always_inline void count_drop(__u32 set, __u8 reason)
{
	count(reason);
	if (set)
		count_of_service(set, reason, 0);
}
