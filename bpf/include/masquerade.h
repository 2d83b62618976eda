/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Masquerading: where answers would else not come back through this node, what leaves it has the
 * address of the interface that it leaves by. Which that is, and so whether at all, is known only
 * there, after routing. The address is looked up once a flow: one that the interface loses later is
 * the flow's end, as it would be for a socket.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "flow.h"
#include "hook.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "ports.h"
#include "reasons.h"

/* Says if a packet to a backend has to be masqueraded that is about to leave by an interface. */
static __always_inline bool masquerade_applies(const struct packet *p, const struct flow *flow,
					       enum hook hook)
{
	return flow->state & FLOW_MASQUERADE &&
	       (hook == HOOK_UPLINK || address_equal(&p->tuple.source, &p->tuple.destination));
}

/* The client's port if that may be kept, else a free one. Returns a reason. */
static __always_inline int masquerade_port(const struct tuple *key, struct flow *flow)
{
	int error = -EEXIST;

	flow->port = key->source_port;
	if (port_allowed(flow->port))
		error = flow_claim(key, flow);
	if (error == -EEXIST)
		error = flow_claim_random(key, flow, true);
	if (!error)
		return REASON_NONE;
	return error == -EEXIST ? REASON_PORTS_EXHAUSTED : REASON_FLOWS_FULL;
}

/*
 * Gives a flow the address and the port that it is to have outside. known is its entry; *flow is
 * filled for the first packet. Returns a reason.
 */
static __noinline int masquerade_begin(const struct packet *p, const struct flow *known,
				       __u32 ifindex, struct flow *flow)
{
	struct uplink *uplink = look_up(&uplinks_v1, &ifindex);
	int reason;

	if (!uplink)
		return REASON_PORTS_EXHAUSTED;
	*flow = *known;
	flow->addr = p->v6 ? uplink->v6 : uplink->v4;
	if (!(flow->addr.words[0] | flow->addr.words[1] | flow->addr.words[2] |
	      flow->addr.words[3]))
		return REASON_PORTS_EXHAUSTED;
	reason = masquerade_port(&p->tuple, flow);
	if (reason)
		return reason;
	if (write_flow(&p->tuple, flow, BPF_ANY))
		return REASON_FLOWS_FULL;
	find_flow(&p->tuple); /* unread it would be the first to be evicted */
	return REASON_NONE;
}
