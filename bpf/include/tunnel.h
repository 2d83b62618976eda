/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Between nodes a packet of a client outside travels as it came, wrapped in VXLAN (RFC 7348): the
 * backend's node sees whom it is from and which Service it is for. A device of the kernel's wraps
 * and unwraps; the programs say to whom, and who may. The addresses of the inner Ethernet header,
 * which nobody else reads, are two numbers: for which backend a packet is, 0 for an answer on its
 * way back, and which node has wrapped it.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address.h"
#include "drop.h"
#include "frontend.h"
#include "hook.h"
#include "mtu.h"
#include "node.h"
#include "packet.h"
#include "reasons.h"
#include "route.h"
#include "steer.h"
#include "tell.h"
#include "wrapping.h"

/*
 * Not a verdict: the packet is to be wrapped, for the node and the backend that are noted in it.
 * That is done last, since there is a bound to how deep functions call each other.
 */
#define TO_BE_WRAPPED (-3)

static __always_inline int to_be_wrapped(struct packet *p, __u32 node, __u32 backend)
{
	p->node = node;
	p->backend = backend;
	return TO_BE_WRAPPED;
}

/* What the kernel's key was before it had the own address, Linux 6.0. */
#define TUNNEL_KEY_WITHOUT_OWN offsetof(struct bpf_tunnel_key, local_ipv4)

static __always_inline long set_tunnel_key(struct __sk_buff *skb, const struct node_ends *ends)
{
	struct bpf_tunnel_key key = { .tunnel_id = tunnel_vni, .tunnel_ttl = WRAPPED_TTL };
	__u64 flags =
		BPF_F_ZERO_CSUM_TX; /* RFC 7348 5, for IPv6 RFC 6935: what is within has one */
	long error;

	if (address_is_v4(&ends->to)) {
		key.remote_ipv4 = bpf_ntohl(ends->to.words[3]);
		key.local_ipv4 = bpf_ntohl(ends->from.words[3]);
	} else {
		__builtin_memcpy(key.remote_ipv6, &ends->to, sizeof(key.remote_ipv6));
		__builtin_memcpy(key.local_ipv6, &ends->from, sizeof(key.local_ipv6));
		flags |= BPF_F_TUNINFO_IPV6;
	}
	error = bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
	if (error == -EINVAL)
		error = bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_WITHOUT_OWN, flags);
	return error;
}

/* Takes one hop off what is forwarded here. Returns false if none is left. */
static __always_inline bool take_hop(struct __sk_buff *skb, const struct packet *p)
{
	if (!take_hop_at(packet_start(skb) + ETH_HLEN, packet_end(skb), p->v6))
		return false;
	/* A device's sum of the whole packet; of IPv4 the header's checksum makes up for it. */
	if (p->v6)
		bpf_csum_update(skb, bpf_htons(0xfffe)); /* the hop limit is a word's second byte */
	return true;
}

static __always_inline bool write_ethernet(struct __sk_buff *skb, __u32 backend)
{
	struct wrapped_ethernet *eth;

	/* The tag of no VLAN, which would come out as a header within. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return false;
	eth = packet_start(skb);
	if ((void *)(eth + 1) > packet_end(skb))
		return false;
	number_ethernet(eth, backend);
	return true;
}

/* Tells the sender that a packet is too large. Returns the verdict. */
static __noinline int refuse_large(struct __sk_buff *skb, const struct packet *p, __u32 most)
{
	drop_report(&p->tuple, p->service, REASON_TOO_BIG, VIA_PACKET);
	return tell_too_big(skb, p, most);
}

/*
 * What is to be asked of an answer before it becomes the Service's, since its sender is told about
 * what it sent. Returns TC_ACT_UNSPEC for one that may be wrapped, else the verdict.
 */
static __noinline int check_answer(struct __sk_buff *skb, const struct packet *p, __u32 node)
{
	struct node_ends ends;
	__u32 most;

	if (length_in_pieces(skb, p) + WRAPPING_V6 <= MTU_LEAST_V6 || !find_node_ends(node, &ends))
		return TC_ACT_UNSPEC;
	most = most_wrapped(skb, p, &ends);
	return most ? refuse_large(skb, p, most) : TC_ACT_UNSPEC;
}

/*
 * Sends a packet to another node: a client's for a backend, or backend 0 for an answer, to the node
 * that the client's came by. This node is a router to what a client sends. Returns the verdict.
 */
static __noinline int wrap(struct __sk_buff *skb, const struct packet *p, __u32 node, __u32 backend)
{
	struct node_ends ends;
	__u32 most;

	if (!tunnel.ifindex || !find_node_ends(node, &ends)) {
		drop_report(&p->tuple, p->service, REASON_NO_WAY, VIA_PACKET);
		return TC_ACT_SHOT;
	}
	most = backend ? most_wrapped(skb, p, &ends) : 0;
	if (most)
		return refuse_large(skb, p, most);
	if (backend && !take_hop(skb, p)) {
		drop_report(&p->tuple, p->service, REASON_NO_WAY, VIA_PACKET);
		return tell_time_exceeded(skb, p);
	}
	if (set_tunnel_key(skb, &ends) || !write_ethernet(skb, backend)) {
		drop_report(&p->tuple, p->service, REASON_REWRITE, VIA_PACKET);
		return TC_ACT_SHOT;
	}
	return bpf_redirect(tunnel.ifindex, 0);
}

/* Where a wrapped packet came from. Returns false if it wasn't wrapped, or in another's network. */
static __always_inline bool outer_source(struct __sk_buff *skb, struct address *from)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_WITHOUT_OWN, 0)) {
		*from = address_of_v4(bpf_htonl(key.remote_ipv4));
	} else {
		if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_WITHOUT_OWN, BPF_F_TUNINFO_IPV6))
			return false;
		__builtin_memcpy(from, key.remote_ipv6, sizeof(*from));
	}
	return key.tunnel_id == tunnel_vni;
}

