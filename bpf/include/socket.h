/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the socket hooks do. An IPv6 socket that dials ::ffff:a.b.c.d comes by the v6 hooks, with
 * the same bytes in the maps as an IPv4 one.
 */
#pragma once

#include <linux/errno.h>
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "drop.h"
#include "maps.h"
#include "service.h"

#define ALLOW  1
#define REFUSE 0

/* Multipath TCP, IPPROTO_MPTCP of newer headers: TCP on the wire. */
#define PROTOCOL_MPTCP 262

/* Before Linux 5.18 a program cannot choose the error: without it a refused client sees EPERM. */
volatile const bool can_set_error;

static __always_inline struct address socket_address(struct bpf_sock_addr *ctx, bool v6)
{
	if (!v6)
		return address_of_v4(ctx->user_ip4);
	return (struct address){ {
		ctx->user_ip6[0],
		ctx->user_ip6[1],
		ctx->user_ip6[2],
		ctx->user_ip6[3],
	} };
}

/* Returns false for an address that the socket's family cannot hold; the tables never ask for it.
 */
static __always_inline bool socket_redirect(struct bpf_sock_addr *ctx, bool v6,
					    const struct address *addr, __be16 port)
{
	if (v6) {
		ctx->user_ip6[0] = addr->words[0];
		ctx->user_ip6[1] = addr->words[1];
		ctx->user_ip6[2] = addr->words[2];
		ctx->user_ip6[3] = addr->words[3];
	} else {
		if (!address_is_v4(addr))
			return false;
		ctx->user_ip4 = addr->words[3];
	}
	ctx->user_port = port;
	return true;
}

/* The Service protocol of a socket; 0 for what no hook translates, SCTP above all. */
static __always_inline __u8 socket_protocol(struct bpf_sock_addr *ctx)
{
	switch (ctx->protocol) {
	case IPPROTO_TCP:
	case PROTOCOL_MPTCP:
		return IPPROTO_TCP;
	case IPPROTO_UDP:
		return IPPROTO_UDP;
	}
	return 0;
}

