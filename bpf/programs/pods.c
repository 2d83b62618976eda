// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet's way to a Service, at the host's side of a pod's interface, for what the socket hooks
 * do not see: raw sockets, virtual machines, user-space network stacks.
 *
 * from_pod, what the pod sends:
 *
 *   read the headers ── no TCP, UDP, SCTP ──► pass
 *   flow known? ── yes ──► translate, pass
 *   to a frontend? ── no ──► pass
 *   set has backends? ── no ──► RST or ICMP port unreachable to the pod
 *   pick one, begin a flow, translate, pass
 *
 * to_pod, what the pod gets: a known reverse flow's packets are given the Service's address, and an
 * ICMP error about a known flow quotes what the pod sent.
 *
 * Lookups: no Service 3 (a SYN or datagram 4), known TCP flow 1, known UDP flow 4, new flow 7 and 2
 * writes, refused 5, reply 1, no reply 1. A test counts them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "pod.h"

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return pod_sends(skb);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return pod_gets(skb);
}

char _license[] SEC("license") = "Dual BSD/GPL";
