/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a client dials: an exact address, or one of the node's own by a NodePort or hostPort. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "maps.h"
#include "operate.h"

/* FrontendKind of internal/model. */
#define FRONTEND_CLUSTER_IP    1
#define FRONTEND_NODE_PORT     2
#define FRONTEND_EXTERNAL_IP   3
#define FRONTEND_LOAD_BALANCER 4
#define FRONTEND_HOST_PORT     5
#define FRONTEND_REFUSED       6
/* Not in a table: an address of the service CIDR that no Service has. */
#define FRONTEND_UNALLOCATED 255

/* FrontendFlags of internal/model. */
#define FRONTEND_INTERNAL_LOCAL 1
#define FRONTEND_EXTERNAL_LOCAL 2
#define FRONTEND_SOURCE_RANGES	4
/* Clients from outside keep their address where the backend is on another node; answers come back
 * the same way, or the backend's node gives them itself. */
#define FRONTEND_FORWARD_TUNNEL 8
#define FRONTEND_FORWARD_DSR	16

/* Match of internal/model. */
#define MATCH_ADDRESS	0
#define MATCH_NODE_PORT 1
#define MATCH_HOST_PORT 2

/* NetworkKind of internal/model. */
#define NETWORK_PODS	 1
#define NETWORK_SERVICES 2

struct prefix {
	struct address addr; /* masked */
	struct address mask;
};

/*
 * The prefixes of networks_v1 that are of NETWORK_SERVICES, written by user space while programs
 * run: what nearly every packet of no Service is asked costs no lookup. What seems to be in one is
 * asked of networks_v1, so that a reader in the middle of a change drops nothing.
 */
#define SERVICE_NETWORKS 16
struct {
	__u32 count;
	__u32 pad[3];
	struct prefix prefixes[SERVICE_NETWORKS];
} service_networks;

static const struct frontend unallocated = { .kind = FRONTEND_UNALLOCATED };

static __always_inline bool prefix_has(const volatile struct prefix *p, const struct address *a)
{
	return !(((a->words[0] & p->mask.words[0]) ^ p->addr.words[0]) |
		 ((a->words[1] & p->mask.words[1]) ^ p->addr.words[1]) |
		 ((a->words[2] & p->mask.words[2]) ^ p->addr.words[2]) |
		 ((a->words[3] & p->mask.words[3]) ^ p->addr.words[3]));
}

/* The kind of network that an address is in; 0 for none. One lookup. */
static __always_inline __u8 network_kind(const struct address *addr)
{
	struct network_key key = { .bits = 128, .addr = *addr };
	struct network *network = look_up(&networks_v1, &key);

	return network ? network->kind : 0;
}

/* Global, and so without pointers, which Linux takes from 5.12 on: the verifier walks its steps
 * once, whoever calls it. */
__noinline int has_service_address(__u32 a, __u32 b, __u32 c, __u32 d)
{
	struct address addr = { { a, b, c, d } };

	for (__u32 i = 0; i < SERVICE_NETWORKS && i < *(volatile __u32 *)&service_networks.count;
	     i++) {
		if (prefix_has(&service_networks.prefixes[i], &addr))
			return network_kind(&addr) == NETWORK_SERVICES;
	}
	return 0;
}

/* Says if an address is of the service CIDR. No lookup, if it isn't. */
static __always_inline bool is_service_address(const struct address *addr)
{
	return has_service_address(addr->words[0], addr->words[1], addr->words[2], addr->words[3]);
}

static __always_inline const struct frontend *frontend_of(struct frontend_key *key)
{
	return look_up(&frontends_v2, key);
}

/*
 * One of the node's own addresses; NULL for others. Loopback addresses mean this node to its own
 * processes alone: host_loopback.
 */
static __always_inline struct local *find_local(const struct address *addr, bool host_loopback)
{
	struct local *local = look_up(&locals_v1, addr);

	if (!local || (local->flags & LOCAL_LOOPBACK && !host_loopback))
		return NULL;
	return local;
}

/*
 * Says if a frontend at an exact address is reached at it. A pod's hostIP is what its author wrote:
 * without this, one could take any address. __noinline: rare.
 */
static __noinline bool is_reached(const struct frontend *frontend, const struct address *addr,
				  bool host_loopback)
{
	return frontend->kind != FRONTEND_HOST_PORT || find_local(addr, host_loopback);
}

/* The unspecified address of the family in place of an address: 0.0.0.0, mapped, or ::. */
static __always_inline void any_address(struct address *addr)
{
	bool v4 = address_is_v4(addr);

	addr->words[0] = addr->words[1] = addr->words[3] = 0;
	addr->words[2] = v4 ? bpf_htonl(0xffff) : 0;
}

/* The frontend of one of the node's own addresses. */
static __always_inline const struct frontend *find_own_frontend(struct frontend_key *key,
								bool host_loopback)
{
	const struct frontend *frontend = NULL;
	struct local *local = find_local(&key->addr, host_loopback);

	if (!local)
		return NULL;
	any_address(&key->addr);
	if (local->flags & LOCAL_NODE_PORT) {
		key->match = MATCH_NODE_PORT;
		frontend = frontend_of(key);
	}
	if (!frontend) {
		key->match = MATCH_HOST_PORT;
		frontend = frontend_of(key);
	}
	return frontend;
}

/*
 * The frontend that a client dials; NULL for what is no Service's. One that serves nothing, of kind
 * FRONTEND_REFUSED or FRONTEND_UNALLOCATED, is for a Service's address without this port and an
 * address without Service. host_loopback says that a loopback address means this node: the dialler
 * is a socket of the host's network namespace.
 *
 * Lookups: a frontend's exact address 1 (a hostPort's 2), no Service's 2, a NodePort 3, a hostPort
 * of all addresses 3 or 4, an address of the service CIDR that serves nothing 4. __noinline: its
 * keys stay off its callers' stacks, of which there are 512 bytes for all.
 */
static __noinline const struct frontend *find_frontend(const struct address *addr, __be16 port,
						       __u8 protocol, bool host_loopback)
{
	struct frontend_key key = { .addr = *addr, .port = port, .protocol = protocol };
	const struct frontend *frontend = frontend_of(&key);

	if (frontend && is_reached(frontend, &key.addr, host_loopback))
		return frontend;
	frontend = find_own_frontend(&key, host_loopback);
	if (frontend || !is_service_address(addr))
		return frontend;
	key = (struct frontend_key){ .addr = *addr };
	frontend = frontend_of(&key);
	return frontend ? frontend : &unallocated;
}
