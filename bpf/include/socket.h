/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A socket as the hooks see it: what it dials, what it gets instead, who it belongs to. An IPv6
 * socket that dials ::ffff:a.b.c.d comes by the v6 hooks, with the same bytes in the maps as an
 * IPv4 one.
 *
 * Sockets of SCTP pass no hook: the kernel asks at connect and bind of TCP, UDP and what is built
 * on them alone. Their packets are translated one by one.
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
#include "frontend.h"
#include "host.h"
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

/* The Service protocol of a socket; 0 for what no hook translates. */
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

/* The call fails with error, a positive errno. */
static __always_inline int socket_fail(int error)
{
	if (can_set_error)
		bpf_set_retval(-error);
	return REFUSE;
}

/*
 * The frontend that a socket dials; NULL for what is no Service's and for what is left to the
 * packets: only they show a pod's true address, which loadBalancerSourceRanges are about, and only
 * they can be masqueraded or get another port. bound says that the socket's port is taken, so that
 * another socket may have it too: dialling two Services of one backend they would have one name.
 */
static __always_inline const struct frontend *
socket_frontend(struct bpf_sock_addr *ctx, const struct address *addr, __u8 protocol, bool bound)
{
	bool host = is_host(bpf_get_netns_cookie(ctx));
	const struct frontend *frontend;
	struct address dialled = *addr;

	if (host)
		host_loopback(&dialled);
	frontend = find_frontend(&dialled, ctx->user_port, protocol, host);
	if (!frontend || host)
		return frontend;
	return masquerade_all || bound || frontend->flags & FRONTEND_SOURCE_RANGES ? NULL
										   : frontend;
}

/*
 * Decides for a socket. It is known by its network namespace, since it may have no address yet.
 * Where source ranges count it is the node's own, whose packets pass no hook on the way out, and
 * judged by the node's address. __noinline: the stack is short.
 */
static __noinline void socket_decide(struct bpf_sock_addr *ctx, const struct frontend *frontend,
				     const struct address *addr, struct decision *d)
{
	struct dialler who = { .cookie = bpf_get_netns_cookie(ctx), .inside = true };

	if (frontend->flags & FRONTEND_SOURCE_RANGES)
		who.addr = host_address(address_is_v4(addr));
	decide(&who, frontend, addr, d);
}

/*
 * Says no to what decide() took not: at once, whether a client of the packet path would be told or
 * wait, since no packet leaves.
 */
static __always_inline int socket_refuse(const struct address *addr, __be16 port, __u8 protocol,
					 const struct decision *d)
{
	struct tuple tuple = {
		.destination = *addr,
		.destination_port = port,
		.protocol = protocol,
	};

	drop_report(&tuple, d->root, d->reason, VIA_SOCKET);
	return socket_fail(d->reject ? ECONNREFUSED : ETIMEDOUT);
}
