/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows that are half open: a client began them by an uplink or wrapped, and may not be who it says
 * it is. Each has a place in half_open_v1, a ring. Who needs a place takes the next one, and ends
 * the flow that had it if that is half open still. So a flood of first packets ends half-open flows
 * alone, and takes no more of flows_v2 than the ring has places for.
 *
 * A flow keeps its entries when it is half open no longer: its number goes, by what only a client
 * can send that hears the answers:
 *
 *   TCP              an acknowledgment of the SYN-ACK's own sequence
 *   UDP, SCTP        a packet after an answer
 *   wrapped for      of TCP any acknowledgment, since answers may not come by here; of others a
 *   another node     packet in a later second
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "adopt.h"
#include "flow.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "track.h"

/* The places of half_open_v1, at most 65535. Set by user space. */
volatile const __u32 half_open_places = 64;

/*
 * How far beyond the SYN-ACK a client's first acknowledgment may be: what a backend sends at once
 * that takes data of the SYN (TCP Fast Open). A blind guess hits once in 32768.
 */
#define HALF_OPEN_WINDOW (1 << 17)

/*
 * Takes a place for the flow that the packet begins, and returns what flow.half_open is to be; 0
 * never happens. Global, so that the verifier walks it once and by itself. Up to 3 lookups, and
 * what it costs to end a flow.
 */
__noinline int half_open_begin(void)
{
	const struct packet *p = packet_now();
	__u32 zero = 0, place, *next = look_up(&half_open_next_v1, &zero);
	struct tuple *key;
	struct flow *flow;

	if (!p || !next)
		return 0;
	place = __sync_fetch_and_add(next, 1) % half_open_places;
	key = look_up(&half_open_v1, &place);
	if (!key)
		return 0;
	if (key->protocol) {
		flow = find_flow(key);
		if (flow && flow->half_open == place + 1)
			flow_end(key, flow);
	}
	*key = p->tuple;
	return place + 1;
}

/* Says if the client's packet that is read now shows that there is a client. Global, as above. */
__noinline int half_open_confirmed(struct flow *flow)
{
	const struct packet *p = packet_now();
	struct flow *peer;

	if (!p || !flow)
		return false;
	if (p->tuple.protocol != IPPROTO_TCP)
		return flow->state & FLOW_ANSWERED;
	if (!p->ack || p->syn_ack || p->rst)
		return false;
	if (flow_is_steered(flow))
		return true;
	peer = flow_peer(&p->tuple, flow);
	return peer && peer->sequence && p->acknowledged - peer->sequence - 1 < HALF_OPEN_WINDOW;
}

/* Notes what the client's packet that is read now says of a flow that stands. */
static __always_inline void half_open_note(struct flow *flow)
{
	if (flow->half_open && half_open_confirmed(flow))
		flow->half_open = 0;
}
