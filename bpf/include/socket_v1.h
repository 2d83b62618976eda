/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What sockets that were there before an upgrade remember: their storage cannot be copied to maps
 * of a new layout, so that of layout 1 is read where there is none. It ends with the sockets.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "socket.h"

/* Set where the maps of layout 1 are pinned; user space puts them in place then. */
volatile const bool adopting_sockets;

struct v1_choice {
	struct address service;
	struct address addr;
	__u32 backend;
	__be16 service_port;
	__be16 port;
};
_Static_assert(sizeof(struct v1_choice) == 40, "v1_choice");

struct v1_choices {
	struct v1_choice entries[CHOICES];
	__u32 next;
	__u32 hidden;
};
_Static_assert(sizeof(struct v1_choices) == 328, "v1_choices");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct v1_choice);
} old_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct v1_choices);
} old_datagrams SEC(".maps");

/* Shows the Service of a choice if it is the backend that ctx names. */
static __always_inline bool v1_show(struct bpf_sock_addr *ctx, bool v6, const struct v1_choice *c)
{
	struct address addr = socket_address(ctx, v6);

	if (!c->backend || c->port != ctx->user_port || !address_equal(&c->addr, &addr))
		return false;
	return socket_redirect(ctx, v6, &c->service, c->service_port);
}

/* Shows a connected socket's peer. */
static __always_inline void v1_show_peer(struct bpf_sock_addr *ctx, bool v6)
{
	struct v1_choice *choice;

	if (!adopting_sockets)
		return;
	choice = bpf_sk_storage_get(&old_sockets, ctx->sk, NULL, 0);
	if (choice)
		v1_show(ctx, v6, choice);
}

/* Shows who sent a datagram. */
static __always_inline void v1_show_sender(struct bpf_sock_addr *ctx, bool v6)
{
	struct v1_choices *choices;

	if (!adopting_sockets)
		return;
	choices = bpf_sk_storage_get(&old_datagrams, ctx->sk, NULL, 0);
	if (!choices)
		return;
	for (int i = 0; i < CHOICES; i++) {
		if (!(choices->hidden & 1U << i) && v1_show(ctx, v6, &choices->entries[i]))
			return;
	}
}

/* What the socket dials now says more. */
static __always_inline void v1_forget(struct bpf_sock_addr *ctx)
{
	if (adopting_sockets)
		bpf_sk_storage_delete(&old_sockets, ctx->sk);
}
