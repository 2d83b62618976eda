// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What our programs are measured against, in benchmarks only: the least that a translation over
 * IPv4 can be. Parse without options, look up with the smallest keys, exchange address, port and
 * checksums, nothing else: no IPv6, no fragments, no states, no reasons. A connection's packet
 * looks up its flow; a datagram the flow, and whether its backend is still there; a new connection
 * flow, Service and backend; what is no Service's flow and Service.
 *
 * Beside the floors are ours with a packet that differs each time. A repeated test run goes on with
 * the packet as the run before left it, so the backends of these benchmarks are the frontends
 * themselves.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "frame.h"
#include "path.h"

volatile const __u32 floor_frontend_count = 1;
volatile const __u32 floor_active_count = 1; /* how many of them are talked to all the time */

struct floor_tuple {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

struct floor_frontend {
	__be32 addr;
	__be16 port;
	__u16 protocol;
};

struct floor_backend {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct floor_tuple);
	__type(value, struct floor_backend);
} floor_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct floor_frontend);
	__type(value, __u32);
} floor_frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct floor_backend);
} floor_backends SEC(".maps");

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct datagram_headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static __always_inline struct headers *floor_parse(struct __sk_buff *skb, struct floor_tuple *tuple)
{
	struct headers *h = packet_start(skb);

	if ((void *)(h + 1) > packet_end(skb) || h->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    h->ip.ihl != 5 || h->ip.protocol != IPPROTO_TCP)
		return NULL;
	tuple->source = h->ip.saddr;
	tuple->destination = h->ip.daddr;
	tuple->source_port = h->tcp.source;
	tuple->destination_port = h->tcp.dest;
	tuple->protocol = IPPROTO_TCP;
	return h;
}

static __always_inline void floor_rewrite(struct headers *h, const struct floor_backend *to)
{
	__u64 change = sum_change(h->ip.daddr, to->addr);

	h->ip.check = checksum_update(h->ip.check, change);
	h->tcp.check =
		checksum_update(h->tcp.check, change + sum_change_port(h->tcp.dest, to->port));
	h->ip.daddr = to->addr;
	h->tcp.dest = to->port;
}

static __always_inline __u32 *floor_find(const struct floor_tuple *tuple)
{
	struct floor_frontend key = {
		.addr = tuple->destination,
		.port = tuple->destination_port,
		.protocol = IPPROTO_TCP,
	};

	return bpf_map_lookup_elem(&floor_frontends, &key);
}

static __always_inline int floor_known(struct __sk_buff *skb)
{
	struct floor_tuple tuple;
	struct headers *h = floor_parse(skb, &tuple);
	struct floor_backend *flow;

	if (!h)
		return PASS;
	flow = bpf_map_lookup_elem(&floor_flows, &tuple);
	if (flow)
		floor_rewrite(h, flow);
	return PASS;
}

/* The backend's row is the one with the number of its port's Service: 1. */
static __always_inline int floor_known_datagram(struct __sk_buff *skb)
{
	struct datagram_headers *h = packet_start(skb);
	struct floor_backend *flow, *backend;
	struct floor_tuple tuple;
	__u32 id = 1;
	__u64 change;

	if ((void *)(h + 1) > packet_end(skb) || h->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    h->ip.ihl != 5 || h->ip.protocol != IPPROTO_UDP)
		return PASS;
	tuple = (struct floor_tuple){
		.source = h->ip.saddr,
		.destination = h->ip.daddr,
		.source_port = h->udp.source,
		.destination_port = h->udp.dest,
		.protocol = IPPROTO_UDP,
	};
	flow = bpf_map_lookup_elem(&floor_flows, &tuple);
	backend = bpf_map_lookup_elem(&floor_backends, &id);
	if (!flow || !backend || backend->addr != flow->addr)
		return PASS;
	change = sum_change(h->ip.daddr, flow->addr);
	h->ip.check = checksum_update(h->ip.check, change);
	change += sum_change_port(h->udp.dest, flow->port);
	h->udp.check = checksum_update(h->udp.check, change);
	h->ip.daddr = flow->addr;
	h->udp.dest = flow->port;
	return PASS;
}

