/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a packet through the node, step by step, where it comes in and where it leaves: at the
 * host's sides of pods' interfaces and at uplinks. In between the stack routes client and backend
 * as if there were no Service, so MTUs, neighbours, rp_filter and others' netfilter rules all see
 * what they would see without.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "begin.h"
#include "clock.h"
#include "count.h"
#include "deny.h"
#include "drop.h"
#include "errors.h"
#include "flow.h"
#include "fragment.h"
#include "half.h"
#include "hook.h"
#include "judge.h"
#include "maglev.h"
#include "maps.h"
#include "masquerade.h"
#include "message.h"
#include "operate.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"
#include "service.h"
#include "track.h"
#include "tunnel.h"

/* On to the next program, or to the stack: TCX_NEXT is the same number. */
#define PASS TC_ACT_UNSPEC

static __always_inline int wrapped(struct __sk_buff *skb, const struct packet *p, int verdict)
{
	return verdict == TO_BE_WRAPPED ? wrap(skb, p, p->node, p->backend) : verdict;
}

static __always_inline int drop(const struct packet *p, __u32 set, __u8 reason)
{
	drop_report(&p->tuple, set, reason, VIA_PACKET);
	return TC_ACT_SHOT;
}

/* Drops a packet and tells its client: the way that the packet came. */
static __noinline int reject(struct __sk_buff *skb, struct packet *p, __u32 set, __u8 reason,
			     enum hook hook)
{
	int verdict;

	drop_report(&p->tuple, set, reason, VIA_PACKET);
	if (hook == HOOK_POD && p->epoch)
		return refuse_judged(skb, p, false);
	verdict = refuse_packet(skb, false);
	if (hook == HOOK_TUNNEL && verdict != TC_ACT_SHOT)
		return to_be_wrapped(p, p->node, 0);
	return verdict;
}

/* __noinline: the two addresses and ports stay off its callers' stacks. */
static __noinline int translate(struct __sk_buff *skb, const struct packet *p,
				const struct flow *flow)
{
	struct rewrite to = flow_exchange(&p->tuple, flow);
	int reason = rewrite_packet(skb, p, &to);

	return reason ? drop(p, flow->set, reason) : PASS;
}

/* Translates what comes in of a known flow, if policies let it go on. */
static __noinline int translate_judged(struct __sk_buff *skb, const struct packet *p,
				       const struct flow *flow, enum hook hook)
{
	int reason = REASON_NONE;

	if (hook == HOOK_POD && p->epoch)
		reason = admit_from_pod(skb, p, &flow->addr, flow->other_port, flow->port);
	return reason ? deny(skb, flow->set, reason) : translate(skb, p, flow);
}

/*
 * Says if a new flow is masqueraded should it leave by an uplink. Where a Local policy kept a
 * client from outside on this node it needn't be, nor where another node wraps what is for a
 * backend here. A client that reaches itself must be: it would not take a packet from its own
 * address.
 */
static __always_inline bool needs_masquerade(const struct packet *p, const struct dialler *who,
					     const struct decision *d, enum hook hook)
{
	if (d->local && !who->inside)
		return false;
	if (hook == HOOK_TUNNEL)
		return d->pick.node != own_node;
	return hook != HOOK_POD || masquerade_all || address_equal(&p->tuple.source, &d->pick.addr);
}

/* Judges a new connection with the backend that was chosen for it. Returns a reason. */
static __always_inline int judge_choice(struct __sk_buff *skb, const struct packet *p,
					const struct pick *pick)
{
	struct judgement *j;

	if (!p->epoch)
		return REASON_NONE;
	j = judgement_of(p, true);
	if (!j)
		return REASON_POLICY_CLOSED;
	judge_ends(j, p, &p->tuple.source, &pick->addr, p->tuple.source_port, pick->port);
	return admit_beginning(skb);
}

/* Tracks it with the flow that it got, whose backend may be another: the first processor's counts.
 * Returns a reason. */
