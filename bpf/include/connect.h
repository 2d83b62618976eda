/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A socket connects, and asks later to whom. */
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
 * Multipath TCP: it is the connection's first subflow that dials, but the connection above that is
 * asked for its peer. Off where the kernel cannot lead from one to the other, before Linux 5.19.
 */
volatile const bool can_see_multipath;

static __always_inline void peer_set(struct peer *peer, __u64 cookie, const struct address *service,
				     __be16 port, const struct decision *d)
{
	choice_set(&peer->choice, service, port, d);
	peer->moved = 0;
	peer->cookie = cookie;
}

/* Without storage (no memory) the connection works; the peer shows as the backend. */
static __always_inline void socket_remember(struct bpf_sock_addr *ctx,
					    const struct address *service, __be16 port,
					    const struct decision *d)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct mptcp_sock *above;
	struct peer *peer;

	peer = bpf_sk_storage_get(&sockets_v2, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (peer)
		peer_set(peer, cookie, service, port, d);
	if (!can_see_multipath || !sk)
		return;
	above = bpf_skc_to_mptcp_sock(sk);
	if (!above)
		return;
	peer = bpf_sk_storage_get(&sockets_v2, above, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (peer)
		peer_set(peer, cookie, service, port, d);
}

static __always_inline int socket_connect(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	__be16 port = ctx->user_port;
	__u8 protocol = socket_protocol(ctx);
	const struct frontend *frontend;
	struct decision d = {};

	if (!protocol)
		return ALLOW;
	v1_forget(ctx);
	frontend = socket_frontend(ctx, &addr, protocol, ctx->sk && ctx->sk->src_port);
	if (!frontend) {
		/* A socket may connect again: what it dialled before says nothing about this peer.
		 */
		bpf_sk_storage_delete(&sockets_v2, ctx->sk);
		return ALLOW;
	}
	socket_decide(ctx, frontend, &addr, &d);
	if (!d.reason && !socket_redirect(ctx, v6, &d.pick.addr, d.pick.port))
		d.reason = REASON_STALE_TABLES;
	if (d.reason)
		return socket_refuse(&addr, port, protocol, &d);
	socket_remember(ctx, &addr, port, &d);
	return ALLOW;
}

/* getpeername: the Service, also after the socket has moved to another backend. */
static __always_inline int socket_peer(struct bpf_sock_addr *ctx, bool v6)
{
	struct address addr = socket_address(ctx, v6);
	struct peer *peer;

	if (!socket_protocol(ctx))
		return ALLOW;
	peer = bpf_sk_storage_get(&sockets_v2, ctx->sk, NULL, 0);
	if (!peer)
		v1_show_peer(ctx, v6);
	else if (choice_sends(&peer->choice, &addr, ctx->user_port))
		socket_redirect(ctx, v6, &peer->choice.service, peer->choice.service_port);
	return ALLOW;
}
