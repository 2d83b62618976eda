/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A process of the node binds a port. One that is a NodePort is taken: who dials it gets the
 * Service, so a server there would wait in vain. Pods have ports of their own.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "frontend.h"
#include "maps.h"
#include "operate.h"
#include "socket.h"

/* Says if a port of one family is a NodePort. any is the family's unspecified address. One lookup.
 */
static __always_inline bool is_node_port(const struct address *any, __be16 port, __u8 protocol)
{
	struct frontend_key key = {
		.addr = *any,
		.port = port,
		.protocol = protocol,
		.match = MATCH_NODE_PORT,
	};

	return look_up(&frontends_v2, &key);
}

/* Says if NodePorts are served at an address of the node. One lookup. */
static __always_inline bool serves_node_ports(const struct address *addr)
{
	struct local *local = look_up(&locals_v1, addr);

	return local && local->flags & LOCAL_NODE_PORT;
}

static __always_inline bool is_unspecified(const struct address *addr)
{
	return !(addr->words[0] | addr->words[1] | addr->words[3]) &&
	       (!addr->words[2] || addr->words[2] == bpf_htonl(0xffff));
}

/* Lookups: a port that is no NodePort 1; one of an IPv6 socket, which takes both families, 2. */
static __always_inline int socket_bind(struct bpf_sock_addr *ctx, bool v6)
{
	const struct address any4 = address_of_v4(0), any6 = {};
	struct address addr = socket_address(ctx, v6);
	__u8 protocol = socket_protocol(ctx);
	__be16 port = ctx->user_port;
	bool every = is_unspecified(&addr);
	bool taken;

	if (!protocol || !port || !is_host(bpf_get_netns_cookie(ctx)))
		return ALLOW;
	taken = is_node_port(address_is_v4(&addr) ? &any4 : &any6, port, protocol);
	if (!taken && every && !address_is_v4(&addr))
		taken = is_node_port(&any4, port, protocol);
	if (!taken || (!every && !serves_node_ports(&addr)))
		return ALLOW;
	return socket_fail(EADDRINUSE);
}