static __always_inline int judge_begun(struct __sk_buff *skb, const struct packet *p,
				       const struct pick *pick, const struct flow *flow)
{
	if (!p->epoch)
		return REASON_NONE;
	if (!address_equal(&flow->addr, &pick->addr) || flow->port != pick->port)
		return admit_from_pod(skb, p, &flow->addr, flow->other_port, flow->port);
	track_beginning(flow->other_port);
	return REASON_NONE;
}

/* Takes the backend that another node picked, if it is one of the frontend's that is here. */
static __always_inline bool take_picked(const struct packet *p, const struct frontend *frontend,
					struct decision *d)
{
	*d = (struct decision){
		.root = frontend->set,
		.kind = frontend->kind,
		.flags = frontend->flags,
	};
	return pick_known(p->backend, d->root, &d->pick) && d->pick.node == own_node;
}

/*
 * What another node has wrapped goes to the backend that it picked. Where only one of both knows
 * that, since a change is on its way or a programmer is, this node picks as if the client had come
 * to it. If it knows none either, the client tries again. __noinline: what it writes stays off its
 * caller's stack.
 */
static __noinline void decide_wrapped(const struct packet *p, const struct dialler *who,
				      const struct frontend *frontend, struct decision *d)
{
	if (take_picked(p, frontend, d))
		return;
	decide(who, frontend, &p->tuple.destination, d);
	if (d->reason)
		d->reason = REASON_STALE_TABLES;
	d->reject = false;
}

/* Begins a flow to a backend on another node. Returns PASS if another processor has begun it as one
 * to be translated. __noinline: what it writes stays off its caller's stack. */
static __noinline int steer(struct packet *p, const struct decision *d, struct flow *flow)
{
	int reason = steer_begin(p, flow);

	if (reason)
		return drop(p, flow->set, reason);
	if (!flow_is_steered(flow))
		return PASS;
	count_flow(d, flow);
	p->service = flow->set;
	return to_be_wrapped(p, flow->node, flow->backend);
}

/* Sends a RST of no known flow to where that may be known, and remembers nothing. */
static __always_inline int send_reset(struct packet *p, const struct decision *d, __u32 node)
{
	p->service = d->root;
	return to_be_wrapped(p, node, d->pick.backend);
}

/* Says if a segment can't be a connection's first. A frontend without a set refuses it as any. */
static __always_inline bool is_amid_connection(const struct packet *p,
					       const struct frontend *frontend)
{
	return p->tuple.protocol == IPPROTO_TCP && !p->syn && frontend->set;
}

