// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/server"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// vips are addresses that no host has as its own: every node answers for them, as it does for Services.
var vips = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:100::7")}

// answerForVIPs lets a node answer for all vips by its name.
func answerForVIPs(t *testing.T, l *Lab, node string) {
	t.Helper()
	n := l.node(node)
	links, err := n.namespace.Links()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	lo, err := links.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		mask := net.CIDRMask(vip.BitLen(), vip.BitLen())
		address := &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: mask}}
		if vip.Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := links.AddrAdd(lo, address); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, patience, func() bool { // the kernel gives IPv6 addresses when it has time
		addrs, err := links.AddrList(lo, unix.AF_INET6)
		return err == nil && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
	})
	s := server.New("node/"+node, node, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	for _, protocol := range []string{"TCP", "UDP"} {
		err := n.namespace.Do(func() error { return s.Listen(vips, server.Port{Protocol: protocol, Number: 80}) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The outside client reaches what no host has as its own through the node that it chooses, else through the first.
func TestOutsideGoesThroughANode(t *testing.T) {
	t.Parallel()
	const nodes = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n"
	l := plainLab(t, unique("test-ways"), nodes)
	for _, node := range []string{"node-1", "node-2"} {
		answerForVIPs(t, l, node)
	}
	reach := func(via, want string) {
		t.Helper()
		for _, vip := range vips {
			to := netip.AddrPortFrom(vip, 80).String()
			for _, r := range []ProbeRequest{{Protocol: "tcp"}, {Protocol: "udp"}, {Protocol: "udp", Unconnected: true}, {Protocol: "tcp", Stream: true}} {
				r.From, r.To, r.Via = "outside", to, via
				if got := probe(t, l, r); got.Outcome != agent.OK || got.Reached != want {
					t.Errorf("%+v: got %+v, want %s", r, got, want)
				}
			}
		}
	}
	reach("", "node/node-1")
	reach("node/node-1", "node/node-1")
	reach("node/node-2", "node/node-2")
	if err := l.Delete(t.Context(), manifest.Decode("f", []byte("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n"))); err != nil {
		t.Fatal(err)
	}
	reach("", "node/node-2")
	for via, want := range map[string]string{"node/node-1": "there is no such node", "shop/web": "want node/NAME"} {
		_, err := l.Probe(t.Context(), ProbeRequest{From: "outside", To: "198.51.100.7:80", Via: via})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("via %s: %v", via, err)
		}
	}
	if _, err := l.Probe(t.Context(), ProbeRequest{From: "node/node-2", To: "198.51.100.7:80", Via: "node/node-2"}); err == nil || !strings.Contains(err.Error(), "only an outside client can choose") {
		t.Errorf("from a node: %v", err)
	}
}

// Pods that have a port of their node make room for those that replace them.
func TestPodsWithHostPortsAreReplaced(t *testing.T) {
	t.Parallel()
	const agents = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}, annotations: {version: "1"}}
    spec: {containers: [{name: main, ports: [{containerPort: 8080, hostPort: 8080}]}]}
`
	l := plainLab(t, unique("test-replace"), agents)
	before := l.Cluster().Pods
	if err := l.Apply(t.Context(), manifest.Decode("f", []byte(strings.Replace(agents, `"1"`, `"2"`, 1)))); err != nil {
		t.Fatal(err)
	}
	after := l.Cluster()
	if len(after.Pods) != 3 || len(after.SetAside) > 0 {
		t.Fatalf("%d pods, %v", len(after.Pods), after.Err())
	}
	for i, p := range after.Pods {
		if p.Name == before[i].Name || p.Spec.NodeName != before[i].Spec.NodeName {
			t.Errorf("%s on %s in place of %s on %s", p.Name, p.Spec.NodeName, before[i].Name, before[i].Spec.NodeName)
		}
		if got := probe(t, l, ProbeRequest{From: "outside", To: manifest.Name(p) + ":8080"}); got.Outcome != agent.OK {
			t.Errorf("%s: %+v", p.Name, got)
		}
	}
}
