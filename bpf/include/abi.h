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
	__u8 match; /* Match of internal/model */
};
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key");

struct frontend {
	__u32 set;   /* a root; 0: all that dial are refused */
	__u8 kind;   /* FrontendKind of internal/model */
	__u8 layer;  /* LayerKind of internal/model: whose row this is */
	__u16 flags; /* FrontendFlags of internal/model */
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
	__u8 flags; /* SetFlags of internal/model */
	__u8 pad;
	__u32 root;	/* the set that this one is a part of, or itself */
	__u64 place;	/* the zone or node of the scope */
	__u32 affinity; /* seconds; 0: none */
	__u32 pad2;
	char service[128]; /* "namespace/name", NUL-terminated */
};
_Static_assert(sizeof(struct backend_set) == 160, "backend_set");

/* value: __u32 set id. Parts of a root set. */
struct view_key {
	__u64 place; /* the zone for scope zone, else 0 */
	__u32 set;   /* the root */
	__u8 scope;
	__u8 pad[3];
};
_Static_assert(sizeof(struct view_key) == 16, "view_key");

struct view {
	__u32 set;
	__u8 layer;
	__u8 pad[3];
};
_Static_assert(sizeof(struct view) == 8, "view");

/* value: __u32 backend id */
struct slot_key {
	__u32 set;
	__u32 index;
};
_Static_assert(sizeof(struct slot_key) == 8, "slot_key");

/* key: __u32 backend id */
struct backend {
	struct address addr;
	__u64 place; /* the node, in a node's own layer */
	__u32 set;   /* the root set: what a reader checks a slot's backend by */
	__u32 node;  /* its number in nodes_v1; 0: not known */
	__u32 twin;  /* in a node's layer: the same backend in the cluster's, by id, which is what
			flows, sockets and affinities remember; 0: none */
	__be16 port;
	__u16 weight; /* of clients from outside, 1 to 100 */
	__u8 state;   /* BackendState of internal/model */
	__u8 layer;
	__u8 pad[6];
};
_Static_assert(sizeof(struct backend) == 48, "backend");

/* key: __u32 the node's number. How other nodes reach it. */
struct node {
	struct address v4; /* zero: none */
	struct address v6; /* zero: none */
	__u8 layer;
	__u8 pad[7];
};
_Static_assert(sizeof(struct node) == 40, "node");

/* key: struct address */
struct endpoint {
	__u64 ingress;	   /* rule sets: what judges what comes to the pod; 0: all passes */
	__u64 egress;	   /* and what it sends */
	__u32 incarnation; /* differs between pods that have one address after each other */
	__u8 layer;
	__u8 pad[3];
	char pod[320]; /* "namespace/name", NUL-terminated */
};
_Static_assert(sizeof(struct endpoint) == 344, "endpoint");

/* Policy. A rule set, a table of ports and a rule are known by what they mean: a hash of it. */

/* Of an address (peers, key: struct address) or of a prefix (blocks, key: struct network_key). */
struct identity {
	__u32 id; /* 0: whom no rule names */
	__u8 layer;
	__u8 pad[3];
};
_Static_assert(sizeof(struct identity) == 8, "identity");

struct verdict_key {
	__u64 rule_set;
	__u32 identity; /* 0: all that have no entry of their own */
	__u32 pad;
};
_Static_assert(sizeof(struct verdict_key) == 16, "verdict_key");

/* What a rule set says about an identity. Where there is none, also not of identity 0, nothing
 * passes. */
struct verdict {
	__u64 ports; /* the table of exceptions; 0: none */
	__u64 rule;  /* that decided; 0: none */
	__u8 action; /* Action of internal/model */
	__u8 layer;
	__u8 pad[6];
};
_Static_assert(sizeof(struct verdict) == 24, "verdict");

/* In a longest-prefix-match trie. */
struct port_verdict_key {
	__u32 bits;	 /* 64 for the table, 16 for the protocol, and those of the port */
	__be32 ports[2]; /* big endian */
	__u8 protocol;
	__u8 pad;
	__be16 port;
};
_Static_assert(sizeof(struct port_verdict_key) == 16, "port_verdict_key");

