// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
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

// dropKey is what makes two drops the same to people. Of policy it is also who sends, since that is what it judges.
type dropKey struct {
	reason      uint8
	protocol    uint8
	destination netip.AddrPort
	source      netip.Addr
}

func dropKeyOf(e *abi.DropEvent) dropKey {
	key := dropKey{
		reason: e.Reason, protocol: e.Protocol,
		destination: netip.AddrPortFrom(abi.Addr(e.Destination), abi.HostPort(e.DestinationPort)),
	}
	if e.Direction != 0 {
		key.source = abi.Addr(e.Source)
	}
	return key
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
		now := time.Now()
		v.recent.add(&e, now)
		if !limit.allow(dropKeyOf(&e), now) {
			return
		}
		var drop *schemas.Drop
		if v.within(ctx, func() { drop = v.names().drop(&e) }) == nil {
			v.link.say(dropEvent(drop, model.DropReason(e.Reason)))
		}
	})
	if err != nil && ctx.Err() == nil {
		// Drops are counted all the same, and forwarding doesn't depend on them.
		v.log.Error("drop events end here", "error", err)
		<-ctx.Done()
	}
	return nil
}

// drop says what a drop was.
func (n names) drop(e *abi.DropEvent) *schemas.Drop {
	source, destination := abi.Addr(e.Source), abi.Addr(e.Destination)
	return &schemas.Drop{
		Reason: model.DropReason(e.Reason).String(), Via: viaOf(e),
		Protocol: protocolToProto(model.Protocol(e.Protocol)), IpProtocol: uint32(e.Protocol),
		Source: source.AsSlice(), SourcePort: uint32(abi.HostPort(e.SourcePort)), SourcePod: n.pod(source),
		Destination: destination.AsSlice(), DestinationPort: uint32(abi.HostPort(e.DestinationPort)), DestinationPod: n.pod(destination),
		Service:   n.service(model.SetID(e.Set)),
		Direction: schemas.Direction(e.Direction), RuleSet: e.RuleSet,
		Policies: n.policies(model.RuleSetID(e.RuleSet)), Rule: n.rule(model.RuleID(e.Rule)),
		Revision: uint64(n.revision),
	}
}

func viaOf(e *abi.DropEvent) string {
	if e.Via == 1 {
		return "socket"
	}
	return "packet"
}

func dropEvent(d *schemas.Drop, reason model.DropReason) *schemas.Event {
	return &schemas.Event{Severity: schemas.Severity_SEVERITY_WARNING, Kind: "drop", Text: dropText(d, reason), Drop: d}
}

func dropText(d *schemas.Drop, reason model.DropReason) string {
	meaning := ""
	for _, r := range model.DropReasons {
		if r.Reason == reason {
			meaning = r.Text
		}
	}
	to, _ := netip.AddrFromSlice(d.GetDestination())
	whose := cmp.Or(d.GetService(), "no Service")
	if d.GetDirection() != schemas.Direction_DIRECTION_UNSPECIFIED {
		from, _ := netip.AddrFromSlice(d.GetSource())
		whose = fmt.Sprintf("%s, from %s", cmp.Or(d.GetDestinationPod(), "no pod of this node"), cmp.Or(d.GetSourcePod(), from.String()))
		meaning += policyText(d)
	}
	return fmt.Sprintf("%s to %s (%s), seen at the %s: %s", model.Protocol(d.GetIpProtocol()),
		netip.AddrPortFrom(to, uint16(d.GetDestinationPort())), whose, d.GetVia(), meaning)
}

// policyText names what decided: the rule, else the policies none of whose rules allows it.
func policyText(d *schemas.Drop) string {
	switch {
	case d.GetRule() != "":
		return ": " + d.GetRule()
	case d.GetPolicies() != "":
		return ": " + d.GetPolicies()
	}
	return ""
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
