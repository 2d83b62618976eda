/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether a new connection to a frontend is taken, and by which backend. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "affinity.h"
#include "frontend.h"
#include "maglev.h"
#include "maps.h"
#include "operate.h"
#include "reasons.h"

/* Scope of internal/model. */
#define SCOPE_ALL	1
#define SCOPE_ZONE	2
#define SCOPE_NODE	3
#define SCOPE_LOCAL	4
#define SCOPE_HOST_PORT 5

/* SetFlags of internal/model. */
#define SET_NODE_HINTS 1
#define SET_ZONE_HINTS 2
#define SET_FALLBACK   4
#define SET_EXTERNAL   8 /* clients from outside get to it under externalTrafficPolicy Cluster */

/* BackendState of internal/model. */
#define BACKEND_ACTIVE	    1
#define BACKEND_TERMINATING 2

/* Masquerade all that leaves the node translated (kube-proxy's --masquerade-all). Set at load. */
volatile const bool masquerade_all;

struct pick {
	struct address addr;
	__u32 backend;
	__u32 node; /* the backend's, by number; 0: not known */
	__be16 port;
	__u16 pad;
};

/* Who dials. */
struct dialler {
	struct address addr; /* packets: the source address; sockets: one of the dialler's, or zero
				if none is known yet */
	__u64 cookie;	     /* sockets: of the network namespace; packets: 0 */
	__u64 hash;	     /* maglev_hash of what a client from outside sent */
	bool inside;	     /* a pod or the node itself, not a client from outside */
	bool amid;	     /* a connection that began elsewhere: nothing is remembered of it */
};

struct decision {
	struct pick pick; /* where reason is REASON_NONE */
	__u32 set;	  /* the one picked from: root or a part of it */
	__u32 root;
	__u16 flags; /* of the frontend */
	__u8 kind;   /* of the frontend */
	__u8 reason; /* REASON_NONE: taken */
	bool reject; /* of what is not taken: the client is told at once; else dropped */
	bool local;  /* picked under a Local policy */
	bool sure;   /* who picks again picks the same */
};

/*
 * How often a pick starts again. User space lowers a set's count after it has moved the last slot
 * into the hole, so a reader between the two may find its slot gone; an element of a hash map may
 * also be used again for another key while it is read. Both are over before a second look.
 */
#define PICK_ATTEMPTS 3

static __always_inline struct backend_set *find_set(__u32 id)
{
	return look_up(&sets_v2, &id);
}

static __always_inline __u32 set_count(const struct backend_set *set)
{
	return *(const volatile __u32 *)&set->count;
}

/*
 * The id to remember a backend by: that of the cluster layer, since a policy or a hint may be taken
 * from a Service, and the rows of the node's layer with it, while the backend lives. Where the
 * node's layer is ahead of the cluster's there may be none yet. One lookup for a backend of the
 * node's layer.
 */
static __always_inline __u32 lasting_id(__u32 id, __u32 twin_id, __u32 root)
{
	struct backend *twin = twin_id ? look_up(&backends_v3, &twin_id) : NULL;

	return twin && twin->set == root ? twin_id : id;
}

/* A backend by id as what a pick returns. A backend belongs to one ServicePort: another's would
 * mean that the id was used again. */
static __always_inline struct backend *pick_known(__u32 id, __u32 root, struct pick *pick)
{
	struct backend *backend = look_up(&backends_v3, &id);

	if (!backend)
		return NULL;
	pick->addr = backend->addr;
	pick->port = backend->port;
	pick->node = backend->node;
	pick->backend = lasting_id(id, backend->twin, root);
	return *(volatile __u32 *)&backend->set == root ? backend : NULL;
}

static __always_inline int pick_once(__u32 set, __u32 count, __u32 root, struct pick *pick)
{
	struct slot_key slot = { .set = set };
	__u32 *id;

	slot.index = ((__u64)bpf_get_prandom_u32() * count) >> 32;
	id = look_up(&slots_v1, &slot);
	if (!id || !pick_known(*(volatile __u32 *)id, root, pick))
		return REASON_STALE_TABLES;
	return REASON_NONE;
}