struct port_verdict {
	__u64 rule;
	__u8 action;
	__u8 layer;
	__u8 pad[6];
};
_Static_assert(sizeof(struct port_verdict) == 16, "port_verdict");

/* key: __u64 id. Not read by programs: names for what they report. */
struct rule_set {
	__u8 direction; /* Direction of internal/model */
	__u8 layer;
	__u8 pad[6];
	char policies[256]; /* NUL-terminated */
};
_Static_assert(sizeof(struct rule_set) == 264, "rule_set");

/* key: __u64 id. Not read by programs. */
struct rule {
	__u16 index;
	__u8 kind; /* PolicyKind of internal/model */
	__u8 direction;
	__u8 action;
	__u8 layer;
	__u8 pad[2];
	char policy[320]; /* "namespace/name", NUL-terminated */
	char name[104];	  /* NUL-terminated */
};
_Static_assert(sizeof(struct rule) == 432, "rule");

/* Prefixes of clients that a set's frontends take. In a longest-prefix-match trie. */
struct source_range_key {
	__u32 bits; /* 32 for the set, and those of the prefix; IPv4's count from 96 */
	__be32 set;
	struct address addr;
};
_Static_assert(sizeof(struct source_range_key) == 24, "source_range_key");

struct source_range {
	__u8 layer;
	__u8 pad[3];
};
_Static_assert(sizeof(struct source_range) == 4, "source_range");

/* Prefixes of the cluster. In a longest-prefix-match trie. */
struct network_key {
	__u32 bits; /* IPv4's count from 96 */
	struct address addr;
};
_Static_assert(sizeof(struct network_key) == 20, "network_key");

struct network {
	__u8 kind; /* NetworkKind of internal/model */
	__u8 layer;
	__u16 pad;
};
_Static_assert(sizeof(struct network) == 4, "network");

/* key: __u32 port, host byte order. Not read by programs: kept with the maps so that a restart
 * knows them. */
struct health_check {
	__u8 layer;
	__u8 pad[3];
	char service[128]; /* "namespace/name", NUL-terminated */
};
_Static_assert(sizeof(struct health_check) == 132, "health_check");

/* key: __u32 0 */
struct self {
	__u64 place; /* of the zone; 0: none */
	__u8 layer;
	__u8 draining;
	__u8 policed; /* there are policies in the cluster */
	__u8 pad[5];
	char zone[64]; /* NUL-terminated */
};
_Static_assert(sizeof(struct self) == 80, "self");

/* Written by user space of what it finds on the node, not of rows. key: struct address */
struct local {
	__u8 flags; /* LOCAL_ */
	__u8 pad[3];
};
_Static_assert(sizeof(struct local) == 4, "local");

#define LOCAL_NODE_PORT 1 /* serves NodePorts */
#define LOCAL_LOOPBACK \
	2 /* 127.0.0.0/8 or ::1: the node's own processes alone mean this node by it */

/* key: __u32 ifindex, or UPLINK_ANY. What is masqueraded that leaves by the interface; zero:
 * nothing can be. Interfaces that are neither pods' nor uplinks are there too: see arrival.h. */
struct uplink {
	struct address v4;
	struct address v6;
};
_Static_assert(sizeof(struct uplink) == 32, "uplink");

/* In place of an ifindex: the node's addresses where the way out does not matter yet, those of the
 * default route's interface. */
#define UPLINK_ANY 0

/* One per layer kind, in a memory-mapped array: how far the maps have come. */
struct position {
	__u64 epoch;
	__u64 revision;
	__u64 digest[2];
};
_Static_assert(sizeof(struct position) == 32, "position");

/* Written by the programs, read by user space. */

/*
 * Key of a flow: the packet as a hook sees it. Destinations are exchanged where packets come in to
 * the node, sources where they leave, so that the stack in between routes client and backend as if
 * there were no Service:
 *
 *   in   client → Service        destination becomes the backend
 *   out  client → backend        source becomes the node's, if masqueraded
 *   in   backend → node          destination becomes the client, if masqueraded
 *   out  backend → client        source becomes the Service
 */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 leaving; /* 1 in the key of what leaves the node */
	__u16 pad;
};
_Static_assert(sizeof(struct tuple) == 40, "tuple");

