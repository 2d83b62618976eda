/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which port a flow gets that cannot keep its client's. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PORT_LOWEST 1024

/*
 * How many ports are tried, some of which aren't allowed. With half of all ports in use towards one
 * backend none is found once in some 20,000 new connections.
 */
#define PORT_ATTEMPTS 32

/*
 * Ports that are never given, host byte order, both ends included: NodePorts, and what the node's
 * own sockets get (net.ipv4.ip_local_port_range). Set at load.
 */
volatile const __u16 node_port_first = 30000;
volatile const __u16 node_port_last = 32767;
volatile const __u16 ephemeral_first = 32768;
volatile const __u16 ephemeral_last = 60999;

static __always_inline bool port_allowed(__be16 port)
{
	__u16 p = bpf_ntohs(port);

	return p >= PORT_LOWEST && !(p >= node_port_first && p <= node_port_last) &&
	       !(p >= ephemeral_first && p <= ephemeral_last);
}

/* A random port, 0 if that isn't allowed. */
static __always_inline __be16 random_port(void)
{
	__be16 port = bpf_get_prandom_u32();

	return port_allowed(port) ? port : 0;
}
