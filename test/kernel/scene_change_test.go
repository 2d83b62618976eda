// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// twoNodes are two nodes and a pod that dials.
const twoNodes = `
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 1}]}]}
---
`

// harbour adds Services whose backends come and go: pods of app quay.
var harbour = twoNodes + openPort("plain", "type: NodePort, selector: {app: quay}", 30090) +
	openPort("sticky", "type: NodePort, sessionAffinity: ClientIP, selector: {app: quay}", 30091)

// openPort is a Service of both families, whose port 80 is open by TCP and UDP, and at the nodes if nodePort isn't 0.
func openPort(name, spec string, nodePort int) string {
	at := ""
	if nodePort != 0 {
		at = fmt.Sprintf(", nodePort: %d", nodePort)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop}
spec: {%s, ipFamilyPolicy: RequireDualStack, ports: [{name: t, port: 80, targetPort: 8080%s}, {name: u, port: 80, protocol: UDP, targetPort: 8080%s}]}
---
`, name, spec, at, at)
}

// quay is a pod that serves, in the state that more says: "ready", "unready" or "leaving".
func quay(name, node, state string) string {
	ready, leaving := "True", ""
	switch state {
	case "unready":
		ready = "False"
	case "leaving":
		leaving = `, deletionTimestamp: "2026-01-01T00:00:00Z"`
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: quay}%s}
spec: {nodeName: %s, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}
status: {phase: Running, conditions: [{type: Ready, status: "%s"}]}
---
`, name, leaving, node, ready)
}

func (s *scene) apply(t *testing.T, yaml string) {
	t.Helper()
	s.changed()
	check(t, s.Apply(t.Context(), decoded(t, yaml)))
}

func (s *scene) remove(t *testing.T, kind, name string) {
	t.Helper()
	s.changed()
	names := manifest.Loader{NamesOnly: true}
	names.Decode("gone.yaml", fmt.Appendf(nil, "apiVersion: v1\nkind: %s\nmetadata: {namespace: shop, name: %s}", kind, name))
	check(t, s.Delete(t.Context(), names.Objects()))
}

// loads are clients that go on asking, each on one socket, by their names.
type loads map[string]func(context.Context) (*agent.Load, error)

// load lets each place ask a Service's cluster IP in both families, on and on by one socket, and the outside client its
// NodePort.
func (s *scene) load(t *testing.T, proto, service, nodePort string) loads {
	t.Helper()
	all := loads{}
	for _, w := range []way{
		{from: "shop/client", to: service},
		{from: rawPod + "shop/client", to: service},
		{from: "node/node-1", to: service},
		{from: "outside", to: "node/node-1:" + nodePort},
	} {
		w.proto = proto
		for _, a := range s.attempts(t, w) {
			stop, err := s.keepAsking(t, a)
			check(t, err)
			all[a.from+" → "+a.target.String()] = stop
		}
	}
	return all
}

func (s *scene) keepAsking(t *testing.T, a attempt) (func(context.Context) (*agent.Load, error), error) {
	t.Helper()
	timeout := patience
	if a.proto == "udp" { // nobody else repeats the question
		timeout = 100 * time.Millisecond
	}
	const interval = 10 * time.Millisecond
	if client := s.client(t, a.from); client != nil {
		return client.Load(agent.Target{Protocol: a.proto, Address: a.target, Timeout: timeout, Stream: true}, interval)
	}
	return s.Load(lab.ProbeRequest{From: a.from, To: a.target.String(), Protocol: a.proto, Timeout: timeout, Stream: true}, interval)
}

// end stops all and returns what came of each.
func (l loads) end(t *testing.T) map[string]*agent.Load {
	t.Helper()
	all := map[string]*agent.Load{}
	for name, stop := range l {
		load, err := stop(t.Context())
		check(t, err)
		all[name] = load
	}
	return all
}

// steadily dials new connections for a second and a half, which is longer than anything may take to notice a change.
func (s *scene) steadily(t *testing.T, to, reached string) {
	t.Helper()
	report, err := s.Probe(t.Context(), lab.ProbeRequest{From: "shop/client", To: to, Count: 15, Interval: 100 * time.Millisecond})
	check(t, err)
	for _, r := range report.Results {
		if r.Outcome != agent.OK || r.Reached != reached {
			t.Errorf("to %s: got %+v, want %s", to, r, reached)
		}
	}
}

