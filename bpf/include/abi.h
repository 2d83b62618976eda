/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the maps that user space and the kernel share. internal/abi has the same in
 * Go, and a test holds the two together by BTF. A changed layout is a new map name (the _v1 in
 * maps.h) and a migration.
 *
 * Addresses are 16 bytes, IPv4 mapped (::ffff:a.b.c.d). Ports are in network byte order, all else
 * in the host's.
 */
#pragma once

#include <linux/types.h>

struct address {
	__be32 words[4];
};

/* Written by user space, read by the programs. */

struct frontend_key {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key");

struct frontend {
	__u32 set;
	__u8 kind;  /* FrontendKind of internal/model */
	__u8 layer; /* LayerKind of internal/model: whose row this is */
	__u16 pad;
};
_Static_assert(sizeof(struct frontend) == 8, "frontend");

/* key: __u32 set id */
struct backend_set {
	__u32 count; /* slots 0 to count-1 are in use; 0 refuses */
	__u16 port;  /* the Service's port, host byte order */
	__u8 protocol;
	__u8 family;
	__u8 scope;
	__u8 layer;
	__u16 pad;
	char service[128]; /* "namespace/name", NUL-terminated */
};
_Static_assert(sizeof(struct backend_set) == 140, "backend_set");

/* value: __u32 backend id */
struct slot_key {
	__u32 set;
	__u32 index;
};
_Static_assert(sizeof(struct slot_key) == 8, "slot_key");

/* key: __u32 backend id */
struct backend {
	struct address addr;
	__u32 set; /* the ServicePort's set of all backends: what a reader checks a slot's backend
		      by */
	__be16 port;
	__u8 state; /* BackendState of internal/model */
	__u8 layer;
};
_Static_assert(sizeof(struct backend) == 24, "backend");

/* key: struct address */
struct endpoint {
	__u8 layer;
	__u8 pad[3];
	char pod[320]; /* "namespace/name", NUL-terminated */
};
_Static_assert(sizeof(struct endpoint) == 324, "endpoint");

/* One per layer kind, in a memory-mapped array: how far the maps have come. */
struct position {
	__u64 epoch;
	__u64 revision;
	__u64 digest[2];
};
_Static_assert(sizeof(struct position) == 32, "position");

/* Written by the programs, read by user space. */

/*
 * Key of a flow: the packet as it arrives. Forward: what the client sends, to the Service. Reverse:
 * what the backend sends, to the client.
 */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 reverse; /* 1 in the key of a reverse flow */
	__u16 pad;
};
_Static_assert(sizeof(struct tuple) == 40, "tuple");

/* What to put into the packet in place of the Service's address (forward) or the backend's
 * (reverse). */
struct flow {
	struct address addr;
	__u32 backend;	/* its id */
	__u32 sequence; /* of the SYN that began it (TCP), host byte order: a retransmitted SYN has
			   the same */
	__be16 port;
	__be16 client_port; /* the client's port as the other side of the translation knows it */
	__u8 closing;	    /* 1 once a RST or FIN was seen in this direction */
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow) == 32, "flow");

/* What a socket dialled and what it got: the socket's own storage. */
struct choice {
	struct address service;
	struct address addr;
	__u32 backend;
	__be16 service_port;
	__be16 port;
};
_Static_assert(sizeof(struct choice) == 40, "choice");

/* The Services that one unconnected UDP socket sends to. One that sends to more forgets the oldest
 * choice. */
#define CHOICES 8
struct choices {
	struct choice entries[CHOICES];
	__u32 next;   /* the entry to forget next */
	__u32 hidden; /* a bit per entry: its backend was asked in another name since */
};
_Static_assert(sizeof(struct choices) == 328, "choices");

struct drop_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 set; /* 0: none */
	__u8 protocol;
	__u8 reason; /* DropReason of internal/model, see reasons.h */
	__u8 via;    /* 1 socket, 2 packet */
	__u8 pad;
	__u32 pad2;
};
_Static_assert(sizeof(struct drop_event) == 56, "drop_event");
