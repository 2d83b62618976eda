// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet's way to a Service, at the host's side of a pod's interface, for what the socket hooks
 * do not see: raw sockets, virtual machines, user-space network stacks. include/path.h has the
 * steps, the same for uplinks.
 *
 * from_pod, what the pod sends: a client's packet gets another destination.
 *
 *   read the headers ── no TCP, UDP, SCTP ──► ICMP errors of flows are translated, pass
 *   flow known? ── yes ──► does it stand? ── yes ──► translate, pass
 *                                         ── its backend is gone ──► RST to the pod
 *   to a frontend? ── no ──► pass
 *   in the middle of a connection? ── yes ──► RST to the pod
 *   taken? ── no ──► drop, or RST or ICMP port unreachable to the pod
 *   pick a backend, begin a flow, translate, pass
 *
 * to_pod, what the pod gets: a backend's packet gets the Service as source; a client's own packet
 * that comes back to itself gets the node's address.
 *
 * Lookups: no Service 3 (a SYN or datagram 4), known connection 1, known datagrams 2, once a second
 * 2 more each; new flow 7 and 2 writes, refused 5, reply 1 (the first one 2), no reply 1. A test
 * counts them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "path.h"

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return comes_in(skb, false);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return leaves(skb, false);
}

char _license[] SEC("license") = "Dual BSD/GPL";