/*
 * A random backend of a set, all alike likely. Returns a reason, REASON_NONE for found.
 * Two lookups: slot, backend.
 */
static __always_inline int pick_backend(__u32 set, const struct backend_set *backends, __u32 root,
					struct pick *pick)
{
	int reason = REASON_STALE_TABLES;
	__u32 count;

	for (int i = 0; i < PICK_ATTEMPTS && reason == REASON_STALE_TABLES; i++) {
		if (i)
			backends = find_set(set);
		if (!backends)
			return REASON_STALE_TABLES;
		count = set_count(backends);
		if (!count)
			return REASON_NO_BACKEND;
		reason = pick_once(set, count, root, pick);
	}
	return reason;
}

/* A part of a root set that has backends; 0 for none. Two lookups. */
static __always_inline __u32 find_view(__u32 root, __u8 scope, __u64 place,
				       struct backend_set **backends)
{
	struct view_key key = { .place = place, .set = root, .scope = scope };
	struct view *view = look_up(&views_v1, &key);
	struct backend_set *part;

	if (!view)
		return 0;
	part = find_set(view->set);
	if (!part || !set_count(part))
		return 0;
	*backends = part;
	return view->set;
}

/* The part of a root set that topology hints ask this node to use, else the root. */
static __always_inline __u32 find_hinted(__u32 root, struct backend_set **backends)
{
	__u8 hints = (*backends)->flags;
	__u32 zero = 0, set = 0;
	struct self *self;

	if (hints & SET_FALLBACK)
		return root;
	if (hints & SET_NODE_HINTS)
		set = find_view(root, SCOPE_NODE, 0, backends);
	if (!set && hints & SET_ZONE_HINTS) {
		self = look_up(&self_v1, &zero);
		if (self && self->place)
			set = find_view(root, SCOPE_ZONE, self->place, backends);
	}
	return set ? set : root;
}

/* Says if a client is one that a Service with loadBalancerSourceRanges takes. One lookup. */
static __always_inline bool source_allowed(const struct address *client, __u32 root,
					   const struct address *dialled)
{
	struct source_range_key key = {
		.bits = 32 + 128,
		.set = bpf_htonl(root),
		.addr = *client,
	};

	/* A load balancer's own address: its health checks through itself. */
	return address_equal(client, dialled) || look_up(&source_ranges_v1, &key);
}

/* Says if only backends of this node may be picked. */
static __always_inline bool local_only(const struct decision *d, bool inside)
{
	/* A ClusterIP has no external policy, wherever it is dialled from. */
	if (inside || d->kind == FRONTEND_CLUSTER_IP)
		return d->flags & FRONTEND_INTERNAL_LOCAL;
	return d->flags & FRONTEND_EXTERNAL_LOCAL;
}

/* What the client of a root had while a policy or hints gave it a part in the node's layer. Two
 * lookups. */
static __always_inline __u32 affinity_of_parts(const struct affinity_key *of, __u32 seconds)
{
	struct affinity_key key = *of;
	__u32 had;

	key.scope = SCOPE_LOCAL;
	had = affinity_recall(&key, seconds);
	if (had)
		return had;
	key.scope = SCOPE_NODE;
	return affinity_recall(&key, seconds);
}

/* What all nodes pick for a client from outside; false where there is no table, or one that
 * changes. Three lookups: the table's number, the table, backend. */
static __noinline bool pick_alike(__u32 set, __u32 root, __u64 hash, struct pick *pick)
{
	__u32 id = maglev_backend(set, hash);

	return id && pick_known(id, root, pick);
}