/* What to put into the packet. */
struct flow {
	struct address addr; /* the new destination (in) or source (out); zero: to be masqueraded */
	__u32 backend;	     /* its id; 0 where the flow is masqueraded's other half */
	__u32 set;	     /* the root set */
	__u32 sequence; /* of the SYN that began it (TCP), host byte order: a retransmitted SYN has
			   the same; of the backend's direction that of its SYN-ACK, 0 until then;
			   of a client's that is wrapped (WAY_WRAP) where it is */
	__u32 acknowledged; /* what this direction has acknowledged last (TCP), host byte order:
			       what a valid FIN or RST from the other side is at or just above */
	__u32 seen; /* the last packet, seconds of CLOCK_MONOTONIC, some seconds late at most */
	__be16 port;
	__be16 other_port; /* of the other end, as the far side of the translation knows it */
	__u8 state;	   /* FLOW_ bits */
	__u8 way;	   /* WAY_ */
	__u16 half_open;   /* its place in half_open_v1, counted from 1; 0: it is not half open, or
			      this is not its client's direction */
	__u32 node;	   /* the other node of the way */
};
_Static_assert(sizeof(struct flow) == 48, "flow");

/*
 * How the packets of a flow's direction go on. These, the node and half_open came later than
 * flows_v2, whose entries had zeros there: that is WAY_HERE and not half open, so the name stays.
 */
#define WAY_HERE	0 /* to an end that this node reaches itself */
#define WAY_WRAP	1 /* wrapped, to the node */
#define WAY_VIA		2 /* the node wraps them, and gets the answers back */
#define WAY_DIRECT	3 /* the node wraps them; the answers leave from here */

#define FLOW_ANSWERED	1  /* something came in the other direction */
#define FLOW_FIN	2  /* this direction has ended */
#define FLOW_RESET	4  /* a valid RST was seen in this direction and nothing since */
#define FLOW_MASQUERADE 8  /* masquerade it if it leaves by an uplink, or to where it came from */
#define FLOW_FORWARD	16 /* the client's direction; else the backend's */
#define FLOW_MOVED                                                                                \
	32	       /* the key's destination is a backend that went: of a connected UDP socket \
			*/
#define FLOW_ENDED 64  /* the same of a TCP socket: answer with a RST */
#define FLOW_LOCAL 128 /* with FLOW_MOVED: only backends of this node may take its place */

/*
 * A connection of a pod of this node, as the node sees it between the hooks: after destinations are
 * exchanged and before sources are. So one key serves both directions.
 */
struct connection_key {
	struct address pod;
	struct address peer;
	__be16 pod_port; /* of an echo both ports are its identifier */
	__be16 peer_port;
	__u8 protocol;
	__u8 pad[3];
};
_Static_assert(sizeof(struct connection_key) == 40, "connection_key");

/* What was found about it. */
struct connection {
	__u64 rule_set; /* that judged it; 0: none had to */
	__u64 rule;	/* that decided; 0: none */
	__u32 epoch; /* of policy_v1 when it was allowed: if that has gone on it is judged again */
	__u32 seen;  /* the last packet, seconds of CLOCK_MONOTONIC, some late at most */
	__u32 incarnation; /* of the pod */
	__u8 state;	   /* CONNECTION_ bits */
	__u8 pad;
	__u16 interface; /* the pod's, low bits of its index; 0: not known */
};
_Static_assert(sizeof(struct connection) == 32, "connection");

#define CONNECTION_INGRESS  1  /* the peer began it; else the pod did */
#define CONNECTION_ANSWERED 2  /* something came from who did not begin it */
#define CONNECTION_POD_FIN  4  /* the pod has ended its direction */
#define CONNECTION_PEER_FIN 8  /* the peer has */
#define CONNECTION_RESET    16 /* a RST was seen and nothing since */
/*
 * The programs have answered for the other end: one RST, ABORT or ICMP error that comes by next to
 * the pod passes, or, as if the pod had sent it, from there. With epoch 0 the entry is for that
 * alone, and is no connection.
 */
#define CONNECTION_REFUSED     32
#define CONNECTION_POD_REFUSED 64

