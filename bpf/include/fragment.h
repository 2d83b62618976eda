/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams in fragments. Only the first has ports (RFC 791 3.2, RFC 8200 4.5), so what becomes of
 * it is noted, and the later ones follow: they pass, are given the same addresses, are wrapped for
 * the same node, or are dropped.
 *
 *   first  ── decided as any packet ──► noted, and those that were held are sent on behind it
 *   later  ── first known? ── yes ──► follows it
 *                          └─ no ───► a copy is held, and the fragment itself
 *                                       to an address of a Service, or judged by policies:
 *                                         goes no further
 *                                       else: passes untouched, since it may be nobody's
 *
 * So what is no Service's passes in its order, whatever order that is, and a Service's datagram
 * arrives in any. What such a fragment was for, where the address alone doesn't tell (a NodePort, a
 * backend's answer), the first says: then its copy is sent on, and whoever got the untouched one
 * waits in vain for the rest and forgets it.
 *
 * Copies are of up to 1,600 bytes: a packet of the usual 1,500 with room for a tunnel's headers. Of
 * one datagram 16 are held, which is 23 KB, for one second: what comes out of order comes within
 * milliseconds, and IPv4's 16-bit ids are soon used again (RFC 4963).
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "drop.h"
#include "frontend.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"
#include "rewrite.h"
#include "tunnel.h"

#define HELD_PER_DATAGRAM 16
#define HELD_TIME	  (1 * 1000000000ULL)
/* How long a first fragment is known: as long as Linux waits for the rest (ipfrag_time). */
#define FRAGMENT_TIME (30 * 1000000000ULL)

/* Not a verdict: the packet is to be decided about. */
#define FRAGMENT_UNDECIDED (-2)

/* The mark of a first fragment that comes by once more, decided about and as it was sent on. A pod
 * can't forge it: marks don't cross network namespaces. */
#define SENT_ON 0xde175e07

/* Room for a copy, one a processor: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} held_room SEC(".maps");

static __always_inline void fragment_key(const struct packet *p, bool leaving, struct held_key *key)
{
	*key = (struct held_key){
		.datagram = {
			.source = p->tuple.source,
			.destination = p->tuple.destination,
			.id = p->id,
			.protocol = p->v6 ? 0 : p->tuple.protocol,
			.leaving = leaving,
		},
	};
}

static __always_inline int drop_fragment(const struct packet *p)
{
	drop_report(&p->tuple, 0, REASON_FRAGMENT, VIA_PACKET);
	return TC_ACT_SHOT;
}

static __always_inline bool fragment_known(const struct fragment *f, __u64 now)
{
	return f && f->state != FRAGMENT_WAITING && now - f->time < FRAGMENT_TIME;
}

/* A later fragment goes the way of its first. */
static __noinline int follow_first(struct __sk_buff *skb, struct packet *p,
				   const struct fragment *f)
{
	bool wrapped = f->state == FRAGMENT_WRAPPED;
	struct rewrite to;

	if (f->state == FRAGMENT_PASSED)
		return TC_ACT_UNSPEC;
	if (f->state != FRAGMENT_TRANSLATED && !wrapped)
		return drop_fragment(p);
	to = (struct rewrite){
		.source = f->source,
		.destination = wrapped ? p->tuple.destination : f->destination,
	};
	if (rewrite_packet(skb, p, &to))
		return drop_fragment(p);
	return wrapped ? to_be_wrapped(p, f->to.node, f->to.backend) : TC_ACT_UNSPEC;
}

/*
 * Keeps a copy. Returns false if there is no room. Two processors with fragments of one datagram at
 * the same time may take the same place, and one is lost: devices hand all of a datagram to one.
 */
