// SPDX-License-Identifier: Apache-2.0

// Package kernel has the tests that send real packets through the real programs: sockets in a cgroup and a
// namespace of their own, and raw packets through veth pairs.
package kernel
