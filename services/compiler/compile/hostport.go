// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// hostPorts compiles the hostPorts of one node's pods. Each is a root set of its own, with the pod as its one backend.
// Of pods that claim the same port the first by name has it: the scheduler lets no two of them onto a node. An address
// that a Service has is the Service's.
type hostPorts struct {
	snap     *state.Snapshot
	settings *Settings
	node     string
	holders  map[netip.Addr]string // which pod has an address

	claimed map[model.FrontendKey]netip.AddrPort
	owner   map[model.FrontendKey]state.Name
	parts   []part
	aside   []state.SetAside
}

func (h *hostPorts) compile() {
	h.claimed, h.owner = map[model.FrontendKey]netip.AddrPort{}, map[model.FrontendKey]state.Name{}
	for pod := range h.snap.PodsOn(h.node) {
		for _, port := range pod.HostPorts {
			if len(pod.Attached()) > 0 {
				h.port(pod, port)
			}
		}
	}
}

// port adds the frontends of one hostPort: one for its address, or one for each family of the pod.
func (h *hostPorts) port(pod *state.Pod, port state.HostPort) {
	found := false
	for _, family := range []model.Family{model.IPv4, model.IPv6} {
		if port.HostIP.IsValid() && model.FamilyOf(port.HostIP) != family {
			continue
		}
		i := slices.IndexFunc(pod.Attached(), func(a netip.Addr) bool {
			return model.FamilyOf(a) == family && h.holders[a] == pod.Name.String()
		})
		if i < 0 {
			continue
		}
		found = true
		addr := state.Unspecified(family)
		if port.HostIP.IsValid() {
			addr = port.HostIP
		}
		h.frontend(pod, port, port.Key(addr), netip.AddrPortFrom(pod.Attached()[i], port.Container))
	}
	if !found && port.HostIP.IsValid() {
		h.lose(pod, "its hostPort %d/%s on %s is not used: it has no address of that family", port.Port, port.Protocol, port.HostIP)
	}
}

func (h *hostPorts) frontend(pod *state.Pod, port state.HostPort, key model.FrontendKey, to netip.AddrPort) {
	if other, taken := h.owner[key]; taken {
		if other != pod.Name {
			h.lose(pod, "its hostPort %s is Pod %s's on node %s: one of them has to go elsewhere", key, other, h.node)
		} else if h.claimed[key] != to {
			h.lose(pod, "its hostPort %s leads to two ports: the first counts", key)
		}
		return
	}
	if svc := h.service(key); svc != nil {
		h.lose(pod, "its hostPort %s is not used: Service %s has that address", key, svc.Name)
		return
	}
	h.owner[key], h.claimed[key] = pod.Name, to
	h.parts = append(h.parts, hostPortPart(h.node, pod.Name, port, key, to))
}

// service returns a Service that has an address, or what else the key stands for; nil if none has.
func (h *hostPorts) service(key model.FrontendKey) *state.Service {
	if key.Match != model.MatchAddress {
		return nil
	}
	for svc := range h.snap.Claims(key.Addr) {
		return svc
	}
	for svc := range externalHolders(h.snap, h.settings, key) {
		return svc
	}
	return nil
}

func hostPortPart(node string, pod state.Name, port state.HostPort, key model.FrontendKey, to netip.AddrPort) part {
	place := model.PlaceOf(node)
	name := pod.Name
	if key.Match == model.MatchAddress {
		name += "@" + port.HostIP.String() // a pod may have one port lead elsewhere at another address
	}
	root := model.SetKey{
		Service: model.ServicePort{Namespace: pod.Namespace, Name: fit(name), Port: port.Port, Protocol: port.Protocol},
		Family:  model.FamilyOf(to.Addr()), Scope: model.ScopeHostPort, Place: place,
	}
	return part{
		layer: model.NodeLayer(node), root: root, place: place,
		frontends: []frontend{{key: key, kind: model.FrontendHostPort}},
		backends:  []backend{{at: to, state: model.BackendActive, node: model.NodeIDOf(node)}},
		sets:      []set{{key: root, members: []netip.AddrPort{to}}},
	}
}

// maxSetName is the longest name that a set may have, in bytes: that of a Service.
const maxSetName = 63

// fit shortens a name that is too long for a set, so that it stays one of a kind.
func fit(name string) string {
	if len(name) <= maxSetName {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	end := "-" + hex.EncodeToString(hash[:4])
	return name[:maxSetName-len(end)] + end
}

func (h *hostPorts) lose(pod *state.Pod, format string, args ...any) {
	h.aside = append(h.aside, podAside(pod.Name, fmt.Sprintf(format, args...)))
}
