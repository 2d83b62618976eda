// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func keyToProto(k model.FrontendKey) *schemas.FrontendKey {
	return &schemas.FrontendKey{
		Address: AddrToProto(k.Addr), Port: uint32(k.Port), Protocol: schemas.Protocol(k.Protocol), Match: schemas.Match(k.Match),
	}
}

// keyFromProto reads a key: an address with a port and a protocol, the node's own addresses with them, or an address
// with neither.
func keyFromProto(m *schemas.FrontendKey) (model.FrontendKey, error) {
	addr, errAddr := AddrFromProto(m.GetAddress())
	key := model.FrontendKey{Addr: addr, Match: model.Match(m.GetMatch())}
	if errAddr == nil && m.GetPort() == 0 && m.GetProtocol() == 0 && m.GetMatch() == 0 {
		return key, nil
	}
	var errPort, errProtocol, errMatch error
	key.Port, errPort = PortFromProto(m.GetPort())
	key.Protocol, errProtocol = ProtocolFromProto(m.GetProtocol())
	switch m.GetMatch() {
	case schemas.Match_MATCH_UNSPECIFIED:
	case schemas.Match_MATCH_NODE_PORT, schemas.Match_MATCH_HOST_PORT:
		if errAddr == nil && !addr.IsUnspecified() {
			errMatch = fmt.Errorf("address %s: the node's own addresses have the unspecified one in the key", addr)
		}
	default:
		errMatch = fmt.Errorf("match %d is unknown here", m.GetMatch())
	}
	return key, first(errAddr, errPort, errProtocol, errMatch)
}

func frontendToProto(f model.Frontend) *schemas.Frontend {
	return &schemas.Frontend{
		Key: keyToProto(f.FrontendKey), Set: uint32(f.Set), Kind: schemas.FrontendKind(f.Kind),
		InternalLocal: f.Flags&model.InternalLocal != 0, ExternalLocal: f.Flags&model.ExternalLocal != 0,
		SourceRanges: f.Flags&model.SourceRanges != 0, Forwarding: forwardingToProto(f.Flags),
	}
}

func frontendFromProto(m *schemas.Frontend) (model.Frontend, error) {
	key, err := keyFromProto(m.GetKey())
	kind, errKind := enum[model.FrontendKind]("kind", m.GetKind())
	f := model.Frontend{FrontendKey: key, Set: model.SetID(m.GetSet()), Kind: kind}
	forwarding, errForwarding := forwardingFromProto(m.GetForwarding())
	f.Flags = forwarding | flag(m.GetInternalLocal(), model.InternalLocal) | flag(m.GetExternalLocal(), model.ExternalLocal) |
		flag(m.GetSourceRanges(), model.SourceRanges)
	return f, first(err, errKind, errForwarding, checkFrontend(f))
}

// checkFrontend says whether a frontend of one kind has what only another kind may have.
func checkFrontend(f model.Frontend) error {
	if f.Kind == model.FrontendRefused {
		if f.Port != 0 || f.Set != 0 || f.Flags != 0 {
			return fmt.Errorf("%s is refused, and has a port, a set or flags", f.FrontendKey)
		}
		return nil
	}
	if _, err := setID(uint32(f.Set)); err != nil {
		return err
	}
	matches := f.Match == model.MatchAddress
	switch f.Kind {
	case model.FrontendClusterIP, model.FrontendExternalIP, model.FrontendLoadBalancer:
	case model.FrontendNodePort:
		matches = f.Match == model.MatchNodePort
	case model.FrontendHostPort:
		matches = f.Match != model.MatchNodePort
	default:
		return fmt.Errorf("kind %d is unknown here", f.Kind)
	}
	switch {
	case f.Flags&forward != 0 && (f.Flags&model.ExternalLocal != 0 || f.Kind == model.FrontendClusterIP || f.Kind == model.FrontendHostPort):
		return fmt.Errorf("%s forwards to other nodes, and clients from outside don't get to these", f.FrontendKey)
	case f.Port == 0:
		return fmt.Errorf("port 0 and kind %d: only refused frontends have no port", f.Kind)
	case !matches:
		return fmt.Errorf("match %d does not go with kind %d", f.Match, f.Kind)
	}
	return nil
}

// forward is the flags of which a frontend has one at most.
const forward = model.ForwardTunnel | model.ForwardDSR

func forwardingToProto(flags model.FrontendFlags) schemas.Forwarding {
	switch flags & forward {
	case model.ForwardTunnel:
		return schemas.Forwarding_FORWARDING_TUNNEL
	case model.ForwardDSR:
		return schemas.Forwarding_FORWARDING_DSR
	}
	return schemas.Forwarding_FORWARDING_UNSPECIFIED
}

func forwardingFromProto(f schemas.Forwarding) (model.FrontendFlags, error) {
	switch f {
	case schemas.Forwarding_FORWARDING_UNSPECIFIED:
		return 0, nil
	case schemas.Forwarding_FORWARDING_TUNNEL:
		return model.ForwardTunnel, nil
	case schemas.Forwarding_FORWARDING_DSR:
		return model.ForwardDSR, nil
	}
	return 0, fmt.Errorf("forwarding %d is unknown here", f)
}

// enum narrows a message's enum to a model's, which has 8 bits; what fits still has to be a value that is known.
func enum[T ~uint8, E ~int32](what string, e E) (T, error) {
	if e < 0 || e > 255 {
		return 0, fmt.Errorf("%s %d is unknown here", what, e)
	}
	return T(e), nil
}

func flag[F model.FrontendFlags | model.SetFlags](set bool, f F) F {
	if set {
		return f
	}
	return 0
}