static __always_inline int socket_refuse(const struct address *addr, __be16 port, __u8 protocol,
					 __u32 set, __u8 reason)
{
	struct tuple tuple = {
		.destination = *addr,
		.destination_port = port,
		.protocol = protocol,
	};

	drop_report(&tuple, set, reason, VIA_SOCKET);
	if (can_set_error)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline void socket_decide(const struct frontend *frontend,
					  const struct address *dialled, struct decision *d)
{
	struct dialler who = { .inside = true };

	decide(&who, frontend, dialled, d);
}

static __always_inline int socket_connect(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	__be16 port = ctx->user_port;
	__u8 protocol = socket_protocol(ctx);
	const struct frontend *frontend;
	struct choice *choice;
	struct decision d;

	if (!protocol)
		return ALLOW;
	frontend = find_frontend(&addr, port, protocol, false);
	if (!frontend) {
		/* A socket may connect again: what it dialled before says nothing about this peer.
		 */
		bpf_sk_storage_delete(&sockets_v2, ctx->sk);
		return ALLOW;
	}
	socket_decide(frontend, &addr, &d);
	if (d.reason)
		return socket_refuse(&addr, port, protocol, d.root, d.reason);
	if (!socket_redirect(ctx, v6, &d.pick.addr, d.pick.port))
		return socket_refuse(&addr, port, protocol, d.root, REASON_STALE_TABLES);
	/* Without storage (no memory) the connection works; the peer shows as the backend. */
	choice = bpf_sk_storage_get(&sockets_v2, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (choice) {
		choice->service = addr;
		choice->service_port = port;
		choice->addr = d.pick.addr;
		choice->port = d.pick.port;
		choice->backend = d.pick.backend;
	}
	return ALLOW;
}

static __always_inline bool choice_is_of(const struct choice *choice, const struct address *addr,
					 __be16 port)
{
	return choice->backend && choice->service_port == port &&
	       address_equal(&choice->service, addr);
}

static __always_inline bool choice_sends(const struct choice *choice, const struct address *addr,
					 __be16 port)
{
	return choice->backend && choice->port == port && address_equal(&choice->addr, addr);
}

/* The index of the entry for a Service: its own, else the one to forget. */
static __always_inline __u32 choice_index(struct choices *choices, const struct address *addr,
					  __be16 port)
{
	for (__u32 i = 0; i < CHOICES; i++) {
		if (choice_is_of(&choices->entries[i], addr, port))
			return i;
	}
	return choices->next++ % CHOICES;
}

/*
 * Notes in whose name a backend was asked last, by index; CHOICES for its own. Its answers will
 * show that name: a client takes answers from whom it asked alone. Without branches, which would
 * multiply what the verifier has to follow by 2^CHOICES.
 */
static __always_inline void choices_show(struct choices *choices, __u32 shown,
					 const struct address *addr, __be16 port)
{
	__u32 hidden = choices->hidden;

	for (__u32 i = 0; i < CHOICES; i++) {
		const struct choice *c = &choices->entries[i];
		__u64 differs = (c->addr.words[0] ^ addr->words[0]) |
				(c->addr.words[1] ^ addr->words[1]) |
				(c->addr.words[2] ^ addr->words[2]) |
				(c->addr.words[3] ^ addr->words[3]) | (c->port ^ port);

		hidden |= (__u32)((differs - 1) >> 63) << i;
	}
	choices->hidden = hidden & ~(1U << shown);
}

/*
 * What a datagram socket is connected to. Being disconnected (connect to AF_UNSPEC) passes no hook,
 * so what was noted when it connected counts only as long as it has a peer.
 */
static __always_inline struct choice *choice_of_peer(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	return bpf_sk_storage_get(&sockets_v2, sk, NULL, 0);
}

/*
 * The choice of a socket that is connected to the Service which a datagram names once more, as long
 * as its backend serves: the socket takes answers from no other. __noinline: a rare path, to be
 * followed once.
 */
static __noinline struct choice *choice_named(struct bpf_sock_addr *ctx, const struct address *addr,
					      __be16 port, const struct frontend *frontend)
{
	struct choice *choice = choice_of_peer(ctx);

	if (choice && choice_is_of(choice, addr, port) &&
	    backend_serves(choice->backend, &choice->addr, choice->port, frontend->set))
		return choice;
	return NULL;
}

/* A datagram that says where to: the same Service keeps the same backend while that lives. */
static __always_inline int socket_send(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	__be16 port = ctx->user_port;
	__u8 protocol = socket_protocol(ctx);
	struct choice *choice = NULL;
	const struct frontend *frontend;
	struct choices *choices;
	struct decision d;
	__u32 index = 0;

	if (protocol != IPPROTO_UDP)
		return ALLOW;
	frontend = find_frontend(&addr, port, protocol, false);
	if (!frontend) {
		choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, 0);
		if (choices)
			choices_show(choices, CHOICES, &addr, port);
		return ALLOW;
	}
	choice = choice_named(ctx, &addr, port, frontend);
	if (choice) {
		socket_redirect(ctx, v6, &choice->addr, choice->port);
		return ALLOW;
	}
	choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (choices) {
		index = choice_index(choices, &addr, port) % CHOICES;
		choice = &choices->entries[index];
		if (choice_is_of(choice, &addr, port) &&
		    backend_serves(choice->backend, &choice->addr, choice->port, frontend->set)) {
			choices_show(choices, index, &choice->addr, choice->port);
			socket_redirect(ctx, v6, &choice->addr, choice->port);
			return ALLOW;
		}
	}
	socket_decide(frontend, &addr, &d);
	if (d.reason)
		return socket_refuse(&addr, port, protocol, d.root, d.reason);
	if (!socket_redirect(ctx, v6, &d.pick.addr, d.pick.port))
		return socket_refuse(&addr, port, protocol, d.root, REASON_STALE_TABLES);
	if (choice) {
		choice->service = addr;
		choice->service_port = port;
		choice->addr = d.pick.addr;
		choice->port = d.pick.port;
		choice->backend = d.pick.backend;
		choices_show(choices, index, &d.pick.addr, d.pick.port);
	}
	return ALLOW;
}

/* Shows the Service as the sender only if the sender is the backend that was chosen for it, and was
 * asked in its name last.
 */
static __always_inline int socket_receive(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	__be16 port = ctx->user_port;
	struct choices *choices;
	struct choice *choice;

	if (socket_protocol(ctx) != IPPROTO_UDP)
		return ALLOW;
	choice = choice_of_peer(ctx);
	if (choice && choice_sends(choice, &addr, port)) {
		socket_redirect(ctx, v6, &choice->service, choice->service_port);
		return ALLOW;
	}
	choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, 0);
	if (!choices)
		return ALLOW;
	for (int i = 0; i < CHOICES; i++) {
		choice = &choices->entries[i];
		if (!(choices->hidden & 1U << i) && choice_sends(choice, &addr, port)) {
			socket_redirect(ctx, v6, &choice->service, choice->service_port);
			return ALLOW;
		}
	}
	return ALLOW;
}

static __always_inline int socket_peer(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	struct choice *choice;

	if (!socket_protocol(ctx))
		return ALLOW;
	choice = bpf_sk_storage_get(&sockets_v2, ctx->sk, NULL, 0);
	if (choice && choice_sends(choice, &addr, ctx->user_port))
		socket_redirect(ctx, v6, &choice->service, choice->service_port);
	return ALLOW;
}
