/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Between nodes a packet of a client outside travels as it came, wrapped in VXLAN (RFC 7348): the
 * backend's node sees whom it is from and which Service it is for. A device of the kernel's wraps
 * and unwraps; the programs say to whom, and who may.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Set at load. */
volatile const __u32 own_node;	  /* this node's number; 0: nothing is wrapped */
volatile const __u32 tunnel_vni;  /* of the nodes' packets: others' are foreign */
volatile const __u16 tunnel_port; /* UDP, host byte order */

/* Written by user space while programs run. */
struct {
	__u32 ifindex; /* of the device; 0: there is none, and nothing is wrapped */
	__u32 pad[3];
} tunnel;