// everywhere is each way to the Services of the harbour.
func everywhere(outcome agent.Outcome, reached string) []way {
	return []way{{to: "shop/plain:80 shop/sticky:80 node/node-1:30090 node/node-2:30091", outcome: outcome, reached: reached}}
}

// Backends become ready, terminate and go, while clients ask on sockets that they keep.
//
// Row 2: connected UDP sockets are answered when the first backend becomes ready, and move to a live backend within a
// second when theirs goes, on every path, under one name and without a change on their side.
// Row 3: a TCP connection goes on while its backend terminates, and is reset when the backend is gone.
// Row 4: no new connection reaches a terminating backend while another is ready, with affinity or without; when no
// other is left, it does.
// Row 5: a Service is refused before its first backend is ready and after its last one is gone.
// Trap 22: a connected UDP socket, which no hook sees again, leaves a backend that is gone.
// Trap 46: affinity ends when its backend terminates.
func TestClientsFollowBackendsThatComeAndGo(t *testing.T) {
	s := newScene(t, "harbour", harbour)
	places := []string{"shop/client", rawPod + "shop/client", "node/node-1", "outside"}
	var datagrams, connections loads
	t.Run("no backend is ready yet", func(t *testing.T) {
		s.apply(t, quay("east", "node-2", "unready"))
		s.expect(t, places, everywhere(agent.Refused, "")...)
		datagrams = s.load(t, "udp", "shop/plain:80", "30090")
	})
	t.Run("the first becomes ready", func(t *testing.T) {
		s.apply(t, quay("east", "node-2", "ready"))
		s.expect(t, places, everywhere(agent.OK, "shop/east")...)
		connections = s.load(t, "tcp", "shop/plain:80", "30090")
	})
	t.Run("another is ready and the first terminates", func(t *testing.T) {
		s.apply(t, quay("west", "node-1", "ready"))
		s.expect(t, places, way{to: "shop/sticky:80 node/node-2:30091", outcome: agent.OK, reached: "shop/east"})
		s.apply(t, quay("east", "node-2", "leaving"))
		s.expect(t, places, everywhere(agent.OK, "shop/west")...)
		s.steadily(t, "shop/plain:80", "shop/west")
		for name, load := range connections.end(t) {
			if load.Failed != 0 || len(load.Reached) != 1 || load.Reached["shop/east"] < 10 {
				t.Errorf("TCP, %s: %+v, want all by shop/east", name, load)
			}
		}
	})
	t.Run("nothing but a terminating one is left", func(t *testing.T) {
		s.remove(t, "Pod", "west")
		s.expect(t, places, everywhere(agent.OK, "shop/east")...)
		connections = s.load(t, "tcp", "shop/plain:80", "30090")
	})
	t.Run("a backend goes", func(t *testing.T) {
		s.apply(t, quay("west", "node-1", "ready"))
		goes := time.Now()
		s.remove(t, "Pod", "east")
		notice := max(time.Second, time.Since(goes)) // on a busy machine until the change is live
		s.steadily(t, "shop/sticky:80", "shop/west")
		for name, load := range connections.end(t) {
			late := slices.ContainsFunc(load.Failures, func(f string) bool { return !strings.Contains(f, string(agent.Refused)) })
			if load.Failed != 1 || late || load.LongestGapMicros > (notice+500*time.Millisecond).Microseconds() || load.Reached["shop/west"] == 0 {
				t.Errorf("TCP, %s: %+v, want one reset and shop/west after it", name, load)
			}
		}
		for name, load := range datagrams.end(t) {
			if load.LongestGapMicros > notice.Microseconds() || !slices.Equal(slices.Sorted(maps.Keys(load.Reached)), []string{"shop/east", "shop/west"}) {
				t.Errorf("UDP, %s: %+v, want shop/east and then shop/west within %v", name, load, notice)
			}
		}
	})
	t.Run("none is left", func(t *testing.T) {
		s.remove(t, "Pod", "west")
		s.expect(t, places, everywhere(agent.Refused, "")...)
	})
}
