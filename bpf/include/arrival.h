/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What comes from a new pod before its interface has programs. User space attaches them within
 * milliseconds, but a pod may send at once: then nothing has judged its packets, and they are
 * stopped where they leave, at the interfaces that have programs.
 *
 * So each packet that a program of ours sees come in is marked, in skb->tc_index: it goes with the
 * packet through the node, costs no lookup, and nothing but classifiers of old (tcindex, dsmark)
 * ever read it. One that is forwarded without the mark came by an interface without programs: a
 * new pod's, if its source is a pod's and user space knows of no other kind of interface there.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "frontend.h"
#include "judge.h"
#include "maps.h"
#include "operate.h"
#include "packet.h"

#define ARRIVED 0xde17

static __always_inline void note_arrival(struct __sk_buff *skb)
{
	skb->tc_index = ARRIVED;
}

/*
 * A pod that has a row is not new, though its packets may have lost the mark: the kernel sets
 * tc_index anew behind any other classifier that lets a packet pass. __noinline: rare. Up to 4
 * lookups.
 */
static __noinline bool came_by_new_pod(const struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = skb->ingress_ifindex;

	return policy_epoch() && !look_up(&endpoints_v2, &p->tuple.source) &&
	       !look_up(&uplinks_v1, &ifindex) && network_kind(&p->tuple.source) == NETWORK_PODS;
}

/* Says if a packet that leaves has come by an interface of a pod that has no programs yet. None
 * that the node itself sends has. */
static __always_inline bool arrived_unseen(const struct __sk_buff *skb, const struct packet *p)
{
	return skb->ingress_ifindex && skb->tc_index != ARRIVED && came_by_new_pod(skb, p);
}
