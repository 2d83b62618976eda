/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connected sockets whose backend has gone. No hook sees what they send, and the address in them is
 * the backend's. So the programs at the pods' interfaces are told to treat it as an address of the
 * Service, by a flow of one half:
 *
 *   in   client → gone     a datagram: its backend is gone, so it gets another (see path.h)
 *                          a connection: FLOW_ENDED, its next packet is answered by a RST
 *
 * The node's own sockets pass no such interface: they are destroyed, see programs/iterators.c.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "adopt.h"
#include "affinity.h"
#include "choice.h"
#include "clock.h"
#include "host.h"
#include "kernel.h"
#include "maps.h"
#include "service.h"

#define FAMILY_INET 2

#define TCP_CLOSE   7

/* What a walk did; user space sets it to zero before. */
struct {
	__u64 walked;	 /* sockets connected to Services */
	__u64 moved;	 /* datagram sockets that were given a flow: their backend is gone */
	__u64 kept;	 /* datagram sockets that have one, which was kept from growing old */
	__u64 ended;	 /* connections */
	__u64 own;	 /* sockets of the node's own namespace whose backend is gone */
	__u64 destroyed; /* of these */
} moves;

static __always_inline struct address address_of_v6(const struct in6_addr *v6)
{
	return (struct address){ {
		v6->in6_u.u6_addr32[0],
		v6->in6_u.u6_addr32[1],
		v6->in6_u.u6_addr32[2],
		v6->in6_u.u6_addr32[3],
	} };
}

/* What a connected socket sends, as the hook at its pod's interface sees it. */
static __always_inline struct tuple tuple_of(struct sock *sk)
{
	const struct sock_common *c = &sk->__sk_common;
	struct tuple tuple = {
		.source_port = bpf_htons(c->skc_num),
		.destination_port = c->skc_dport,
		.protocol = sk->sk_protocol,
	};

	if (c->skc_family == FAMILY_INET) {
		tuple.source = address_of_v4(c->skc_rcv_saddr);
		tuple.destination = address_of_v4(c->skc_daddr);
	} else {
		tuple.source = address_of_v6(&c->skc_v6_rcv_saddr);
		tuple.destination = address_of_v6(&c->skc_v6_daddr);
	}
	return tuple;
}

static __always_inline bool backend_gone(const struct choice *choice)
{
	return !backend_serves(choice->backend, &choice->addr, choice->port, choice->set);
}

/* The Service may have changed since, or its address be another's. */
static __always_inline void choice_refresh(struct choice *choice, struct flow *flow)
{
	const struct frontend *frontend =
		find_frontend(&choice->service, choice->service_port, IPPROTO_UDP, false);

	if (!frontend || !frontend->set)
		return;
	flow->set = choice->set = frontend->set;
	if (frontend->flags & FRONTEND_INTERNAL_LOCAL)
		flow->state |= FLOW_LOCAL;
}

/* Writes a flow that stands for the backend that has gone, by which it is not served. */
static __always_inline bool flow_of_gone(const struct tuple *tuple, struct choice *choice,
					 __u8 state)
{
	struct flow flow = {
		.addr = choice->addr,
		.port = choice->port,
		.other_port = tuple->source_port,
		.backend = choice->backend,
		.set = choice->set,
		.seen = now_seconds(),
		.state = FLOW_FORWARD | state,
	};

	if (state & FLOW_MOVED)
		choice_refresh(choice, &flow);
	if (write_flow(tuple, &flow, BPF_ANY))
		return false;
	find_flow(tuple); /* unread it would be the first to be evicted */
	return true;
}

/* Keeps the flow of a socket that has moved, as long as the socket is there. */
static __always_inline bool flow_kept(const struct tuple *tuple, struct choice *choice)
{
	struct flow *flow = find_flow(tuple);

	if (!flow || !(flow->state & FLOW_MOVED))
		return false;
	if (!backend_serves(flow->backend, &flow->addr, flow->port, flow->set))
		choice_refresh(choice, flow);
	flow->seen = now_seconds();
	return true;
}

/* __noinline: the stack is short. */
static __noinline void move_datagrams(const struct tuple *tuple, struct peer *peer)
{
	if (flow_kept(tuple, &peer->choice)) {
		moves.kept++;
	} else if (flow_of_gone(tuple, &peer->choice, FLOW_MOVED)) {
		peer->moved = 1;
		moves.moved++;
	}
}

/*
 * Does what there is to do for a socket that is connected to a Service. Nearly always that is
 * nothing, and the socket itself isn't looked at.
 */
static __always_inline void mend(struct sock *sk, struct peer *peer)
{
	struct tuple tuple;

	moves.walked++;
	if (!peer->moved && !backend_gone(&peer->choice))
		return;
	tuple = tuple_of(sk);
	/* What is noted counts as long as the socket has the peer it got: it may have been
	 * disconnected. */
	if (!choice_sends(&peer->choice, &tuple.destination, tuple.destination_port))
		return;
	if (sk->__sk_common.skc_state == TCP_CLOSE)
		return;
	if (host_cookie && peer->cookie == host_cookie)
		moves.own++;
	else if (tuple.protocol == IPPROTO_UDP)
		move_datagrams(&tuple, peer);
	else if (tuple.protocol == IPPROTO_TCP && flow_of_gone(&tuple, &peer->choice, FLOW_ENDED))
		moves.ended++;
}
