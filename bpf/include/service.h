/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend a new connection to a frontend gets. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "maps.h"
#include "operate.h"
#include "reasons.h"

struct pick {
	struct address addr;
	__u32 backend;
	__be16 port;
	__u16 pad;
};

/*
 * How often a pick starts again. User space lowers a set's count after it has moved the last slot
 * into the hole, so a reader between the two may find its slot gone; an element of a hash map may
 * also be used again for another key while it is read. Both are over before a second look.
 */
#define PICK_ATTEMPTS 3

static __always_inline int pick_once(__u32 set, struct pick *pick)
{
	struct backend_set *backends;
	struct backend *backend;
	struct slot_key slot = { .set = set };
	__u32 count, *id;

	backends = look_up(&sets_v2, &set);
	if (!backends)
		return REASON_STALE_TABLES;
	count = *(volatile __u32 *)&backends->count;
	if (!count)
		return REASON_NO_BACKEND;
	slot.index = ((__u64)bpf_get_prandom_u32() * count) >> 32;
	id = look_up(&slots_v1, &slot);
	if (!id)
		return REASON_STALE_TABLES;
	pick->backend = *(volatile __u32 *)id;
	backend = look_up(&backends_v2, &pick->backend);
	if (!backend)
		return REASON_STALE_TABLES;
	pick->addr = backend->addr;
	pick->port = backend->port;
	/* A backend belongs to one ServicePort: another's would mean that the slot was used again.
	 */
	return *(volatile __u32 *)&backend->set == set ? REASON_NONE : REASON_STALE_TABLES;
}

/*
 * A random backend of a set, all alike likely. Returns a reason, REASON_NONE for found.
 * Three lookups: set, slot, backend.
 */
static __always_inline int pick_backend(__u32 set, struct pick *pick)
{
	int reason = REASON_STALE_TABLES;

	for (int i = 0; i < PICK_ATTEMPTS && reason == REASON_STALE_TABLES; i++)
		reason = pick_once(set, pick);
	return reason;
}

/* The frontend that a client dials, NULL for what is no Service's. One lookup. */
static __always_inline struct frontend *find_frontend(const struct address *addr, __be16 port,
						      __u8 protocol)
{
	struct frontend_key key = { .addr = *addr, .port = port, .protocol = protocol };

	return look_up(&frontends_v2, &key);
}

/*
 * Says if a backend that was chosen earlier still serves what frontend now stands for: an address
 * may have gone to another Service while the backend lives, and its id to another backend while the
 * client was silent for longer than ids are kept from use. Without a frontend it is enough that the
 * backend lives. One lookup.
 */
static __always_inline bool backend_serves(__u32 id, const struct address *addr, __be16 port,
					   const struct frontend *frontend)
{
	struct backend *backend = look_up(&backends_v2, &id);

	return backend && backend->port == port && address_equal(&backend->addr, addr) &&
	       (!frontend || backend->set == frontend->set);
}
