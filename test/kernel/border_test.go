// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// The border is one lab for all tests of clients outside: bringing it up takes longer than any of them. Its first client
// goes by node-1, where shop/near is; shop/far is on node-2, and node-3 has no pods. A test that changes something puts it
// back.
var border struct {
	once sync.Once
	up   *scene
	err  error
}

// otherClient is the second client of the border.
const otherClient = "elsewhere"

// borderScene returns the border, up and converged.
func borderScene(t *testing.T) *scene {
	t.Helper()
	testkit.NeedKernel(t)
	c := buildAll(t)
	border.once.Do(func() {
		objects := decoded(t, borderYAML())
		var l *lab.Lab
		l, border.err = lab.Up(context.WithoutCancel(t.Context()), objects, lab.Options{
			Name: labName + "-border", Binaries: filepath.Dir(c.program), Agent: []string{c.program, "lab", "agent"},
			CompilerFlags: []string{"--allow-external-ips=192.0.2.0/24,2001:db8:2::/48"},
		})
		if border.err != nil {
			return
		}
		border.up = &scene{Lab: l, program: c.program}
		if border.err = l.AddClient(otherClient); border.err == nil {
			border.err = l.SumUp()
		}
		if border.err == nil {
			border.err = l.Converged(t.Context())
		}
	})
	check(t, border.err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logsIn(border.up.Logs()))
		}
	})
	return border.up
}

// with adds objects until the test ends.
func (s *scene) with(t *testing.T, yaml string) {
	t.Helper()
	objects := decoded(t, yaml)
	check(t, s.Apply(t.Context(), objects))
	t.Cleanup(func() { check(t, s.Delete(context.WithoutCancel(t.Context()), objects)) })
}

// leaveBorder takes the border down, if it is up.
func leaveBorder() error {
	if border.up == nil {
		return nil
	}
	return border.up.Shutdown()
}

const borderNodes = `
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-3}}
---
`

const borderPods = borderNodes + `
{apiVersion: v1, kind: Pod, metadata: {name: near, namespace: shop, labels: {at: near, tier: web}}, spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: shop, labels: {at: far, tier: web}}, spec: {nodeName: node-2, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop, labels: {at: host}}, spec: {nodeName: node-2, hostNetwork: true, containers: [{name: main, ports: [{containerPort: 9000}, {containerPort: 9000, protocol: UDP}]}]}}
---
`

// borderService is one way to forward, to one place, under one policy.
type borderService struct {
	mode, policy, place string
	number              int // 1 to 255, in its addresses and NodePorts
}

func (b borderService) cell() string { return b.place + " " + b.policy + " " + b.mode }

// modes are the ways to forward what clients outside send to backends of other nodes.
var modes = []string{"tunnel", "dsr", "snat"}

// borderServices are all there are.
func borderServices() (all []borderService) {
	for _, place := range []string{"near", "far"} {
		for _, policy := range []string{"Cluster", "Local"} {
			for _, mode := range modes {
				all = append(all, borderService{mode, policy, place, 1 + len(all)})
			}
		}
	}
	return all
}

func borderYAML() string {
	var yaml strings.Builder
	yaml.WriteString(borderPods)
	for _, b := range borderServices() {
		fmt.Fprintf(&yaml, `
apiVersion: v1
kind: Service
metadata: {name: %[1]s-%[2]s-%[3]s, namespace: shop, annotations: {deltaplane.io/forwarding: %[1]s}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: %[4]s
  externalIPs: [192.0.2.%[5]d, "2001:db8:2::%[5]d"]
  selector: {at: %[3]s}
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: %[6]d}, {name: udp, protocol: UDP, port: 80, targetPort: 8080, nodePort: %[6]d}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[5]d}, {ip: "2001:db8:1::%[5]d"}]}}
---
`, b.mode, strings.ToLower(b.policy), b.place, b.policy, b.number, 30100+b.number)
	}
	return yaml.String()
}

// balancers are the addresses of its load balancer, one of each family.
func (b borderService) balancers() []netip.AddrPort { return balancers(b.number) }

func balancers(number int) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(number)}), 80),
		netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1::%d]:80", number)),
	}
}

// targets are all the addresses that a client dials it by: its load balancer's, external ones, node-1's.
func (b borderService) targets() []netip.AddrPort {
	return append(b.balancers(),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(b.number)}), 80),
		netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:2::%d]:80", b.number)),
		netip.MustParseAddrPort(fmt.Sprintf("172.30.0.1:%d", 30100+b.number)),
		netip.MustParseAddrPort(fmt.Sprintf("[fd00:172:30::1]:%d", 30100+b.number)))
}
