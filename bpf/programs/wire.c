// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What comes to the node, before there is a socket buffer (XDP): the part that is done with a
 * packet of a client outside that goes on to another node, or nowhere. All else passes, and
 * from_uplink finds it as it came.
 *
 *   sent to another host, or not plain ──► pass
 *   flow known? ── yes ──► its way leads to another node, and it stands ──► wrap, send
 *                                                                      else ──► pass
 *   a SYN or a datagram, to a Service, from outside? ── no ──► pass
 *   taken? ── no ──► drop, or pass where the client is told
 *   surely by a backend on another node? ── yes ──► begin, wrap, send
 *                                       ── no ──► pass
 *
 * It never writes to a frame that it then passes. include/frame.h says what is plain, find_way in
 * include/wire.h where a frame can be sent to.
 *
 * Lookups: 1 whether the frame is for this host, 1 for the flow, 2 for the nodes; TCP amid a
 * connection that isn't steered 2 in all.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "wire.h"

SEC("xdp.frags")
int from_wire(struct xdp_md *xdp)
{
	struct packet *p = packet_room();

	if (!p || !is_this_hosts(xdp) || !read_frame(xdp, p))
		return XDP_PASS;
	return comes_by_wire(xdp, p);
}

char _license[] SEC("license") = "Dual BSD/GPL";
