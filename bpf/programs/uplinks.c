// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet's way at the node's own interfaces. include/path.h has the steps, the same for pods'.
 *
 * from_uplink, what comes from outside: a client's packet to a Service gets another destination,
 * as from a pod; a backend's answer to a masqueraded packet gets the client as destination.
 *
 * to_uplink, what leaves: a backend's packet gets the Service as source; a client's packet to a
 * backend on another node gets the node's address, unless a Local policy kept it here.
 *
 * What keeps a client's address on the way to a backend on another node is wrapped by both:
 * include/steer.h and tunnel.h.
 *
 * Lookups: for the node itself 5, another's 3 (a SYN or datagram one more), known flows as in
 * pods.c, a new one from outside 10 and 3 writes, its first packet that leaves masqueraded 4 and 2
 * writes. What is wrapped for another node: known 3, new 17 and 1 write, with the first of a
 * Service one more write, which counts it. A test counts them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "path.h"

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	return comes_in(skb, HOOK_UPLINK);
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	return leaves(skb, HOOK_UPLINK);
}

char _license[] SEC("license") = "Dual BSD/GPL";
