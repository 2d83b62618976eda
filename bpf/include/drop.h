/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Nothing goes no further without being counted and told, with the reason. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "count.h"
#include "maps.h"
#include "reasons.h"

enum via {
	VIA_SOCKET = 1,
	VIA_PACKET = 2,
};

/* __noinline so that the event's type is in the object's BTF, where a test compares it with
 * internal/abi. */
static __noinline void drop_fill(struct drop_event *event, const struct tuple *tuple, __u32 set,
				 __u8 reason, __u8 via)
{
	*event = (struct drop_event){
		.time = bpf_ktime_get_ns(),
		.source = tuple->source,
		.destination = tuple->destination,
		.source_port = tuple->source_port,
		.destination_port = tuple->destination_port,
		.set = set,
		.protocol = tuple->protocol,
		.reason = reason,
		.via = via,
	};
}

/*
 * Counting is exact; the event is lost when the ring buffer is full. Lookups as of count_drop.
 * __noinline: a rare path that the verifier should see once, not at every drop.
 */
static __noinline void drop_report(const struct tuple *tuple, __u32 set, __u8 reason, __u8 via)
{
	struct drop_event *event;

	count_drop(set, reason);
	event = bpf_ringbuf_reserve(&drops_v2, sizeof(*event), 0);
	if (!event)
		return;
	drop_fill(event, tuple, set, reason, via);
	bpf_ringbuf_submit(event, 0);
}
