/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connected sockets whose backend has gone. No hook sees what they send, and the address in them
 * is the backend's: so their packets are translated at the pod's interface from now on, as those of
 * a flow to the backend that went:
 *
 *   in   client → gone     destination becomes the new backend
 *   out  new → client      source becomes the one that went
 *
 * A connection of TCP cannot move: its next packet is answered by a RST. For the node's own
 * sockets, whose packets pass no such interface, see programs/iterators.c.
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
#include "host.h"
#include "kernel.h"
#include "maps.h"
#include "service.h"

#define FAMILY_INET 2

/* What a walk did; user space sets it to zero before. */
struct {
	__u64 walked;	 /* sockets connected to Services */
	__u64 moved;	 /* datagram sockets that got another backend */
	__u64 kept;	 /* datagram sockets that had moved before */
	__u64 waiting;	 /* datagram sockets whose Service has no backend for them */
	__u64 ended;	 /* connections, by flows that answer with a RST */
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

/* Ends a connection: the program at the interface answers its next packet with a RST. */
static __always_inline void end_connection(const struct tuple *tuple, const struct choice *choice)
{
	struct flow flow = {
		.addr = choice->addr,
		.port = choice->port,
		.other_port = tuple->source_port,
		.set = choice->set,
		.seen = now_seconds(),
		.state = FLOW_FORWARD | FLOW_ENDED,
	};

	if (!write_flow(tuple, &flow, BPF_ANY))
		moves.ended++;
}

/* The key of what the new backend answers. */
static __always_inline struct tuple answer_key(const struct tuple *sent, const struct flow *flow)
{
	return (struct tuple){
		.source = flow->addr,
		.destination = sent->source,
		.source_port = flow->port,
		.destination_port = flow->other_port,
		.protocol = sent->protocol,
		.leaving = 1,
	};
}

/* Keeps the flow of a socket that has moved, as long as the socket is there. */
static __always_inline bool flow_kept(const struct tuple *tuple, const struct peer *peer)
{
	struct flow *flow = find_flow(tuple), *answers;
	struct tuple key;

	if (!flow || !(flow->state & FLOW_MOVED) || flow->backend != peer->moved)
		return false;
	key = answer_key(tuple, flow);
	answers = find_flow(&key);
	if (!answers || answers->backend != peer->moved)
		return false;
	flow->seen = answers->seen = now_seconds();
	return true;
}

/* The Service's backend for a socket whose own is gone, as if it dialled now. */
static __always_inline bool pick_again(const struct peer *peer, __u8 protocol, struct decision *d)
{
	struct dialler who = { .cookie = peer->cookie, .inside = true };
	const struct choice *choice = &peer->choice;
	const struct frontend *frontend;

	frontend = find_frontend(&choice->service, choice->service_port, protocol, false);
	if (!frontend)
		return false;
	decide(&who, frontend, &choice->service, d);
	return !d->reason;
}

/* How often another port is tried where the client's is in use with the new backend already. */
#define MOVE_ATTEMPTS	 4
#define MOVE_PORT_LOWEST 1024

/* Says if the answers of this key are the socket's already, from an earlier move. */
static __always_inline bool answers_are_ours(const struct tuple *key, const struct flow *ours)
{
	struct flow *flow = find_flow(key);

	return flow && flow->port == ours->port && flow->other_port == ours->other_port &&
	       address_equal(&flow->addr, &ours->addr);
}

/* The backend's answers are to come from the one that went, to the socket's port. */
static __always_inline bool move_answers(const struct tuple *tuple, struct flow *flow)
{
	struct flow answers = {
		.addr = tuple->destination,
		.port = tuple->destination_port,
		.other_port = tuple->source_port,
		.backend = flow->backend,
		.set = flow->set,
		.seen = flow->seen,
	};
	struct tuple key;

	for (int i = 0; i < MOVE_ATTEMPTS; i++) {
		key = answer_key(tuple, flow);
		if (!write_flow(&key, &answers, BPF_NOEXIST) ||
		    (answers_are_ours(&key, &answers) &&
		     !write_flow(&key, &answers, BPF_ANY))) {
			find_flow(&key); /* unread it would be the first to be evicted */
			return true;
		}
		flow->other_port = bpf_htons(MOVE_PORT_LOWEST +
					     bpf_get_prandom_u32() % (65536 - MOVE_PORT_LOWEST));
	}
	return false;
}

/* Returns false if there is no room. */
static __always_inline bool move_flow(const struct tuple *tuple, const struct decision *d)
{
	struct flow flow = {
		.addr = d->pick.addr,
		.port = d->pick.port,
		.other_port = tuple->source_port,
		.backend = d->pick.backend,
		.set = d->root,
		.seen = now_seconds(),
		.state = FLOW_FORWARD | FLOW_MOVED,
	};

	if (!move_answers(tuple, &flow) || write_flow(tuple, &flow, BPF_ANY))
		return false;
	find_flow(tuple);
	return true;
}

/* __noinline: the stack is short. */
static __noinline void move_datagrams(const struct tuple *tuple, struct peer *peer)
{
	struct decision d = {};

	if (peer->moved && backend_lives(peer->moved, peer->choice.set) && flow_kept(tuple, peer)) {
		moves.kept++;
		return;
	}
	if (!pick_again(peer, IPPROTO_UDP, &d)) {
		moves.waiting++;
		return;
	}
	if (d.pick.port == peer->choice.port && address_equal(&d.pick.addr, &peer->choice.addr)) {
		/* It is back, as another row. */
		delete_flow(tuple);
		peer->choice.backend = d.pick.backend;
		peer->moved = 0;
	} else if (move_flow(tuple, &d)) {
		peer->moved = d.pick.backend;
	} else {
		moves.waiting++;
		return;
	}
	peer->choice.set = d.root;
	moves.moved++;
}

/* Does what there is to do for a socket that is connected to a Service. */
static __always_inline void mend(struct sock *sk, struct peer *peer)
{
	struct tuple tuple = tuple_of(sk);

	moves.walked++;
	/* What is noted counts as long as the socket has the peer it got: it may have been
	 * disconnected. */
	if (!choice_sends(&peer->choice, &tuple.destination, tuple.destination_port))
		return;
	if (!peer->moved && !backend_gone(&peer->choice))
		return;
	if (host_cookie && peer->cookie == host_cookie)
		moves.own++;
	else if (tuple.protocol == IPPROTO_TCP)
		end_connection(&tuple, &peer->choice);
	else if (tuple.protocol == IPPROTO_UDP && sk->__sk_common.skc_state == BPF_TCP_ESTABLISHED)
		move_datagrams(&tuple, peer);
}