/* The backend that a client of a Service with affinity has. */
struct affinity_key {
	struct address client; /* packets: the source address; sockets: zero */
	__u64 cookie;	       /* sockets: of the network namespace; packets: 0 */
	__u32 set;	       /* the one that was picked from; its root if scope is not 0 */
	__u32 scope; /* of a part in the node's layer, which may come and go with a policy; else 0
		      */
};
_Static_assert(sizeof(struct affinity_key) == 32, "affinity_key");

struct affinity {
	__u32 backend;
	__u32 seen; /* seconds of CLOCK_MONOTONIC */
};
_Static_assert(sizeof(struct affinity) == 8, "affinity");

/* What a socket dialled and what it got. */
struct choice {
	struct address service;
	struct address addr;
	__u32 backend;
	__u32 set; /* the root */
	__be16 service_port;
	__be16 port;
};
_Static_assert(sizeof(struct choice) == 44, "choice");

/* The Service that a connected socket has: its own storage. */
struct peer {
	struct choice choice;
	__u32 moved;  /* 1: its backend went, and a flow leads its datagrams to another */
	__u64 cookie; /* of its network namespace */
};
_Static_assert(sizeof(struct peer) == 56, "peer");

/* The Services that one unconnected UDP socket sends to. One that sends to more forgets the oldest
 * choice. */
#define CHOICES 8
struct choices {
	struct choice entries[CHOICES];
	__u32 next;   /* the entry to forget next */
	__u32 hidden; /* a bit per entry: its backend was asked in another name since */
};
_Static_assert(sizeof(struct choices) == 360, "choices");

/* A datagram that comes in fragments, as a hook sees it. IPv6 knows it without the protocol. */
struct fragment_key {
	struct address source;
	struct address destination;
	__be32 id;
	__u8 protocol;
	__u8 leaving;
	__u16 pad;
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

/* What became of its first fragment. */
struct fragment {
	struct address source; /* what was put into the packet */
	union {
		struct address destination;
		struct { /* FRAGMENT_WRAPPED: the destination stays */
			__u32 node;
			__u32 backend;
		} to;
	};
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u8 state; /* FRAGMENT_ */
	__u8 held;  /* later ones that wait for the first */
	__u8 pad[2];
	__u32 mark; /* of the first, which comes by once more with another where it is sent on */
};
_Static_assert(sizeof(struct fragment) == 48, "fragment");

#define FRAGMENT_WAITING    1 /* the first has not come yet */
#define FRAGMENT_PASSED	    2 /* it is nobody's: later ones pass, too */
#define FRAGMENT_TRANSLATED 3
#define FRAGMENT_DROPPED    4 /* or refused */
#define FRAGMENT_WRAPPED    5 /* for another node */

/* A fragment that came before its datagram's first one. */
struct held_key {
	struct fragment_key datagram;
	__u32 index;
};
_Static_assert(sizeof(struct held_key) == 44, "held_key");

#define HELD_BYTES 1600
struct held {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u32 length;
	__u32 pad;
	__u8 bytes[HELD_BYTES]; /* from its IP header on */
};
_Static_assert(sizeof(struct held) == 16 + HELD_BYTES, "held");

/* What is counted of a Service: what was dropped, by reason, and flows that began by an uplink,
 * by how they go on. */
struct count_key {
	__u32 set;	 /* the root */
	__u8 reason;	 /* of a drop; REASON_NONE: of a flow that began */
	__u8 forwarding; /* FORWARDED_, of a flow; 0 of a drop */
	__u8 pad[2];
};
_Static_assert(sizeof(struct count_key) == 8, "count_key");

#define FORWARDED_LOCAL	 1 /* to a backend of this node */
#define FORWARDED_TUNNEL 2 /* wrapped, and answered through this node */
#define FORWARDED_DSR	 3 /* wrapped, and answered by the backend's node itself */
#define FORWARDED_SNAT	 4 /* elsewhere, in the node's name */

struct drop_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 set; /* 0: none */
	__u8 protocol;
	__u8 reason;	/* DropReason of internal/model, see reasons.h */
	__u8 via;	/* 1 socket, 2 packet */
	__u8 direction; /* of policy: Direction of internal/model; else 0 */
	__u32 pad;
	__u64 rule_set; /* of policy; else 0 */
	__u64 rule;	/* that decided; 0: none */
};
_Static_assert(sizeof(struct drop_event) == 72, "drop_event");
