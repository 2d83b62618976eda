/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows, connections and affinities are read and written through here, never by their maps alone:
 * while their maps are being exchanged (for a larger one, or one of a newer layout), what the new
 * map lacks is taken from the old one. Nothing is lost, whichever interface a packet comes by and
 * whichever program is there, the old or the new one.
 *
 * Afterwards user space exchanges the programs for some that do not adopt: they are the same
 * programs with the switch off, and the verifier removes all this from them.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "clock.h"
#include "maps.h"
#include "operate.h"

#define ADOPT_NOTHING 0
#define ADOPT_SAME    1 /* from maps of the same layout, which old programs may still use */
#define ADOPT_V1      2 /* from flows_v1 */

/* Set by user space while maps are exchanged. */
volatile const __u32 adopting;

/* The maps to adopt from; user space puts them in place when the programs are loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, struct flow);
} old_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} old_affinities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct connection_key);
	__type(value, struct connection);
} old_connections SEC(".maps");

/* The value of flows_v1. Its key was struct tuple, with "reverse" for what is leaving now. */
struct v1_flow {
	struct address addr;
	__u32 backend;
	__u32 sequence;
	__be16 port;
	__be16 client_port;
	__u8 closing; /* an end was seen in this direction */
	__u8 pad[3];
};
_Static_assert(sizeof(struct v1_flow) == 32, "v1_flow");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, struct v1_flow);
} old_v1_flows SEC(".maps");

/* What is being translated. Not on the stack: there is little of that left where flows are begun.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} adopted SEC(".maps");

/*
 * Says what a flow of layout 1 is now. It knew no set. A backend that has another id now is 0,
 * unknown, and is not asked after.
 */
static __always_inline void translate_v1(const struct tuple *key, const struct v1_flow *old,
					 struct flow *flow)
{
	struct backend *backend;

	/* Field by field: a whole one would be put together on the stack. */
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->addr = old->addr;
	flow->sequence = old->sequence;
	flow->seen = now_seconds();
	flow->port = old->port;
	flow->other_port = old->client_port;
	flow->state = FLOW_ANSWERED | (key->leaving ? 0 : FLOW_FORWARD) |
		      (old->closing ? FLOW_FIN : 0);
	backend = look_up(&backends_v3, &old->backend);
	if (backend && backend->port == (key->leaving ? key->source_port : old->port) &&
	    address_equal(&backend->addr, key->leaving ? &key->source : &old->addr)) {
		flow->backend = old->backend;
		flow->set = backend->set;
	}
}

/* Takes an entry over from the old map. __noinline: rare, and to be verified once. */
static __noinline struct flow *adopt_flow(const struct tuple *key)
{
	struct v1_flow *v1;
	struct flow *flow;
	__u32 zero = 0;

	if (adopting == ADOPT_V1) {
		v1 = look_up(&old_v1_flows, key);
		flow = look_up(&adopted, &zero);
		if (!v1 || !flow)
			return NULL;
		translate_v1(key, v1, flow);
	} else {
		flow = look_up(&old_flows, key);
		if (!flow)
			return NULL;
	}
	write_to(&flows_v2, key, flow, BPF_NOEXIST);
	return look_up(&flows_v2, key);
}

/* The entry of a flow, NULL for none. One lookup. */
static __always_inline struct flow *find_flow(const struct tuple *key)
{
	struct flow *flow = look_up(&flows_v2, key);

	return flow || !adopting ? flow : adopt_flow(key);
}

/* Writes an entry of a flow; flags are BPF_ANY or BPF_NOEXIST. Returns 0 or a negative error. */
static __always_inline int write_flow(const struct tuple *key, const struct flow *flow, __u64 flags)
{
	int error = write_to(&flows_v2, key, flow, flags);

	if (adopting == ADOPT_SAME && !error)
		write_to(&old_flows, key, flow, BPF_ANY);
	return error;
}

/* Deletes an entry of a flow. */
static __always_inline void delete_flow(const struct tuple *key)
{
	delete_from(&flows_v2, key);
	if (adopting == ADOPT_SAME)
		delete_from(&old_flows, key);
	if (adopting == ADOPT_V1)
		delete_from(&old_v1_flows, key);
}

/* The backend that a client had, NULL for none. One lookup. */
static __always_inline struct affinity *find_affinity(const struct affinity_key *key)
{
	struct affinity *had = look_up(&affinities_v1, key);

	if (had || adopting != ADOPT_SAME)
		return had;
	return look_up(&old_affinities, key);
}

/* Writes which backend a client has. */
static __always_inline void write_affinity(const struct affinity_key *key,
					   const struct affinity *now)
{
	write_to(&affinities_v1, key, now, BPF_ANY);
	if (adopting == ADOPT_SAME)
		write_to(&old_affinities, key, now, BPF_ANY);
}

/* As adopt_flow. */
static __noinline struct connection *adopt_connection(const struct connection_key *key)
{
	struct connection *c = look_up(&old_connections, key);

	if (!c)
		return NULL;
	write_to(&connections_v1, key, c, BPF_NOEXIST);
	return look_up(&connections_v1, key);
}

/* The entry of a pod's connection, NULL for none. One lookup. */
static __always_inline struct connection *find_connection(const struct connection_key *key)
{
	struct connection *c = look_up(&connections_v1, key);

	return c || adopting != ADOPT_SAME ? c : adopt_connection(key);
}

/* Writes the entry of a pod's connection. */
static __always_inline void write_connection(const struct connection_key *key,
					     const struct connection *c)
{
	write_to(&connections_v1, key, c, BPF_ANY);
	if (adopting == ADOPT_SAME)
		write_to(&old_connections, key, c, BPF_ANY);
	look_up(&connections_v1, key); /* unread it would be the first to be evicted */
}
