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
 * Where there are policies, both judge a packet as it is between the two exchanges: what from_pod
 * sends on, what to_pod gets. include/judge.h has the steps.
 *
 * Lookups: no Service 4 (a SYN or datagram 5), known connection 2, known datagrams 3, once a second
 * 2 more each; new flow 8 and 2 writes, refused 6, reply 2 (the first one 3), no reply 2. One of
 * them asks if there are policies; where there are, each packet has one more, and a new connection
 * those of judge.h. A test counts them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "path.h"

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return comes_in(skb, HOOK_POD);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return leaves(skb, HOOK_POD);
}

char _license[] SEC("license") = "Dual BSD/GPL";