/* Begins a flow to what a client dials. state is FLOW_MOVED, with FLOW_LOCAL, or 0. */
static __noinline int begin(struct __sk_buff *skb, struct packet *p,
			    const struct frontend *frontend, __u8 state, enum hook hook)
{
	struct beginning *b = beginning_room();
	struct decision *d = &b->decision;
	int reason, verdict;
	__u32 node;

	if (!b || lengths_contradict(skb, p))
		return drop(p, frontend->set, REASON_MALFORMED);
	b->who = (struct dialler){
		.addr = p->tuple.source,
		.hash = hook == HOOK_POD ? 0 : maglev_hash(&p->tuple),
		.inside = hook == HOOK_POD || comes_from_inside(p),
		.amid = is_amid_connection(p, frontend),
	};
	if (hook == HOOK_TUNNEL && b->who.inside)
		return drop(p, frontend->set, REASON_FOREIGN_TUNNEL); /* no node wraps these */
	if (hook == HOOK_TUNNEL)
		decide_wrapped(p, &b->who, frontend, d);
	else
		decide(&b->who, frontend, &p->tuple.destination, d);
	if (d->reject)
		return reject(skb, p, d->root, d->reason, hook);
	if (d->reason)
		return drop(p, d->root, d->reason);
	reason = hook != HOOK_POD ? REASON_NONE : judge_choice(skb, p, &d->pick);
	if (reason)
		return deny(skb, d->root, reason);
	node = hook == HOOK_UPLINK ? wraps_to(d, &b->who) : p->node;
	if (hook == HOOK_UPLINK && node && !may_pass_stack(skb, p, skb->ifindex))
		node = 0;
	if (hook == HOOK_UPLINK && !node && b->who.amid)
		return reject(skb, p, d->root, REASON_NO_FLOW, hook);
	if (hook == HOOK_UPLINK && b->who.amid && p->rst)
		return send_reset(p, d, node);
	b->flow = (struct flow){
		.addr = d->pick.addr,
		.port = d->pick.port,
		.backend = d->pick.backend,
		.set = d->root,
		.half_open = hook == HOOK_POD ? 0 : half_open_begin(),
		.node = node,
	};
	if (hook == HOOK_UPLINK && node) {
		verdict = steer(p, d, &b->flow);
		return verdict == PASS ? translate(skb, p, &b->flow) : verdict;
	}
	if (hook == HOOK_TUNNEL)
		b->flow.way = way_of(frontend);
	if (needs_masquerade(p, &b->who, d, hook))
		state |= FLOW_MASQUERADE;
	b->flow.state = state;
	reason = flow_begin(p, &b->flow);
	if (reason)
		return drop(p, d->root, reason);
	if (hook == HOOK_UPLINK)
		count_flow(d, &b->flow);
	reason = hook != HOOK_POD ? REASON_NONE : judge_begun(skb, p, &d->pick, &b->flow);
	return reason ? deny(skb, d->root, reason) : translate(skb, p, &b->flow);
}

/*
 * A client that dials directly from a port that a flow's replies come to: the flow is over. It may
 * be another pod by now, with the same address. For datagrams, of which each may be the first, the
 * one asked last is whom the answers are from.
 */
static __noinline void end_flow_of_reused_port(const struct packet *p)
{
	struct tuple key = {
		.source = p->tuple.destination,
		.destination = p->tuple.source,
		.source_port = p->tuple.destination_port,
		.destination_port = p->tuple.source_port,
		.protocol = p->tuple.protocol,
		.leaving = 1,
	};
	struct flow *reverse = find_flow(&key), *forward;

	if (!reverse || reverse->state & FLOW_FORWARD)
		return;
	forward = flow_peer(&key, reverse);
	if (forward)
		forward->seen =
			now_seconds() - 1; /* its next datagram takes the answers back at once */
	delete_flow(&key);
}

/*
 * Says if a packet to a NodePort or hostPort is for a socket of the node that has this very peer:
 * one that dialled from that port, as happens where net.ipv4.ip_local_port_range has such ports.
 * __noinline: rare, and to be verified once.
 */
