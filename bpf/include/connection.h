/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pods' connections: what was found about each, and how it stands. An entry says who began it, so
 * that answers pass whatever the pod's other direction says; and when it was judged, so that it is
 * judged again once policies have changed. Entries are written to where something is new, and once
 * a second.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "adopt.h"
#include "clock.h"

/* Seconds of silence after which an entry is none. Set at load, see Timeouts in expiry.go. */
volatile const struct {
	__u32 tcp_unanswered;
	__u32 tcp_established;
	__u32 tcp_closing;
	__u32 tcp_reset;
	__u32 udp_unanswered;
	__u32 udp_answered;
	__u32 sctp;
	__u32 icmp;
	__u32 other;
} connection_timeouts = { 60, 5 * 86400, 120, 10, 30, 120, 210, 30, 600 };

/* What a packet says about its connection. */
struct sighting {
	bool from_pod;
	bool fin;
	bool rst;
};

static __always_inline bool began_by_pod(const struct connection *c)
{
	return !(c->state & CONNECTION_INGRESS);
}

static __always_inline __u32 connection_kept(__u8 protocol, __u8 state)
{
	switch (protocol) {
	case IPPROTO_TCP:
		if (state & CONNECTION_RESET)
			return connection_timeouts.tcp_reset;
		if (state & (CONNECTION_POD_FIN | CONNECTION_PEER_FIN))
			return connection_timeouts.tcp_closing;
		return state & CONNECTION_ANSWERED ? connection_timeouts.tcp_established
						   : connection_timeouts.tcp_unanswered;
	case IPPROTO_UDP:
		return state & CONNECTION_ANSWERED ? connection_timeouts.udp_answered
						   : connection_timeouts.udp_unanswered;
	case IPPROTO_SCTP:
		return connection_timeouts.sctp;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return connection_timeouts.icmp;
	}
	return connection_timeouts.other;
}

/* Says if an entry is a connection that has not been silent for too long. */
static __always_inline bool connection_stands(__u8 protocol, const struct connection *c)
{
	/* Signed: another processor may have seen the next second already. */
	__s32 silent = now_seconds() - c->seen;

	return c->epoch && silent <= (__s32)connection_kept(protocol, c->state);
}

/* Says if neither side will send any more, so that its ports may be used again. */
static __always_inline bool connection_is_over(const struct connection *c)
{
	const __u8 both = CONNECTION_POD_FIN | CONNECTION_PEER_FIN;

	return c->state & CONNECTION_RESET || (c->state & both) == both;
}

static __always_inline void connection_seen(struct connection *c)
{
	__u32 now = now_seconds();

	if (c->seen != now)
		c->seen = now;
}

/* Notes what a packet that passes says. */
static __always_inline void connection_note(struct connection *c, const struct sighting *s)
{
	__u8 state = c->state;

	if (s->from_pod != began_by_pod(c))
		state |= CONNECTION_ANSWERED;
	if (s->rst)
		state |= CONNECTION_RESET;
	else
		state &= ~CONNECTION_RESET;
	if (s->fin && !s->rst)
		state |= s->from_pod ? CONNECTION_POD_FIN : CONNECTION_PEER_FIN;
	if (c->state != state)
		c->state = state;
	connection_seen(c);
}
