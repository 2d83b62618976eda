// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// maxPolicyBytes bounds the fact of a policy: the bus carries one message, which has a stamp besides.
	maxPolicyBytes = schemas.MaxMessageBytes - 4<<10
	// maxReason bounds what is said of a refused policy, in bytes.
	maxReason = 512
)

// Closed returns the fact that closes the pods that a NetworkPolicy selects which could be read only in part.
func Closed(rest *networkingv1.NetworkPolicy, why error) *schemas.Fact {
	fact, err := Fact(rest)
	if err != nil {
		return nil // It has no name.
	}
	p := fact.GetNetworkPolicy()
	p.IsolatesIngress, p.IsolatesEgress = true, true // what it says of that may be what can't be read
	refuseNetworkPolicy(p, why)
	return fact
}

// refuseNetworkPolicy takes the rules out of a policy that breaks one, and says why.
func refuseNetworkPolicy(p *schemas.NetworkPolicy, why error) {
	if why != nil {
		p.Refused, p.Ingress, p.Egress = reason(why), nil, nil
	}
}

// refuseClusterNetworkPolicy does the same; what is left of rules is that there were some in a direction.
func refuseClusterNetworkPolicy(p *schemas.ClusterNetworkPolicy, why error, ingress, egress bool) {
	if why == nil {
		return
	}
	p.Refused, p.Ingress, p.Egress = reason(why), nil, nil
	if ingress {
		p.Ingress = []*schemas.PolicyRule{{}}
	}
	if egress {
		p.Egress = []*schemas.PolicyRule{{}}
	}
}

// fitPolicy refuses a policy whose fact is too large for the bus: first it loses its rules, and if that isn't enough
// whom it selects, so that it closes all that it could have selected.
func fitPolicy(fact *schemas.Fact) {
	size := proto.Size(fact)
	if size <= maxPolicyBytes {
		return
	}
	why := fmt.Errorf("what a data plane needs of it is %d bytes, more than the %d that it may take; make several policies of it", size, maxPolicyBytes)
	switch state := fact.GetState().(type) {
	case *schemas.Fact_NetworkPolicy:
		p := state.NetworkPolicy
		refuseNetworkPolicy(p, why)
		if proto.Size(fact) > maxPolicyBytes {
			p.Pods = nil
		}
	case *schemas.Fact_ClusterNetworkPolicy:
		p := state.ClusterNetworkPolicy
		refuseClusterNetworkPolicy(p, why, len(p.GetIngress()) > 0, len(p.GetEgress()) > 0)
		if proto.Size(fact) > maxPolicyBytes {
			p.Subject = nil
		}
	}
}

func reason(why error) string {
	text := strings.ToValidUTF8(why.Error(), "\uFFFD")
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason-len("…")], "") + "…"
}

// first returns the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
