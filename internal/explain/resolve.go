// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// clientPort is the source port of a packet whose sender named none: the first ephemeral one of RFC 6335.
const clientPort = 49152

// source is who connects.
type source struct {
	addresses []netip.Addr
	port      uint16
	node      string // where it runs; empty for one from outside
	pod       string // "namespace/name"; empty for a node and for one from outside
	isHost    bool   // shares the node's own network namespace
}

// target is what is dialled.
type target struct {
	addresses []netip.Addr // in order of preference
	port      uint16
	what      string // for people
}

// source reads NS/POD, node/NAME, ADDR or ADDR:PORT.
func (w *World) source(text string) (source, error) {
	name, port, err := splitSource(text)
	if err != nil {
		return source{}, err
	}
	if address, err := netip.ParseAddr(name); err == nil {
		return w.sourceAddress(address.Unmap(), port), nil
	}
	if node, is := strings.CutPrefix(name, "node/"); is {
		if fact := w.nodes[node]; fact != nil {
			return source{addresses: addresses(fact.GetNode().GetAddresses()), port: port, node: node, isHost: true}, nil
		}
	}
	fact := w.pods[name]
	if fact == nil {
		return source{}, fmt.Errorf("from %s: there is no such pod%s", quoted(text), w.near(name, w.pods))
	}
	return w.sourcePod(text, name, port, fact.GetPod())
}

func (w *World) sourcePod(text, name string, port uint16, pod *schemas.Pod) (source, error) {
	s := source{addresses: addresses(pod.GetAddresses()), port: port, node: pod.GetNode(), pod: name, isHost: pod.GetHostNetwork()}
	switch {
	case pod.GetFinished():
		return source{}, fmt.Errorf("from %s: the pod has finished and opens no connections any more", quoted(text))
	case pod.GetNode() == "":
		return source{}, fmt.Errorf("from %s: the pod runs on no node yet", quoted(text))
	case len(s.addresses) == 0 && s.isHost:
		s.addresses = addresses(w.nodes[s.node].GetNode().GetAddresses())
	}
	if len(s.addresses) == 0 {
		return source{}, fmt.Errorf("from %s: the pod has no address yet", quoted(text))
	}
	return s, nil
}

func (w *World) sourceAddress(address netip.Addr, port uint16) source {
	s := source{addresses: []netip.Addr{address}, port: port}
	o := w.owners[address]
	switch {
	case o.pod != "":
		s.pod, s.node = o.pod, w.pods[o.pod].GetPod().GetNode()
	case o.node != "":
		s.node, s.isHost = o.node, true
	}
	return s
}

// target reads NS/SVC:PORT, NS/POD:PORT or ADDR:PORT. Where a Service and a pod share a name the Service is meant.
func (w *World) target(text string, protocol model.Protocol) (target, error) {
	if to, err := netip.ParseAddrPort(text); err == nil {
		if to.Port() == 0 {
			return target{}, fmt.Errorf("to %s: port 0 can't be dialled; want 1 to 65535", quoted(text))
		}
		return target{addresses: []netip.Addr{to.Addr().Unmap()}, port: to.Port(), what: to.String()}, nil
	}
	name, port, ok := cutLast(text, ":")
	if !ok || !strings.Contains(name, "/") {
		return target{}, fmt.Errorf("to %s: want NAMESPACE/SERVICE:PORT, NAMESPACE/POD:PORT or ADDRESS:PORT", quoted(text))
	}
	if fact := w.services[name]; fact != nil {
		return serviceTarget(text, name, port, protocol, fact.GetService())
	}
	if fact := w.pods[name]; fact != nil {
		return podTarget(text, name, port, protocol, fact.GetPod())
	}
	return target{}, fmt.Errorf("to %s: there is no Service or pod of this name%s", quoted(text), w.near(name, w.services))
}

