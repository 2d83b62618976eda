// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// labelled is a Service that says whose it is.
func labelled(label string) string {
	return strings.Replace(serviceOf("labelled", "web", ""), "namespace: shop}", "namespace: shop, labels: {"+label+"}}", 1)
}

// other listens for HTTP under another number than onePod's.
const other = `
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: web}}
spec: {nodeName: node-2, containers: [{name: main, ports: [{name: http, containerPort: 8181}, {name: quote, containerPort: 53, protocol: UDP}]}]}
`

// fixed has slices of its own: one endpoint stands in two of them, ready in one and not in the other, and a slice
// that names a Service that isn't there.
func fixed(web, other string) string {
	const slice = `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, namespace: shop, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{name: http, port: %d, protocol: TCP}, {name: quote, port: 8080, protocol: TCP}]
endpoints: [{addresses: [%s], conditions: {ready: %t}}]
`
	return fmt.Sprintf(slice, "fixed-a", "fixed", 8080, web, true) + fmt.Sprintf(slice, "fixed-b", "fixed", 8080, web, false) +
		fmt.Sprintf(slice, "fixed-c", "fixed", 8181, other, false) + fmt.Sprintf(slice, "lost-a", "lost", 8080, web, true) + `
---
apiVersion: v1
kind: Service
metadata: {name: fixed, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: quote, port: 81, targetPort: 8080}]}
`
}

// TestEndpointsOfServices has Services whose endpoints are not simply the ready pods that they select.
//
// Row 12: endpoints that aren't ready count where they are published, several slices add up, names of ports are
// resolved pod by pod, one port may be TCP and UDP, and Services that are headless or another proxy's are left alone.
// Trap 42: an endpoint that stands in two slices, ready in one, is ready, and a slice without a Service does nothing.
// Trap 43: a port's name leads to another number on another pod.
func TestEndpointsOfServices(t *testing.T) {
	testkit.NeedKernel(t)
	s := newStory(t, "endpoints", zones+onePod("web", 1, "")+other+onePod("early", 2, notReady)+onePod("client", 3, "")+
		serviceOf("named", "web", "")+
		serviceOf("early", "early", "publishNotReadyAddresses: true")+serviceOf("late", "early", "")+
		strings.ReplaceAll(serviceOf("twice", "web", ""), "port: 53,", "port: 80,")+
		serviceOf("headless", "web", "clusterIP: None")+
		labelled("service.kubernetes.io/service-proxy-name: another"))
	client := func(to, proto string) way { return way{from: "shop/client-3", to: to, proto: proto} }
	const both = "shop/other shop/web-1"
	s.all(t, both, client("shop/named:80", "tcp"))
	s.all(t, both, client("shop/named:53", "udp"))
	s.all(t, both, client("shop/twice:80", "tcp"))
	s.all(t, both, client("shop/twice:80", "udp"))
	s.all(t, "shop/early-2", client("shop/early:80", "tcp"))
	s.all(t, "refused", client("shop/late:80", "tcp"))

	t.Run("a label says whose it is", func(t *testing.T) {
		s.all(t, "timeout", client("shop/labelled:80", "tcp"))
		s.change(t, labelled("app: web"))
		s.all(t, both, client("shop/labelled:80", "tcp"))
		s.change(t, labelled(`service.kubernetes.io/headless: ""`))
		s.all(t, "timeout", client("shop/labelled:80", "tcp"))
	})
	t.Run("slices of its own", func(t *testing.T) {
		addr := func(pod string) string {
			at, err := s.Resolve(pod+":1", 4)
			if err != nil {
				t.Fatal(err)
			}
			return at.Addr().String()
		}
		s.change(t, fixed(addr("shop/web-1"), addr("shop/other")))
		for _, to := range []string{"shop/fixed:80", "shop/fixed:81"} {
			if got := s.met(t, "shop/web-1", 4, client(to, "tcp")); got != "shop/web-1" {
				t.Errorf("%s: got %q", to, got)
			}
		}
		if got := s.met(t, "refused", 4, client("shop/fixed:80", "tcp")); got != "shop/web-1" {
			t.Errorf("got %q", got)
		}
	})
}