static __noinline bool hold(struct __sk_buff *skb, struct held_key *key, __u64 now)
{
	struct fragment waiting = { .state = FRAGMENT_WAITING, .time = now };
	__u32 zero = 0, length = skb->len - ETH_HLEN;
	struct fragment *f;
	struct held *copy;

	copy = look_up(&held_room, &zero);
	if (!copy || length - 1 >= HELD_BYTES)
		return false;
	f = look_up(&fragments_v1, &key->datagram);
	if (f && f->state == FRAGMENT_WAITING && now - f->time < HELD_TIME) {
		key->index = f->held;
		if (key->index >= HELD_PER_DATAGRAM)
			return false;
		f->held = key->index + 1;
	} else {
		waiting.held = 1;
		if (write_to(&fragments_v1, &key->datagram, &waiting, BPF_ANY))
			return false;
	}
	copy->time = now;
	copy->length = length;
	/* The verifier of older kernels forgets the comparison above. */
	if (!within(&length, 1, HELD_BYTES) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, copy->bytes, length))
		return false;
	return !write_to(&held_v1, key, copy, BPF_ANY);
}

static __noinline int take_later(struct __sk_buff *skb, struct packet *p, bool leaving)
{
	__u64 now = bpf_ktime_get_ns();
	struct held_key key;
	struct fragment *f;
	bool held, ours;

	fragment_key(p, leaving, &key);
	f = look_up(&fragments_v1, &key.datagram);
	if (fragment_known(f, now))
		return follow_first(skb, p, f);
	ours = p->epoch || p->node || (!leaving && is_service_address(&p->tuple.destination));
	held = hold(skb, &key, now);
	/* The first may have come meanwhile, by another processor. */
	f = look_up(&fragments_v1, &key.datagram);
	if (fragment_known(f, now)) {
		if (held)
			delete_from(&held_v1, &key);
		return follow_first(skb, p, f);
	}
	if (!ours)
		return TC_ACT_UNSPEC;
	return held ? TC_ACT_SHOT : drop_fragment(p);
}

/* A fragment that comes by once more: as it was sent on, but for being wrapped. */
static __noinline int come_again(struct __sk_buff *skb, struct packet *p, bool leaving)
{
	struct held_key key;
	struct fragment *f;

	fragment_key(p, leaving, &key);
	f = look_up(&fragments_v1, &key.datagram);
	skb->mark = f ? f->mark : 0;
	if (f && f->state == FRAGMENT_WRAPPED)
		return to_be_wrapped(p, f->to.node, f->to.backend);
	return TC_ACT_UNSPEC;
}

/*
 * To be called for each fragment before it is decided about. Returns its verdict or TO_BE_WRAPPED,
 * or FRAGMENT_UNDECIDED for a first one that is to be. __noinline: a rare path.
 */
static __noinline int fragment_begin(struct __sk_buff *skb, struct packet *p, bool leaving)
{
	if (skb->mark == SENT_ON)
		return come_again(skb, p, leaving);
	return p->later ? take_later(skb, p, leaving) : FRAGMENT_UNDECIDED;
}

/* The addresses that a packet has now. */
static __always_inline bool read_ends(struct __sk_buff *skb, const struct packet *p,
				      struct fragment *f)
{
	if (p->v6)
		return !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr),
					   &f->source, 2 * sizeof(f->source));
	f->source = f->destination = address_of_v4(0);
	return !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr),
				   &f->source.words[3], 4) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr),
				   &f->destination.words[3], 4);
}

/* What a packet is to become: one a processor, since the function that does it takes no pointers.
 */
struct becoming {
	struct packet packet;
	struct held_key key;
	struct fragment first;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct becoming);
} becomings SEC(".maps");

static __always_inline struct becoming *becoming_room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&becomings, &zero);
}

/*
 * Turns the packet into a held one, with its first one's addresses. Returns 0 if it can't. Global,
 * so that the verifier walks it once and not for each that is held.
 */
__noinline int become_held(struct __sk_buff *skb)
{
	struct becoming *b = becoming_room();
	struct rewrite to;
	struct held *copy;
	__u32 length;

	if (!b)
		return 0;
	copy = look_up(&held_v1, &b->key);
	if (!copy || b->first.time - copy->time > HELD_TIME)
		return 0;
	length = copy->length;
	if (!within(&length, 1, HELD_BYTES) || bpf_skb_change_tail(skb, ETH_HLEN + length, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, copy->bytes, length, BPF_F_RECOMPUTE_CSUM))
		return 0;
	delete_from(&held_v1, &b->key);
	to = (struct rewrite){ .source = b->first.source, .destination = b->first.destination };
	return !rewrite_packet(skb, &b->packet, &to);
}