static __noinline bool is_own_sockets(struct __sk_buff *skb, const struct packet *p)
{
	const struct tuple *t = &p->tuple;
	struct bpf_sock_tuple ends = {};
	__u32 size = p->v6 ? sizeof(ends.ipv6) : sizeof(ends.ipv4);
	struct bpf_sock *sk;
	bool connected;

	if (p->v6) {
		__builtin_memcpy(ends.ipv6.saddr, &t->source, sizeof(ends.ipv6.saddr));
		__builtin_memcpy(ends.ipv6.daddr, &t->destination, sizeof(ends.ipv6.daddr));
		ends.ipv6.sport = t->source_port;
		ends.ipv6.dport = t->destination_port;
	} else {
		ends.ipv4.saddr = t->source.words[3];
		ends.ipv4.daddr = t->destination.words[3];
		ends.ipv4.sport = t->source_port;
		ends.ipv4.dport = t->destination_port;
	}
	if (t->protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &ends, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(skb, &ends, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	connected = sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_CLOSE;
	bpf_sk_release(sk);
	return connected;
}

static __always_inline bool may_be_own_sockets(const struct packet *p,
					       const struct frontend *frontend)
{
	return (frontend->kind == FRONTEND_NODE_PORT || frontend->kind == FRONTEND_HOST_PORT) &&
	       !p->syn && p->tuple.protocol != IPPROTO_SCTP;
}

/* A pod's packet that is for no Service. */
static __always_inline int pass_untranslated(struct __sk_buff *skb, const struct packet *p)
{
	const struct tuple *t = &p->tuple;
	int reason;

	if (!p->epoch)
		return PASS;
	reason = admit_from_pod(skb, p, &t->destination, t->source_port, t->destination_port);
	return reason ? deny(skb, 0, reason) : PASS;
}

/* Says if a connection may be known to its backend's node, and have come by another until now. */
static __always_inline bool may_have_moved_here(const struct frontend *frontend, enum hook hook)
{
	return hook == HOOK_UPLINK && keeps_clients(frontend->flags, frontend->kind);
}

/* A packet of no known flow. Only a SYN begins a connection. */
static __always_inline int unknown_comes_in(struct __sk_buff *skb, struct packet *p, enum hook hook)
{
	const struct frontend *frontend = dialled(p, hook);

	if (!frontend && hook == HOOK_TUNNEL)
		return drop(p, 0, REASON_STALE_TABLES);
	if (!frontend) {
		if (p->syn || (p->tuple.protocol == IPPROTO_UDP && !p->reason))
			end_flow_of_reused_port(p);
		return hook != HOOK_POD ? PASS : pass_untranslated(skb, p);
	}
	if (p->reason)
		return drop(p, frontend->set, p->reason);
	if (hook != HOOK_TUNNEL && may_be_own_sockets(p, frontend) && is_own_sockets(skb, p))
		return hook != HOOK_POD ? PASS : pass_untranslated(skb, p);
	if (is_amid_connection(p, frontend) && !may_have_moved_here(frontend, hook))
		return reject(skb, p, frontend->set, REASON_NO_FLOW, hook);
	return begin(skb, p, frontend, 0, hook);
}

/* A client's packet whose backend is gone. */
static __noinline int end_of_flow(struct __sk_buff *skb, struct packet *p, struct flow *flow,
				  enum hook hook)
{
	__u32 set = flow->set;

	flow_end(&p->tuple, flow);
	return reject(skb, p, set, REASON_BACKEND_GONE, hook);
}

/* A datagram of a socket whose backend has moved once already: nothing stands for the address that
 * the socket knows, a backend's. */
static __noinline int move_again(struct __sk_buff *skb, struct packet *p, struct flow *flow,
				 enum hook hook)
{
	struct frontend service = {
		.set = flow->set,
		.kind = FRONTEND_CLUSTER_IP,
		.flags = flow->state & FLOW_LOCAL ? FRONTEND_INTERNAL_LOCAL : 0,
	};
	__u8 state = flow->state & (FLOW_MOVED | FLOW_LOCAL);

	flow_end(&p->tuple, flow);
	return begin(skb, p, &service, state, hook);
}

/* Notes a backend's packet, at either hook. */
static __always_inline void note_reply(const struct packet *p, struct flow *flow)
{
	if (flow->seen != now_seconds())
		flow_refresh_reverse(p, flow);
	if (p->syn_ack)
		flow->sequence = p->sequence;
	flow_note(p, flow);
}

/* A client's packet of a known flow goes the flow's way. */
static __always_inline int go_on(struct __sk_buff *skb, struct packet *p, struct flow *flow,
				 enum hook hook)
{
	if (hook == HOOK_UPLINK && flow_is_steered(flow)) {
		flow_follow(p, flow);
		p->service = flow->set;
		return to_be_wrapped(p, flow->node, flow->backend);
	}
	flow_note_way(p, flow, hook);
	return translate_judged(skb, p, flow, hook);
}

/* A wrapped packet of what this node has steered to another: the node that wrapped it has picked
 * another backend. A connection's is not this one. */
static __noinline int end_of_steering(struct __sk_buff *skb, struct packet *p, struct flow *flow)
{
	if (p->tuple.protocol == IPPROTO_TCP && !p->syn)
		return reject(skb, p, flow->set, REASON_NO_FLOW, HOOK_TUNNEL);
	delete_flow(&p->tuple);
	return unknown_comes_in(skb, p, HOOK_TUNNEL);
}

static __noinline int translate_coming(struct __sk_buff *skb, struct packet *p, enum hook hook)
{
	struct flow *flow = find_flow(&p->tuple);

	if (!flow)
		return unknown_comes_in(skb, p, hook);
	if (p->reason)
		return drop(p, flow->set, p->reason);
	if (!(flow->state & FLOW_FORWARD)) {
		if (hook == HOOK_TUNNEL)
			return drop(p, flow->set, REASON_FOREIGN_TUNNEL);
		note_reply(p, flow);
		return translate_judged(skb, p, flow, hook);
	}
	if (hook == HOOK_TUNNEL && flow_is_steered(flow))
		return end_of_steering(skb, p, flow);
	switch (flow_standing(p, flow, hook)) {
	case STANDS:
		if (hook != HOOK_POD)
			half_open_note(flow);
		flow_note(p, flow);
		return go_on(skb, p, flow, hook);
	case IS_GONE:
		return end_of_flow(skb, p, flow, hook);
	case BEGINS:
		if (hook == HOOK_POD && flow->state & FLOW_MOVED)
			return move_again(skb, p, flow, hook);
		flow_end(&p->tuple, flow);
	}
	return unknown_comes_in(skb, p, hook);
}

#define VLAN_ID_MASK 0xfff

/*
 * Says if what was not read as IP is IP to the stack. It takes a VLAN's tag off before a program
 * sees the packet, and another one afterwards if the first was of no VLAN, id 0.
 */
static __always_inline bool may_be_ip(const struct __sk_buff *skb)
{
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
	case ETH_P_IPV6:
		return true;
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		return !(skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK);
	}
	return false;
}

/*
 * What has no ports: an ICMP error about a packet of a flow goes its way (errors.h). What then
 * still goes to a Service's address, a ping above all, would go round in circles. What a pod sends
 * with ports that only its receiver finds may be what nodes alone may send. __noinline: a rare
 * path.
 */
static __noinline int without_ports(struct __sk_buff *skb, struct packet *p, enum hook hook)
{
	const __u32 v4 = ETH_HLEN + offsetof(struct iphdr, daddr);
	const __u32 v6 = ETH_HLEN + offsetof(struct ipv6hdr, daddr);
	struct address to;
	int reason;

	if (!p->transport)
		return p->epoch && may_be_ip(skb) ? drop(p, 0, REASON_MALFORMED) : PASS;
	if (hook == HOOK_POD && p->epoch) {
		reason = admit_without_ports(skb, p, true);
		if (reason)
			return deny(skb, 0, reason);
	}
	reason = hides_ports(p);
	if (reason && tunnel_port && is_pods(p, hook))
		return drop(p, 0, reason);
	if (error_comes_in(skb, p, hook) == TO_BE_WRAPPED)
		return TO_BE_WRAPPED;
	if (!load_address(skb, p->v6 ? v6 : v4, p->v6, &to) || !is_service_address(&to))
		return PASS;
	return drop(p, 0, REASON_UNALLOCATED);
}

/* Says if a packet at an uplink is a VLAN's (0 is none): it is seen at that VLAN's interface, too.
 */
static __always_inline bool is_vlans(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK;
}

/*
 * Says if a packet was sent to another host: an uplink sees it that takes all there is, or that has
 * a macvlan on it. The stack drops it here, and that host knows its flow.
 */
static __always_inline bool is_another_hosts(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_OTHERHOST && skb->ifindex != LOOPBACK_IFINDEX;
}

/* Says if a packet is one of several that go the same way. Those without ports need not, unless
 * they are judged. */
static __always_inline bool in_fragments(const struct packet *p, bool ports)
{
	return (p->first || p->later) && (ports || p->epoch);
}

/* A packet that comes in to the node, by a pod's interface or by an uplink. */
static __always_inline int comes_in(struct __sk_buff *skb, enum hook hook)
{
	struct packet *p = packet_room();
	int verdict = FRAGMENT_UNDECIDED;
	bool ports;

	note_arrival(skb);
	if (!p || (hook == HOOK_UPLINK && (is_vlans(skb) || is_another_hosts(skb))))
		return PASS;
	ports = read_packet(skb, p);
	if (may_be_wrapped(p) && is_forged(skb, hook))
		return drop(p, 0, REASON_FOREIGN_TUNNEL);
	if (hook == HOOK_POD)
		p->epoch = policy_epoch();
	if (in_fragments(p, ports))
		verdict = fragment_begin(skb, p, false);
	if (verdict == FRAGMENT_UNDECIDED) {
		verdict = ports ? translate_coming(skb, p, hook) : without_ports(skb, p, hook);
		if (p->first && in_fragments(p, ports))
			verdict = fragment_end(skb, p, false, verdict);
	}
	return hook == HOOK_UPLINK ? wrapped(skb, p, verdict) : verdict;
}

/* A client's packet that leaves the node: the first one finds its address there. */
static __noinline int masquerade(struct __sk_buff *skb, const struct packet *p, struct flow *flow,
				 enum hook hook)
{
	struct beginning *b;
	int reason;

	if (flow->port) {
		if (flow->seen != now_seconds())
			flow_refresh_leaving(p, flow);
		flow_note(p, flow);
		return translate(skb, p, flow);
	}
	b = beginning_room();
	if (!b)
		return PASS;
	reason = masquerade_begin(p, flow, hook == HOOK_UPLINK ? skb->ifindex : UPLINK_ANY,
				  &b->flow);
	return reason ? drop(p, flow->set, reason) : translate(skb, p, &b->flow);
}

/* An answer to a client whose packets another node wraps. */
static __noinline int answer_wrapped(struct __sk_buff *skb, struct packet *p,
				     const struct flow *flow)
{
	int verdict;

	p->service = flow->set;
	verdict = check_answer(skb, p, flow->node);
	if (verdict == PASS)
		verdict = translate(skb, p, flow);
	return verdict == PASS ? to_be_wrapped(p, flow->node, 0) : verdict;
}

/* A backend's packet of a known flow goes the flow's way. */
static __always_inline int answer(struct __sk_buff *skb, struct packet *p, const struct flow *flow,
				  enum hook hook)
{
	if (hook == HOOK_UPLINK && flow->way == WAY_WRAP)
		return answer_wrapped(skb, p, flow);
	return translate(skb, p, flow);
}

static __always_inline int translate_leaving(struct __sk_buff *skb, struct packet *p,
					     enum hook hook)
{
	struct flow *flow;

	if (p->reason)
		return PASS;
	flow = find_flow(&p->tuple);
	if (!flow)
		return PASS;
	if (!(flow->state & FLOW_FORWARD)) {
		note_reply(p, flow);
		return answer(skb, p, flow, hook);
	}
	return masquerade_applies(p, flow, hook) ? masquerade(skb, p, flow, hook) : PASS;
}

static __always_inline int leave(struct __sk_buff *skb, struct packet *p, bool ports,
				 enum hook hook)
{
	int reason;

	if (!p->transport)
		return p->epoch && may_be_ip(skb) ? drop(p, 0, REASON_MALFORMED) : PASS;
	if (hook == HOOK_POD && p->epoch) {
		reason = ports ? admit_to_pod(skb, p) : admit_without_ports(skb, p, false);
		if (reason)
			return deny(skb, 0, reason);
	}
	return ports ? translate_leaving(skb, p, hook) : error_leaves(skb, p, hook);
}

/* A packet that leaves the node, by a pod's interface or by an uplink. */
static __always_inline int leaves(struct __sk_buff *skb, enum hook hook)
{
	struct packet *p = packet_room();
	int verdict = FRAGMENT_UNDECIDED;
	bool ports;

	if (!p || (hook == HOOK_UPLINK && is_vlans(skb)))
		return PASS;
	ports = read_packet(skb, p);
	if (arrived_unseen(skb, p))
		return drop(p, 0, REASON_UNKNOWN_POD);
	p->tuple.leaving = 1;
	if (hook == HOOK_POD)
		p->epoch = policy_epoch();
	if (in_fragments(p, ports))
		verdict = fragment_begin(skb, p, true);
	if (verdict == FRAGMENT_UNDECIDED) {
		verdict = leave(skb, p, ports, hook);
		if (p->first && in_fragments(p, ports))
			verdict = fragment_end(skb, p, true, verdict);
	}
	return hook == HOOK_UPLINK ? wrapped(skb, p, verdict) : verdict;
}

/* The entry by which the client's packets go that an answer from another node is for; NULL if they
 * don't go there. */
static __noinline struct flow *answered_by_node(const struct packet *p)
{
	struct tuple key = {
		.source = p->tuple.destination,
		.destination = p->tuple.source,
		.source_port = p->tuple.destination_port,
		.destination_port = p->tuple.source_port,
		.protocol = p->tuple.protocol,
	};
	struct flow *flow = find_flow(&key);

	return flow && flow_is_steered(flow) && flow->node == p->node ? flow : NULL;
}

/* An answer that the backend's node has wrapped, at the node that its client's packets come by: it
 * is from a Service, or from what was one when the connection began. By its RST the connection is
 * over. */
static __noinline int answer_comes_back(struct __sk_buff *skb, struct packet *p)
{
	const struct tuple *t = &p->tuple;
	const struct frontend *frontend =
		find_frontend(&t->source, t->source_port, t->protocol, false);
	bool known = frontend && frontend->set;
	struct flow *flow;

	if (known)
		p->service = frontend->set;
	if (known && !p->rst)
		return send_on(skb, p);
	flow = answered_by_node(p);
	if (!known && !flow)
		return drop(p, 0, REASON_FOREIGN_TUNNEL);
	if (flow && p->rst)
		flow->state |= FLOW_RESET;
	if (flow)
		p->service = flow->set;
	return send_on(skb, p);
}

/* A client's packet that another node has wrapped: it comes in as any. */
static __always_inline int request_comes_unwrapped(struct __sk_buff *skb, struct packet *p)
{
	int verdict = FRAGMENT_UNDECIDED;

	if (p->first || p->later)
		verdict = fragment_begin(skb, p, false);
	if (verdict != FRAGMENT_UNDECIDED)
		return verdict;
	verdict = translate_coming(skb, p, HOOK_TUNNEL);
	if (p->first && verdict == TO_BE_WRAPPED) { /* a refusal, which its later ones aren't */
		note_first(skb, p, false, TC_ACT_SHOT);
		return verdict;
	}
	return p->first ? fragment_end(skb, p, false, verdict) : verdict;
}

/*
 * A packet that another node has wrapped for this one, once it is out of its wrapping. A fragment
 * that is sent on by this very program comes by once more without. Of an answer's later fragments
 * the node that wrapped them knows what they are.
 */
static __always_inline int comes_unwrapped(struct __sk_buff *skb)
{
	struct packet *p = packet_room();
	bool ports;

	if (!p)
		return PASS;
	note_arrival(skb);
	if (skb->mark != SENT_ON && !read_wrapping(skb, p))
		return drop(p, 0, REASON_FOREIGN_TUNNEL);
	ports = read_packet(skb, p);
	if (p->reason)
		return drop(p, 0, REASON_FOREIGN_TUNNEL);
	/* The numbers in the Ethernet header made it another host's. */
	bpf_skb_change_type(skb, PACKET_HOST);
	if (skb->mark == SENT_ON)
		return come_again(skb, p, false);
	if (!ports)
		return wrapped(skb, p, error_comes_unwrapped(skb, p));
	if (p->backend)
		return wrapped(skb, p, request_comes_unwrapped(skb, p));
	return wrapped(skb, p, p->later ? send_on(skb, p) : answer_comes_back(skb, p));
}
