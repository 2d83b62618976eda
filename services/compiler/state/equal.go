// SPDX-License-Identifier: Apache-2.0

package state

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/schemas"
)

// Attached returns the addresses that are the pod's own on its node: none if it uses the node's, or is finished.
func (p *Pod) Attached() []netip.Addr {
	if p.HostNetwork || p.Finished {
		return nil
	}
	return p.Addresses
}

// parseNamespace adds the label that names the namespace, which Kubernetes never lets go.
func parseNamespace(n Name, m *schemas.Namespace) (*Namespace, error) {
	labels := maps.Clone(m.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[NamespaceLabel] = n.Name
	packed, err := NewLabels(labels)
	if err != nil {
		return nil, err
	}
	return &Namespace{n, packed}, nil
}

func sameSlice(a, b *Slice) bool {
	return a.Service == b.Service && a.Family == b.Family && slices.Equal(a.Ports, b.Ports) &&
		a.Weight == b.Weight && a.packed == b.packed && slices.Equal(a.names, b.names) && slices.Equal(a.hints, b.hints)
}