/* Reads who has wrapped a packet and what for. Returns false for a foreign one, with where it came
 * from as its source. 1 lookup. */
static __noinline bool read_wrapping(struct __sk_buff *skb, struct packet *p)
{
	struct wrapped_ethernet eth;

	if (!outer_source(skb, &p->tuple.source) || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) ||
	    eth.mark != bpf_htons(WRAPPED_MARK) || eth.node_mark != bpf_htons(WRAPPED_MARK) ||
	    !is_of_node(bpf_ntohl(eth.node), &p->tuple.source))
		return false;
	p->node = bpf_ntohl(eth.node);
	p->backend = bpf_ntohl(eth.backend);
	return p->node != own_node;
}

#define VXLAN_HAS_VNI 0x08000000
/* Datagrams that the kernel may take for one: UDP_MAX_SEGMENTS. */
#define MOST_DATAGRAMS 128

/* Says if a pod sent a packet. Up to 1 lookup. */
static __always_inline bool is_pods(const struct packet *p, enum hook hook)
{
	return hook == HOOK_POD || network_kind(&p->tuple.source) == NETWORK_PODS;
}

/*
 * Says if a pod sends what only nodes may: where the network plugin gives it the node's address on
 * its way out, the other node would believe it. A first fragment may hide it. Of many datagrams
 * that the kernel takes for one each may be it. Global, so that the verifier walks it once.
 */
__noinline int is_forged(struct __sk_buff *skb, __u32 hook)
{
	const struct packet *p = packet_now();
	__u32 at, size = skb->gso_size;
	__be32 vxlan[2] = {};

	if (!p || !is_pods(p, hook))
		return false;
	at = p->transport + sizeof(struct udphdr);
	for (int i = 0; i < MOST_DATAGRAMS; i++) {
		if (bpf_skb_load_bytes(skb, at, vxlan, sizeof(vxlan)))
			return p->first;
		if (vxlan[0] & bpf_htonl(VXLAN_HAS_VNI) && bpf_ntohl(vxlan[1]) >> 8 == tunnel_vni)
			return true;
		if (!size)
			return false;
		at += size;
	}
	return true;
}

/* For which backend an error is that this node sends: for that of the flow which it quotes. */
#define BACKEND_OF_QUOTED 0xffffffff

/* Tells who sent an answer that it can't be sent on, by the node that wrapped it. */
static __noinline int tell_back(struct __sk_buff *skb, struct packet *p, __u32 most)
{
	int verdict = most ? tell_too_big(skb, p, most) : tell_time_exceeded(skb, p);

	return verdict == TC_ACT_SHOT ? verdict : to_be_wrapped(p, p->node, BACKEND_OF_QUOTED);
}

/*
 * Sends an answer on to the client that it is for: by this node's routes, but not through its
 * stack, which would not take a packet from an address of its own. Who sent too much for the
 * client's link is told. Returns the verdict, or TO_BE_WRAPPED.
 */
static __noinline int send_on(struct __sk_buff *skb, struct packet *p)
{
	__u32 length = length_in_pieces(skb, p);
	const struct tuple *t = &p->tuple;
	struct bpf_redir_neigh next = {};
	struct bpf_fib_lookup fib = {
		.l4_protocol = t->protocol,
		.sport = t->source_port,
		.dport = t->destination_port,
		.tot_len = routed_length(length),
		.ifindex = skb->ifindex,
	};
	long found;

	set_ends(&fib, &t->source, &t->destination);
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		drop_report(t, p->service, REASON_TOO_BIG, VIA_PACKET);
		return tell_back(skb, p, fib.mtu_result < length ? fib.mtu_result : MTU_LEAST_V6);
	}
	if (!leads_somewhere(found)) {
		drop_report(t, p->service, REASON_NO_WAY, VIA_PACKET);
		return TC_ACT_SHOT;
	}
	if (!take_hop(skb, p)) {
		drop_report(t, p->service, REASON_NO_WAY, VIA_PACKET);
		return tell_back(skb, p, 0);
	}
	/* A gateway may be of the other family, RFC 8950. */
	next.nh_family = fib.family;
	__builtin_memcpy(next.ipv6_nh, fib.ipv6_dst, sizeof(next.ipv6_nh));
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}