/* A backend for who has none yet. Returns a reason. */
static __always_inline int pick_anew(const struct dialler *who, struct decision *d,
				     const struct backend_set *backends)
{
	__u64 hash = who->hash;
	int reason;

	if (backends->affinity)
		hash = maglev_hash_client(&who->addr);
	d->sure = !who->inside && backends->flags & SET_EXTERNAL &&
		  pick_alike(d->set, d->root, hash, &d->pick);
	if (d->sure)
		return REASON_NONE;
	reason = pick_backend(d->set, backends, d->root, &d->pick);
	d->sure = !reason && set_count(backends) == 1;
	return reason;
}

/* The backend that the client had last, while it takes connections, else another. */
static __always_inline int pick_with_affinity(const struct dialler *who, struct decision *d,
					      struct backend_set *backends)
{
	struct affinity_key key = { .cookie = who->cookie, .set = d->set };
	struct backend *backend = NULL;
	__u32 had;
	int reason;

	if (!backends->affinity)
		return pick_anew(who, d, backends);
	if (!key.cookie)
		key.client = who->addr;
	if (backends->scope == SCOPE_LOCAL || backends->scope == SCOPE_NODE) {
		key.set = d->root;
		key.scope = backends->scope;
	}
	had = affinity_recall(&key, backends->affinity);
	if (!had && d->set == d->root)
		had = affinity_of_parts(&key, backends->affinity);
	if (had)
		backend = pick_known(had, d->root, &d->pick);
	d->sure = backend && (backend->state == BACKEND_ACTIVE || backends->flags & SET_FALLBACK);
	reason = d->sure ? REASON_NONE : pick_anew(who, d, backends);
	if (!reason && !who->amid)
		affinity_remember(&key, d->pick.backend);
	return reason;
}

/*
 * Picks a backend of d->root for a new connection, by d->flags and d->kind. Returns a reason.
 * Lookups: set, slot, backend; 2 more for a part of the set, 1 for a backend of the node's layer or
 * the node's zone, 3 for affinity, 2 more for a client of a root that is new to it, 1 more for a
 * client from outside.
 */
static __always_inline int decide_backend(const struct dialler *who, const struct address *dialled,
					  struct decision *d)
{
	struct backend_set *backends = find_set(d->root);

	if (!backends)
		return REASON_STALE_TABLES;
	if (d->flags & FRONTEND_SOURCE_RANGES && !source_allowed(&who->addr, d->root, dialled))
		return REASON_SOURCE_RANGE;
	if (!set_count(backends))
		return REASON_NO_BACKEND;
	d->local = local_only(d, who->inside);
	if (d->local) {
		d->set = find_view(d->root, SCOPE_LOCAL, 0, &backends);
		if (!d->set)
			return REASON_NO_LOCAL_BACKEND;
	} else {
		d->set = find_hinted(d->root, &backends);
	}
	return pick_with_affinity(who, d, backends);
}

/*
 * Decides about a new connection to a frontend, the same for sockets and packets. d is filled in
 * any case. __noinline: rare next to the packets that follow, and to be verified once.
 */
static __noinline void decide(const struct dialler *who, const struct frontend *frontend,
			      const struct address *dialled, struct decision *d)
{
	*d = (struct decision){
		.root = frontend->set,
		.kind = frontend->kind,
		.flags = frontend->flags,
	};
	if (d->kind == FRONTEND_REFUSED)
		d->reason = REASON_WRONG_PORT;
	else if (d->kind == FRONTEND_UNALLOCATED)
		d->reason = REASON_UNALLOCATED;
	else
		d->reason = decide_backend(who, dialled, d);
	d->reject = d->reason == REASON_WRONG_PORT || d->reason == REASON_NO_BACKEND;
}

/*
 * Says if a backend that was chosen earlier still serves the Service it was chosen for: an address
 * may have gone to another Service while the backend lives, and its id to another backend while the
 * client was silent for longer than ids are kept from use. root 0: it is enough that the backend
 * lives. One lookup.
 */
static __always_inline bool backend_serves(__u32 id, const struct address *addr, __be16 port,
					   __u32 root)
{
	struct backend *backend = look_up(&backends_v3, &id);

	return backend && backend->port == port && address_equal(&backend->addr, addr) &&
	       (!root || backend->set == root);
}