static __always_inline int floor_begin(struct __sk_buff *skb)
{
	struct floor_tuple tuple, reverse;
	struct headers *h = floor_parse(skb, &tuple);
	struct floor_backend *backend;
	__u32 *id;

	if (!h || bpf_map_lookup_elem(&floor_flows, &tuple))
		return PASS;
	id = floor_find(&tuple);
	if (!id)
		return PASS;
	backend = bpf_map_lookup_elem(&floor_backends, id);
	if (!backend)
		return PASS;
	reverse = (struct floor_tuple){
		.source = backend->addr,
		.destination = tuple.source,
		.source_port = backend->port,
		.destination_port = tuple.source_port,
		.protocol = ~IPPROTO_TCP,
	};
	bpf_map_update_elem(&floor_flows, &reverse, backend, BPF_ANY);
	bpf_map_update_elem(&floor_flows, &tuple, backend, BPF_ANY);
	floor_rewrite(h, backend);
	return PASS;
}

/* Exchanges the packet for another client port's, or for one to another frontend. */

static __always_inline void vary_port(struct __sk_buff *skb)
{
	static __u32 port;
	struct headers *h = packet_start(skb);

	if ((void *)(h + 1) <= packet_end(skb))
		h->tcp.source = bpf_htons(++port);
}

static __always_inline void vary_frontend(struct __sk_buff *skb, __u32 count)
{
	struct headers *h = packet_start(skb);
	__u32 i = bpf_get_prandom_u32() % count;

	if ((void *)(h + 1) <= packet_end(skb))
		h->ip.daddr = bpf_htonl(0x0a600000 + i); /* 10.96.0.0 */
}

/* Exchanges it for one to a random address that is no Service's. */
static __always_inline void vary_other(struct __sk_buff *skb)
{
	struct headers *h = packet_start(skb);

	if ((void *)(h + 1) <= packet_end(skb)) /* 10.200.0.0 */
		h->ip.daddr = bpf_htonl(0x0ac80000 + (bpf_get_prandom_u32() & 0xfffff));
}

SEC("tc")
int floor_established(struct __sk_buff *skb)
{
	return floor_known(skb);
}

SEC("tc")
int floor_random(struct __sk_buff *skb)
{
	vary_frontend(skb, floor_active_count);
	return floor_known(skb);
}

SEC("tc")
int ours_random(struct __sk_buff *skb)
{
	vary_frontend(skb, floor_active_count);
	return comes_in(skb, HOOK_POD);
}

/* Of a million flows each has a packet a second or less: it is looked after with each. */
SEC("tc")
int floor_random_all(struct __sk_buff *skb)
{
	vary_frontend(skb, floor_frontend_count);
	return floor_known(skb);
}

SEC("tc")
int ours_random_all(struct __sk_buff *skb)
{
	vary_frontend(skb, floor_frontend_count);
	return comes_in(skb, HOOK_POD);
}

SEC("tc")
int floor_datagram(struct __sk_buff *skb)
{
	return floor_known_datagram(skb);
}

SEC("tc")
int floor_new(struct __sk_buff *skb)
{
	vary_port(skb);
	vary_frontend(skb, floor_frontend_count);
	return floor_begin(skb);
}

SEC("tc")
int ours_new(struct __sk_buff *skb)
{
	vary_port(skb);
	vary_frontend(skb, floor_frontend_count);
	return comes_in(skb, HOOK_POD);
}

/* A new connection that is for no Service, each time. */
SEC("tc")
int ours_new_direct(struct __sk_buff *skb)
{
	vary_port(skb);
	return comes_in(skb, HOOK_POD);
}

/* The same as its pod gets it. */
SEC("tc")
int ours_new_to_pod(struct __sk_buff *skb)
{
	vary_port(skb);
	return leaves(skb, HOOK_POD);
}

SEC("tc")
int floor_no_service(struct __sk_buff *skb)
{
	struct floor_tuple tuple;

	vary_other(skb);
	if (!floor_parse(skb, &tuple))
		return PASS;
	if (bpf_map_lookup_elem(&floor_flows, &tuple))
		return TC_ACT_SHOT;
	return floor_find(&tuple) ? TC_ACT_SHOT : PASS;
}

SEC("tc")
int ours_no_service(struct __sk_buff *skb)
{
	vary_other(skb);
	return comes_in(skb, HOOK_POD);
}