/* What a datagram is when its fragments come by once more: decided about, and as it is now to pass,
 * or to be wrapped. */
static __noinline long note_again(const struct held_key *key, struct fragment *f, __u32 mark)
{
	struct fragment_key sent = key->datagram;
	struct fragment again;

	f->mark = mark;
	if (f->state == FRAGMENT_PASSED)
		return 0;
	again = *f;
	sent.source = f->source;
	if (f->state == FRAGMENT_TRANSLATED) {
		sent.destination = f->destination;
		again.state = FRAGMENT_PASSED;
	}
	return write_to(&fragments_v1, &sent, &again, BPF_ANY);
}

/*
 * Sends the first fragment and behind it those that waited for it, by the same hook again, where
 * all are known as decided about. The packet itself becomes one after the other. On the way out
 * the program runs once more within this one, so what is needed here is on this one's stack.
 */
static __noinline int send_held(struct __sk_buff *skb, const struct packet *first, bool leaving,
				__u32 count)
{
	__u32 flags = leaving ? 0 : BPF_F_INGRESS, mark = skb->mark;
	const struct tuple tuple = first->tuple;
	__u32 transport = first->transport;
	bool v6 = first->v6;
	struct held_key key;
	struct becoming *b;
	struct fragment *f;

	fragment_key(first, leaving, &key);
	f = look_up(&fragments_v1, &key.datagram);
	if (!f || note_again(&key, f, mark))
		return TC_ACT_UNSPEC;
	skb->mark = SENT_ON;
	bpf_clone_redirect(skb, skb->ifindex, flags);
	b = becoming_room();
	if (!b)
		return TC_ACT_SHOT;
	for (__u32 i = 0; i < HELD_PER_DATAGRAM && i < count; i++) {
		key.index = i;
		b->packet = (struct packet){
			.tuple = tuple,
			.transport = transport,
			.v6 = v6,
			.later = true,
		};
		b->key = key;
		b->first = *f;
		if (f->state == FRAGMENT_WRAPPED)
			b->first.destination = tuple.destination;
		if (become_held(skb))
			bpf_clone_redirect(skb, skb->ifindex, flags);
	}
	return TC_ACT_SHOT; /* all that it was is sent */
}

/* Notes what became of a first fragment. Returns how many later ones wait for it to be sent on. */
static __noinline __u32 note_first(struct __sk_buff *skb, const struct packet *p, bool leaving,
				   int verdict)
{
	struct fragment f = { .state = FRAGMENT_DROPPED };
	struct fragment *waiting;
	struct held_key key;
	__u32 held = 0;

	fragment_key(p, leaving, &key);
	f.time = bpf_ktime_get_ns();
	if (verdict == TO_BE_WRAPPED && read_ends(skb, p, &f)) {
		f.state = FRAGMENT_WRAPPED;
		f.to.node = p->node;
		f.to.backend = p->backend;
	}
	if (verdict == TC_ACT_UNSPEC && read_ends(skb, p, &f)) {
		f.state = FRAGMENT_TRANSLATED;
		if (address_equal(&f.source, &p->tuple.source) &&
		    address_equal(&f.destination, &p->tuple.destination))
			f.state = FRAGMENT_PASSED;
	}
	waiting = look_up(&fragments_v1, &key.datagram);
	if (waiting && waiting->state == FRAGMENT_WAITING && f.time - waiting->time < HELD_TIME)
		held = waiting->held;
	write_to(&fragments_v1, &key.datagram, &f, BPF_ANY);
	if (f.state == FRAGMENT_DROPPED || (f.state == FRAGMENT_PASSED && !p->epoch))
		return 0;
	return skb->ifindex != LOOPBACK_IFINDEX ? held : 0;
}

/*
 * To be called for each first fragment once it is decided about: verdict is what the program would
 * return, or TO_BE_WRAPPED, and p what the packet was. Returns what the program is to return. In
 * two functions one after the other, since a stack is 512 bytes for all that call each other.
 */
static __always_inline int fragment_end(struct __sk_buff *skb, const struct packet *p, bool leaving,
					int verdict)
{
	__u32 held = note_first(skb, p, leaving, verdict);

	return held ? send_held(skb, p, leaving, held) : verdict;
}
