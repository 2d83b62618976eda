// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	gojson "encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Config is what a configuration file may say about a cluster.
type Config struct {
	// PodCIDRs are the pods' prefixes: who sends from there is inside the cluster. Default those of Node objects.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// ServiceCIDRs are the Services' prefixes: what no Service has there is dropped, and Services without an address
	// get one out of these. Default what ServiceCIDR objects say.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	// NodePortAddresses are the node addresses that NodePorts are served on; default all of the node's.
	NodePortAddresses []netip.Prefix `json:"nodePortAddresses"`
	// MasqueradeAll gives every translated connection that leaves a node the node's address as its source.
	MasqueradeAll bool `json:"masqueradeAll"`
	// LocalhostNodePorts serves NodePorts to the node's own processes on 127.0.0.1 and ::1 too; default true.
	LocalhostNodePorts *bool `json:"localhostNodePorts"`
	// AllowExternalIPs are the prefixes that a Service's externalIPs may be in; default none.
	AllowExternalIPs []netip.Prefix `json:"allowExternalIPs"`
	// Forwarding is how clients from outside get to backends on other nodes: tunnel, dsr or snat; default tunnel.
	Forwarding state.Forwarding `json:"forwarding"`
}

// LoadConfig reads a configuration file. Unknown keys and malformed values are errors.
func LoadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := ParseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads a configuration.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	if len(bytes.TrimSpace(text)) == 0 {
		return c, nil
	}
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return c, fmt.Errorf("this is no YAML: %w", err)
	}
	// Kubernetes' decoder, since encoding/json takes keys in any case.
	strict, err := json.UnmarshalStrict(asJSON, &c)
	if err = errors.Join(append(strict, err)...); err != nil {
		err = readable(err)
		return Config{}, fmt.Errorf("%w; the keys are podCIDRs, serviceCIDRs, nodePortAddresses, masqueradeAll, localhostNodePorts, allowExternalIPs, forwarding", err)
	}
	for key, list := range map[string][]netip.Prefix{
		"podCIDRs": c.PodCIDRs, "serviceCIDRs": c.ServiceCIDRs,
		"nodePortAddresses": c.NodePortAddresses, "allowExternalIPs": c.AllowExternalIPs,
	} {
		for i, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() {
				return Config{}, fmt.Errorf("%s: %q is no CIDR", key, p)
			}
			list[i] = p.Masked()
		}
	}
	for _, p := range slices.Concat(c.PodCIDRs, c.ServiceCIDRs) {
		if err := state.CheckNetwork(p); err != nil {
			return Config{}, fmt.Errorf("podCIDRs and serviceCIDRs: %w", err)
		}
	}
	return c, nil
}

// readable says what a value should have been where the decoder names Go's types.
func readable(err error) error {
	var typed *gojson.UnmarshalTypeError
	switch _, text, is := strings.Cut(err.Error(), "netip.ParsePrefix("); {
	case is:
		given, _, _ := strings.Cut(text, ")")
		return fmt.Errorf("%s is no CIDR such as 10.0.0.0/16", given)
	case !errors.As(err, &typed):
		return err
	case typed.Field == "":
		return fmt.Errorf("want keys with values, not a value of type %s", typed.Value)
	case typed.Type.Kind() == reflect.Bool:
		return fmt.Errorf("%s: want true or false, not a value of type %s", typed.Field, typed.Value)
	}
	return fmt.Errorf("%s: want a list of CIDRs such as [10.0.0.0/16], not a value of type %s", typed.Field, typed.Value)
}

// loopback are the addresses by which a node's own processes mean the node.
var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// surroundings returns those of a node with these addresses: what the programmer would find out there. All
// addresses are taken for those of one interface, the only way out.
func (c Config) surroundings(addresses []netip.Addr) refmodel.Surroundings {
	own := firstOfEachFamily(addresses)
	s := refmodel.Surroundings{
		Locals: map[netip.Addr]refmodel.LocalFlags{}, Uplinks: map[int][]netip.Addr{refmodel.UplinkAny: own, uplink: own},
		MasqueradeAll: c.MasqueradeAll,
	}
	for _, a := range addresses {
		s.Locals[a] = c.nodePorts(a)
	}
	for _, a := range loopback {
		s.Locals[a] = refmodel.LocalLoopback
		if c.LocalhostNodePorts == nil || *c.LocalhostNodePorts {
			s.Locals[a] |= c.nodePorts(a)
		}
	}
	return s
}

func (c Config) nodePorts(a netip.Addr) refmodel.LocalFlags {
	if len(c.NodePortAddresses) > 0 && !slices.ContainsFunc(c.NodePortAddresses, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return 0
	}
	return refmodel.LocalNodePort
}

// uplink is the index of the one interface that a node is taken to have: that of the loopback, which is in every
// namespace, so that the kernel engine can send packets by it.
const uplink = 1

func firstOfEachFamily(all []netip.Addr) (first []netip.Addr) {
	for _, a := range all {
		if !slices.ContainsFunc(first, func(b netip.Addr) bool { return b.Is4() == a.Is4() }) {
			first = append(first, a)
		}
	}
	return first
}
