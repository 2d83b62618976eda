// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What other nodes have wrapped for this one, at the device that takes it out of its wrapping.
 *
 *   wrapped by a node of the cluster, for us? ── no ──► drop
 *   a client's packet: flow known? ── yes ──► note by which node it came, translate, pass
 *                                  ── no ───► begin one with the backend that the node picked
 *   an answer: from a Service? ── yes ──► on to the client, past the stack
 *                              ── no ───► drop
 *
 * What is refused goes back wrapped, the way it came. Lookups: a known connection 2, an answer 2 to
 * 5.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "path.h"

SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	return comes_unwrapped(skb);
}

char _license[] SEC("license") = "Dual BSD/GPL";