func serviceTarget(text, name, port string, protocol model.Protocol, service *schemas.Service) (target, error) {
	t := target{addresses: addresses(service.GetClusterIps()), what: "Service " + name}
	switch {
	case service.GetType() == "ExternalName":
		return target{}, fmt.Errorf("to %s: the Service is of type ExternalName, a name in DNS that nothing translates; dial an address", quoted(text))
	case len(t.addresses) == 0:
		return target{}, fmt.Errorf("to %s: the Service has no cluster IP: it is headless, and clients dial its pods; name a pod or an address", quoted(text))
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err == nil && number > 0 {
		t.port = uint16(number)
		return t, nil
	}
	for _, p := range service.GetPorts() {
		if p.GetName() == port && model.Protocol(p.GetProtocol()) == protocol {
			t.port = uint16(p.GetPort())
			return t, nil
		}
	}
	return target{}, fmt.Errorf("to %s: %s is no port number and no %s port of the Service", quoted(text), quoted(port), protocol)
}

func podTarget(text, name, port string, protocol model.Protocol, pod *schemas.Pod) (target, error) {
	t := target{addresses: addresses(pod.GetAddresses()), what: "pod " + name}
	if len(t.addresses) == 0 {
		return target{}, fmt.Errorf("to %s: the pod has no address yet", quoted(text))
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err == nil && number > 0 {
		t.port = uint16(number)
		return t, nil
	}
	for _, p := range pod.GetPorts() {
		if p.GetName() == port && model.Protocol(p.GetProtocol()) == protocol {
			t.port = uint16(p.GetPort())
			return t, nil
		}
	}
	return target{}, fmt.Errorf("to %s: %s is no port number and no %s port of the pod", quoted(text), quoted(port), protocol)
}

// pair picks addresses of one family: the target's first that the source has one for.
func pair(from source, to target) (netip.AddrPort, netip.AddrPort, error) {
	for _, t := range to.addresses {
		i := slices.IndexFunc(from.addresses, func(a netip.Addr) bool { return model.FamilyOf(a) == model.FamilyOf(t) })
		if i >= 0 {
			return netip.AddrPortFrom(from.addresses[i], from.port), netip.AddrPortFrom(t, to.port), nil
		}
	}
	return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("%s is only reached by %s, which the source has no address for",
		to.what, familyName(to.addresses[0]))
}

func familyName(a netip.Addr) string { return "IPv" + strconv.Itoa(int(model.FamilyOf(a))) }

// splitSource takes off a port, which only an address may have.
func splitSource(text string) (name string, port uint16, err error) {
	if from, err := netip.ParseAddrPort(text); err == nil {
		if from.Port() == 0 {
			return "", 0, fmt.Errorf("from %s: nothing is sent from port 0; want 1 to 65535", quoted(text))
		}
		return from.Addr().String(), from.Port(), nil
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return text, clientPort, nil
	}
	name, number, has := cutLast(text, ":")
	if !has {
		name = text
	}
	if !strings.Contains(name, "/") || strings.Contains(name, ":") {
		return "", 0, fmt.Errorf("from %s: want NAMESPACE/POD, node/NAME, ADDRESS or ADDRESS:PORT; a client outside is its ADDRESS", quoted(text))
	}
	if !has {
		return name, clientPort, nil
	}
	p, err := strconv.ParseUint(number, 10, 16)
	if err != nil || p == 0 {
		return "", 0, fmt.Errorf("from %s: %s is no port; want 1 to 65535", quoted(text), quoted(number))
	}
	return name, uint16(p), nil
}

// near suggests a name that differs in its namespace only.
func (w *World) near(name string, among map[string]*schemas.Fact) string {
	_, bare, _ := strings.Cut(name, "/")
	var found []string
	for candidate := range among {
		if _, b, _ := strings.Cut(candidate, "/"); b == bare {
			found = append(found, candidate)
		}
	}
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return "; there is " + strings.Join(found[:min(len(found), 3)], ", ")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func quoted(s string) string { return strconv.Quote(s) }
