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

/* The index of the entry for a Service: its own, else the one to forget. */
static __always_inline __u32 choice_index(struct choices *choices, const struct address *addr,
					  __be16 port)
{
	for (__u32 i = 0; i < CHOICES; i++) {
		if (choice_is_of(&choices->entries[i], addr, port))
			return i;
	}
	return choices->next++ % CHOICES;
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
		__u64 differs = (c->addr.words[0] ^ addr->words[0]) |
				(c->addr.words[1] ^ addr->words[1]) |
				(c->addr.words[2] ^ addr->words[2]) |
				(c->addr.words[3] ^ addr->words[3]) | (c->port ^ port);

		hidden |= (__u32)((differs - 1) >> 63) << i;
	}
	choices->hidden = hidden & ~(1U << shown);
}
