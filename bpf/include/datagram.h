/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A datagram socket sends to an address that it names, and asks who sent what it received. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "choice.h"
#include "maps.h"
#include "socket.h"
#include "socket_v1.h"

/*
 * What a datagram socket is connected to. Being disconnected (connect to AF_UNSPEC) passes no hook,
 * so what was noted when it connected counts only as long as it has a peer.
 */
static __always_inline struct peer *socket_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	return bpf_sk_storage_get(&sockets_v2, sk, NULL, 0);
}

/*
 * The choice of a socket that is connected to the Service which a datagram names once more, as long
 * as its backend serves, or packets to it are led to another: the socket takes answers from no
 * other. __noinline: a rare path, to be followed once.
 */
static __noinline struct choice *choice_named(struct bpf_sock_addr *ctx, const struct address *addr,
					      __be16 port, const struct frontend *frontend)
{
	struct peer *peer = socket_connected(ctx);

	if (!peer || !choice_is_of(&peer->choice, addr, port))
		return NULL;
	return peer->moved || choice_serves(&peer->choice, frontend) ? &peer->choice : NULL;
}

/* A datagram to no Service: from now on what its receiver sends shows the receiver. */
static __always_inline int send_untranslated(struct bpf_sock_addr *ctx, const struct address *addr)
{
	struct choices *choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, 0);

	if (choices)
		choices_show(choices, CHOICES, addr, ctx->user_port);
	return ALLOW;
}

/* A datagram that says where to: the same Service keeps the same backend while that lives. */
static __always_inline int socket_send(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	__be16 port = ctx->user_port;
	const struct frontend *frontend;
	struct choice *choice = NULL;
	struct choices *choices;
	struct decision d = {};
	__u32 index = 0;

	if (socket_protocol(ctx) != IPPROTO_UDP)
		return ALLOW;
	frontend = socket_frontend(ctx, &addr, IPPROTO_UDP, false);
	if (!frontend)
		return send_untranslated(ctx, &addr);
	choice = choice_named(ctx, &addr, port, frontend);
	if (choice) {
		socket_redirect(ctx, v6, &choice->addr, choice->port);
		return ALLOW;
	}
	choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (choices) {
		index = choice_index(choices, &addr, port) % CHOICES;
		choice = &choices->entries[index];
		if (choice_is_of(choice, &addr, port) && choice_serves(choice, frontend)) {
			choices_show(choices, index, &choice->addr, choice->port);
			socket_redirect(ctx, v6, &choice->addr, choice->port);
			return ALLOW;
		}
	}
	socket_decide(ctx, frontend, &addr, &d);
	if (!d.reason && !socket_redirect(ctx, v6, &d.pick.addr, d.pick.port))
		d.reason = REASON_STALE_TABLES;
	if (d.reason)
		return socket_refuse(&addr, port, IPPROTO_UDP, &d);
	if (choice) {
		choice_set(choice, &addr, port, &d);
		choices_show(choices, index, &choice->addr, choice->port);
	}
	return ALLOW;
}

/* Who sent a datagram, of those that a socket without peer asked. */
static __always_inline int show_sender(struct bpf_sock_addr *ctx, bool v6,
				       const struct address *addr)
{
	struct choices *choices = bpf_sk_storage_get(&datagrams_v2, ctx->sk, NULL, 0);
	struct choice *choice;

	if (!choices) {
		v1_show_sender(ctx, v6);
		return ALLOW;
	}
	for (int i = 0; i < CHOICES; i++) {
		choice = &choices->entries[i];
		if (!(choices->hidden & 1U << i) && choice_sends(choice, addr, ctx->user_port)) {
			socket_redirect(ctx, v6, &choice->service, choice->service_port);
			return ALLOW;
		}
	}
	return ALLOW;
}

/* Shows the Service as the sender only if the sender is the backend that was chosen for it, and was
 * asked in its name last.
 */
static __always_inline int socket_receive(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	struct bpf_sock *sk = ctx->sk;
	struct peer *peer;

	if (socket_protocol(ctx) != IPPROTO_UDP)
		return ALLOW;
	peer = socket_connected(ctx);
	if (peer && choice_sends(&peer->choice, &addr, ctx->user_port)) {
		socket_redirect(ctx, v6, &peer->choice.service, peer->choice.service_port);
		return ALLOW;
	}
	if (!peer && sk && sk->state == BPF_TCP_ESTABLISHED) {
		v1_show_peer(ctx, v6);
		return ALLOW;
	}
	return show_sender(ctx, v6, &addr);
}
