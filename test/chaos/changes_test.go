// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// changes are what happens to the objects of a town while faults last. Each is one that traffic notices nothing of, and
// that a packet sent later proves to have come.
type changes struct {
	*cluster
	random *rand.Rand
	made   int

	services [8]bool // which of side-0 to side-7 there are
	policy   int     // of benchForms
}

// changeEvery is the pause between two changes.
const changeEvery = 100 * time.Millisecond

// benchForms are the policies that the bench may have: who may sit down.
var benchForms = []struct {
	from              string // empty: there is no policy
	buyers, strangers bool
}{
	{"", true, true},
	{"[{podSelector: {matchLabels: {app: buyer}}}]", true, false},
	{"[{podSelector: {matchLabels: {app: stranger}}}]", false, true},
	{"[{podSelector: {matchLabels: {app: nobody}}}]", false, false},
}

// while changes objects until during has returned.
func (c *changes) while(t *testing.T, during func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	changing.Go(func() {
		pause := time.NewTicker(changeEvery)
		defer pause.Stop()
		for ctx.Err() == nil {
			if err := c.one(context.WithoutCancel(ctx)); err != nil {
				t.Errorf("change something: %v", err)
				return
			}
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	})
	defer changing.Wait()
	defer stop()
	during()
}

// one makes a change, and returns before it is live.
func (c *changes) one(ctx context.Context) error {
	c.made++
	switch c.random.IntN(4) {
	case 0:
		return c.policyChanges(ctx)
	case 1:
		return c.flip(ctx)
	}
	n := c.random.IntN(len(c.services))
	c.services[n] = !c.services[n]
	side := manifest.Decode("side", fmt.Appendf(nil, "{apiVersion: v1, kind: Service, metadata: {name: side-%d, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}", n))
	if c.services[n] {
		return c.Submit(ctx, &manifest.Objects{}, side)
	}
	return c.Submit(ctx, side, &manifest.Objects{})
}

// policyChanges gives the bench's policy another form, which every node needs.
func (c *changes) policyChanges(ctx context.Context) error {
	was := benchForms[c.policy]
	c.policy = (c.policy + 1 + c.random.IntN(len(benchForms)-1)) % len(benchForms)
	is := benchForms[c.policy]
	object := manifest.Decode("policy", fmt.Appendf(nil, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bench, namespace: shop}, "+
		"spec: {podSelector: {matchLabels: {app: bench}}, ingress: [{from: %s}]}}", is.from))
	switch {
	case is.from == "":
		return c.Submit(ctx, object, &manifest.Objects{})
	case was.from == "":
		return c.Submit(ctx, &manifest.Objects{}, object)
	}
	return c.Submit(ctx, object, object)
}

// flip gives a Service without a selector some of web's pods as endpoints.
func (c *changes) flip(ctx context.Context) error {
	some := 1 + c.random.IntN(1<<nodes-1)
	var endpoints []string
	for n := range nodes {
		if some&(1<<n) == 0 {
			continue
		}
		at, err := c.Resolve(fmt.Sprintf("shop/web-%d:8080", n), 4)
		if err != nil {
			return err
		}
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [%s], nodeName: node-%d, conditions: {ready: true}}", at.Addr(), n+1))
	}
	return c.Submit(ctx, &manifest.Objects{}, manifest.Decode("flip", fmt.Appendf(nil,
		"{apiVersion: v1, kind: Service, metadata: {name: flip, namespace: shop}, spec: {ports: [{port: 80}]}}\n---\n"+
			"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: flip-1, namespace: shop, labels: {kubernetes.io/service-name: flip}}, "+
			"addressType: IPv4, ports: [{port: 8080}], endpoints: [%s]}", strings.Join(endpoints, ", "))))
}

// proved sends packets through all that has changed, from each node.
func (c *changes) proved(t *testing.T) {
	t.Helper()
	var tasks sync.WaitGroup
	for n := range nodes {
		buyer, stranger := fmt.Sprintf("shop/buyer-%d", n), fmt.Sprintf("shop/stranger-%d", n)
		tasks.Go(func() {
			for n, there := range c.services {
				if there {
					c.reaches(t, buyer, fmt.Sprintf("shop/side-%d:80", n), true)
					c.reaches(t, stranger, fmt.Sprintf("shop/side-%d:80", n), false)
				}
			}
			if c.declares("shop/flip") {
				c.reaches(t, buyer, "shop/flip:80", true)
			}
			c.reaches(t, buyer, "shop/bench:9000", benchForms[c.policy].buyers)
			c.reaches(t, stranger, "shop/bench:9000", benchForms[c.policy].strangers)
		})
	}
	tasks.Wait()
}

func (c *changes) declares(service string) bool {
	for _, s := range c.Declared().Services {
		if manifest.Name(s) == service {
			return true
		}
	}
	return false
}

// reaches dials once.
func (c *cluster) reaches(t *testing.T, from, to string, want bool) {
	t.Helper()
	timeout := allowedWait
	if !want {
		timeout = deniedWait
	}
	report, err := c.Probe(t.Context(), lab.ProbeRequest{From: from, To: to, Timeout: timeout})
	if err != nil {
		t.Errorf("%s → %s: %v", from, to, err)
		return
	}
	if r := report.Results[0]; (r.Outcome == agent.OK) != want {
		t.Errorf("%s → %s: %+v, want it to pass: %t", from, to, r, want)
	}
}
