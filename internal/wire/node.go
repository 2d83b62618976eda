// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func networkFromProto(m *schemas.Network) (model.Network, error) {
	prefix, err := prefixFromProto(m.GetPrefix())
	var errKind error
	if k := m.GetKind(); k != schemas.NetworkKind_NETWORK_KIND_PODS && k != schemas.NetworkKind_NETWORK_KIND_SERVICES {
		errKind = fmt.Errorf("kind %d is unknown here", k)
	}
	return model.Network{Prefix: prefix, Kind: model.NetworkKind(m.GetKind())}, first(err, errKind)
}

func healthCheckFromProto(m *schemas.HealthCheck) (model.HealthCheck, error) {
	port, err := PortFromProto(m.GetPort())
	return model.HealthCheck{Port: port, Namespace: m.GetNamespace(), Name: m.GetService()},
		first(err, Name("namespace", m.GetNamespace()), Name("service", m.GetService()))
}

func selfFromProto(m *schemas.Self) (model.Self, error) {
	return model.Self{Zone: m.GetZone(), Draining: m.GetDraining(), Policed: m.GetPoliced()}, text("zone", m.GetZone(), MaxZone)
}
