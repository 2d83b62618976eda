// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The socket's way to a Service: the address is exchanged for a backend's when the socket dials, so
 * that its packets need no translation at all.
 *
 *   connect      find the frontend ── none ──► as it is
 *                decide ── not taken ──► ECONNREFUSED or ETIMEDOUT
 *                exchange, remember in the socket
 *   sendmsg      the same, but a Service that the socket knows keeps its backend
 *   recvmsg, getpeername   show the Service for its backend
 *   bind         a NodePort, by the node's own processes ──► EADDRINUSE
 *
 * Lookups, beside the socket's own storage: a dial of no Service 2, of a Service 4, of a NodePort
 * 6, of a hostPort 7; with a Local policy 2 more, with hints up to 4, with affinity 1 and at first
 * 3 and a write. A datagram to a Service that the socket knows 2. A bind 1, to the IPv6 wildcard 2,
 * by a pod 0. A test counts them.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "bind.h"
#include "connect.h"
#include "datagram.h"

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return socket_connect(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return socket_connect(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return socket_send(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return socket_send(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return socket_receive(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return socket_receive(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return socket_peer(ctx, false);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return socket_peer(ctx, true);
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return socket_bind(ctx, false);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return socket_bind(ctx, true);
}

char _license[] SEC("license") = "Dual BSD/GPL";