/* One lookup and a RST in place, its checksum by difference. */
SEC("tc")
int floor_refused(struct __sk_buff *skb)
{
	struct floor_tuple tuple;
	struct headers *h = floor_parse(skb, &tuple);

	if (!h || !floor_find(&tuple))
		return PASS;
	h->ip.saddr = tuple.destination;
	h->ip.daddr = tuple.source;
	h->tcp.source = tuple.destination_port;
	h->tcp.dest = tuple.source_port;
	h->tcp.check = checksum_update(h->tcp.check, sum_change(h->tcp.ack_seq, h->tcp.seq + 1));
	h->tcp.ack_seq = h->tcp.seq + bpf_htonl(1);
	h->tcp.syn = 0;
	h->tcp.rst = 1;
	h->tcp.ack = 1;
	swap_ethernet(skb);
	return bpf_redirect(skb->ifindex, 0);
}

/* What came by a node: who wrapped it, and one lookup. */
SEC("tc")
int floor_unwrap(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return TC_ACT_SHOT;
	return floor_known(skb);
}

/* An answer that came by a node: one lookup, one hop less, and the way by the kernel's routes. */
SEC("tc")
int floor_answer(struct __sk_buff *skb)
{
	struct bpf_fib_lookup way = { .family = AF_INET, .ifindex = skb->ifindex };
	struct bpf_tunnel_key key;
	struct floor_tuple tuple, service = {};
	struct headers *h;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return TC_ACT_SHOT;
	h = floor_parse(skb, &tuple);
	if (!h)
		return TC_ACT_SHOT;
	service.destination = tuple.source;
	service.destination_port = tuple.source_port;
	if (!floor_find(&service))
		return TC_ACT_SHOT;
	way.ipv4_src = tuple.source;
	way.ipv4_dst = tuple.destination;
	if (bpf_fib_lookup(skb, &way, sizeof(way), 0))
		return TC_ACT_SHOT;
	h->ip.check = checksum_update(h->ip.check, sum_change_port(h->ip.ttl, h->ip.ttl - 1));
	h->ip.ttl--;
	return bpf_redirect_neigh(way.ifindex, NULL, 0, 0);
}

/* XDP: one lookup, the way by the kernel's routes, and constant headers around the frame. */
SEC("xdp")
int floor_wrap(struct xdp_md *xdp)
{
	struct headers *h = frame_start(xdp);
	struct bpf_fib_lookup way = { .family = AF_INET, .ifindex = xdp->ingress_ifindex };
	struct floor_backend *flow;
	struct floor_tuple tuple;
	struct ethhdr *eth;
	struct iphdr *ip;

	if ((void *)(h + 1) > frame_end(xdp) || h->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    h->ip.ihl != 5 || h->ip.protocol != IPPROTO_TCP)
		return XDP_PASS;
	tuple = (struct floor_tuple){ h->ip.saddr, h->ip.daddr, h->tcp.source, h->tcp.dest,
				      IPPROTO_TCP };
	flow = bpf_map_lookup_elem(&floor_flows, &tuple);
	if (!flow)
		return XDP_PASS;
	way.ipv4_dst = flow->addr;
	if (bpf_fib_lookup(xdp, &way, sizeof(way), 0) || bpf_xdp_adjust_head(xdp, -50))
		return XDP_PASS;
	eth = frame_start(xdp);
	ip = (void *)(eth + 1);
	if ((void *)eth + 50 + ETH_HLEN > frame_end(xdp))
		return XDP_DROP;
	__builtin_memset(eth, 0, 50);
	__builtin_memcpy(eth->h_dest, way.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, way.smac, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	ip->daddr = flow->addr;
	ip->protocol = IPPROTO_UDP;
	ip->check = ~sum_fold(sum_words(ip, sizeof(*ip)));
	return XDP_TX;
}

/* XDP: one lookup. */
SEC("xdp")
int floor_drop(struct xdp_md *xdp)
{
	struct headers *h = frame_start(xdp);
	struct floor_frontend key = { .protocol = IPPROTO_TCP };

	if ((void *)(h + 1) > frame_end(xdp))
		return XDP_PASS;
	key.addr = h->ip.daddr;
	key.port = h->tcp.dest;
	return bpf_map_lookup_elem(&floor_frontends, &key) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
