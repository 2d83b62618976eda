/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What time it is, to the second: what flows and affinities are marked with. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/*
 * The second that was read last, and the kernel's tick in which it was. A tick costs a load, the
 * clock itself half of what looking up a flow does. Processors that write it at once write the
 * same, or what the next tick puts right.
 */
static struct {
	__u64 tick;
	__u32 seconds;
} clock;

/* Seconds of CLOCK_MONOTONIC, 136 years of them; late by a tick, 10 ms, at most. */
static __always_inline __u32 now_seconds(void)
{
	volatile typeof(clock) *last = &clock;
	__u64 tick = bpf_jiffies64();
	__u32 seconds;

	if (last->tick == tick)
		return last->seconds;
	seconds = bpf_ktime_get_ns() / 1000000000;
	last->seconds = seconds;
	last->tick = tick;
	return seconds;
}
