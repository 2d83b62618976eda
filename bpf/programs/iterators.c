// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * User space runs these when a backend has gone: over all sockets that are connected to a Service,
 * whatever namespace they are in, and over the node's own.
 *
 *   mend_peers     a socket's backend gone? ── UDP ──► a flow: packets pick another
 *                                           ── TCP ──► a flow that answers with a RST
 *   destroy_tcp, destroy_udp   the node's own sockets ──► ECONNABORTED
 *
 * Lookups of a socket whose backend is there: 1.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "gone.h"

SEC("iter/bpf_sk_storage_map")
int mend_peers(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct peer *peer = ctx->value;
	struct sock *sk = ctx->sk;

	if (sk && peer)
		mend(sk, peer);
	return 0;
}

static __always_inline int destroy(struct sock_common *sk, struct peer *peer)
{
	if (peer && backend_gone(&peer->choice) && !bpf_sock_destroy(sk))
		moves.destroyed++;
	return 0;
}

SEC("iter/tcp")
int destroy_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;

	return sk ? destroy(sk, bpf_sk_storage_get(&sockets_v2, sk, NULL, 0)) : 0;
}

SEC("iter/udp")
int destroy_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;

	return sk ? destroy((struct sock_common *)sk, bpf_sk_storage_get(&sockets_v2, sk, NULL, 0))
		  : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
