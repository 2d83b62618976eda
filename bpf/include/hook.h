/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a packet is seen. */
#pragma once

enum hook {
	HOOK_POD,    /* the host's side of a pod's interface: policies judge here, and only here */
	HOOK_UPLINK, /* an interface of the node's own */
	HOOK_TUNNEL, /* the device that takes other nodes' wrapped packets out of their wrapping */
};
