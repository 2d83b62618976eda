// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What other nodes have wrapped for this one, at the device that takes it out of its wrapping.
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
