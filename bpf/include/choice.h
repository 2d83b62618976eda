/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a socket remembers of the Services it dialled: in its own storage, gone with it. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "maps.h"
#include "service.h"

/* Says if two addresses and ports are the same, as 1 or 0. Without branches, see choices_show. */
static __always_inline __u32 same_end(const struct address *a, __be16 a_port,
				      const struct address *b, __be16 b_port)
{
	__u64 differs = (a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) |
			(a->words[2] ^ b->words[2]) | (a->words[3] ^ b->words[3]) |
			(a_port ^ b_port);

	return (differs - 1) >> 63;
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

/*
 * Says if a choice still serves what its Service's address stands for now: the address may have
 * gone to another Service while the backend lives. One lookup.
 */
static __always_inline bool choice_serves(const struct choice *choice,
					  const struct frontend *frontend)
{
	return choice->set == frontend->set &&
	       backend_serves(choice->backend, &choice->addr, choice->port, choice->set);
}

static __always_inline void choice_set(struct choice *choice, const struct address *service,
				       __be16 port, const struct decision *d)
{
	choice->service = *service;
	choice->service_port = port;
	choice->addr = d->pick.addr;
	choice->port = d->pick.port;
	choice->set = d->root;
	choice->backend = d->pick.backend;
}

/* The index of the entry for a Service: its own, else the one to forget. Without branches, see
 * choices_show: all that follows would be verified for each index. */
static __always_inline __u32 choice_index(struct choices *choices, const struct address *addr,
					  __be16 port)
{
	__u32 index = choices->next, found = 0;

	for (__u32 i = 0; i < CHOICES; i++) {
		const struct choice *c = &choices->entries[i];
		__u32 same = same_end(&c->service, c->service_port, addr, port) & !!c->backend;

		index ^= (index ^ i) & -same;
		found |= same;
	}
	choices->next += 1 - found;
	return index % CHOICES;
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

		hidden |= same_end(&c->addr, c->port, addr, port) << i;
	}
	choices->hidden = hidden & ~(1U << shown);
}
