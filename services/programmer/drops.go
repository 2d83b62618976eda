// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// dropsPerSecond bounds drop events; the counters miss none.
	dropsPerSecond = 10
	// dropAgain is how long the same destination is not told of again for the same reason.
	dropAgain = 5 * time.Second
	// dropsKept bounds what is remembered for that.
	dropsKept = 4096
)

// dropKey is what makes two drops the same to people.
type dropKey struct {
	reason      uint8
	protocol    uint8
	destination netip.AddrPort
}

// dropLimit says which drops are told of.
type dropLimit struct {
	told   map[dropKey]time.Time
	second time.Time
	left   int
}

func (d *dropLimit) allow(key dropKey, now time.Time) bool {
	if now.Sub(d.second) >= time.Second {
		d.second, d.left = now, dropsPerSecond
	}
	if d.left == 0 || now.Sub(d.told[key]) < dropAgain {
		return false
	}
	if d.told == nil || len(d.told) >= dropsKept {
		d.told = map[dropKey]time.Time{}
	}
	d.told[key] = now
	d.left--
	return true
}

// watchDrops tells of packets and connects that went no further.
func (v *service) watchDrops(ctx context.Context) error {
	var limit dropLimit
	err := v.plane.drops(ctx, func(e abi.DropEvent) {
		to := netip.AddrPortFrom(abi.Addr(e.Destination), abi.HostPort(e.DestinationPort))
		if !limit.allow(dropKey{e.Reason, e.Protocol, to}, time.Now()) {
			return
		}
		service := ""
		if v.within(ctx, func() { service = v.serviceOf(model.SetID(e.Set)) }) != nil {
			return
		}
		v.link.say(dropEvent(e, to, service))
	})
	if err != nil && ctx.Err() == nil {
		// Drops are counted all the same, and forwarding doesn't depend on them.
		v.log.Error("drop events end here", "error", err)
		<-ctx.Done()
	}
	return nil
}

// serviceOf names the Service of a set, if there is one. Only the loop may call it.
func (v *service) serviceOf(id model.SetID) string {
	if state := v.driver.Core.State(); state != nil {
		if port, held := state.Service(id); held {
			return port.String()
		}
	}
	return ""
}

func dropEvent(e abi.DropEvent, to netip.AddrPort, service string) *schemas.Event {
	from := netip.AddrPortFrom(abi.Addr(e.Source), abi.HostPort(e.SourcePort))
	via := "packet"
	if e.Via == 1 {
		via = "socket"
	}
	reason, meaning := model.DropReason(e.Reason), ""
	for _, r := range model.DropReasons {
		if r.Reason == reason {
			meaning = r.Text
		}
	}
	name := service
	if name == "" {
		name = "no Service"
	}
	return &schemas.Event{
		Severity: schemas.Severity_SEVERITY_WARNING, Kind: "drop",
		Text: fmt.Sprintf("%s to %s (%s), seen at the %s: %s", model.Protocol(e.Protocol), to, name, via, meaning),
		Drop: &schemas.Drop{
			Reason: reason.String(), Protocol: protocolToProto(model.Protocol(e.Protocol)), Service: service, Via: via,
			Source: from.Addr().AsSlice(), SourcePort: uint32(from.Port()),
			Destination: to.Addr().AsSlice(), DestinationPort: uint32(to.Port()),
		},
	}
}

func protocolToProto(p model.Protocol) schemas.Protocol {
	switch p {
	case model.TCP:
		return schemas.Protocol_PROTOCOL_TCP
	case model.UDP:
		return schemas.Protocol_PROTOCOL_UDP
	case model.SCTP:
		return schemas.Protocol_PROTOCOL_SCTP
	}
	return schemas.Protocol_PROTOCOL_UNSPECIFIED
}
