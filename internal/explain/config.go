// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Config is what a configuration file may say about a cluster. All keys are checked; those of kinds of Services that
// this version doesn't translate have no effect yet, as their comments say.
type Config struct {
	// PodCIDRs are the pods' prefixes. No effect yet: pods and nodes name their own.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// ServiceCIDRs are the Services' prefixes. Services without an address get one out of these.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	// NodePortAddresses are the node addresses that NodePorts are served on; default all of the node's. No effect yet.
	NodePortAddresses []netip.Prefix `json:"nodePortAddresses"`
	// MasqueradeAll gives every translated connection the node's address as its source. No effect yet.
	MasqueradeAll bool `json:"masqueradeAll"`
	// LocalhostNodePorts serves NodePorts on 127.0.0.1 too; default true. No effect yet.
	LocalhostNodePorts *bool `json:"localhostNodePorts"`
	// AllowExternalIPs are the prefixes that a Service's externalIPs may be in; default none. No effect yet.
	AllowExternalIPs []netip.Prefix `json:"allowExternalIPs"`
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
		return Config{}, fmt.Errorf("%w; the keys are podCIDRs, serviceCIDRs, nodePortAddresses, masqueradeAll, localhostNodePorts, allowExternalIPs", err)
	}
	for key, list := range map[string][]netip.Prefix{
		"podCIDRs": c.PodCIDRs, "serviceCIDRs": c.ServiceCIDRs,
		"nodePortAddresses": c.NodePortAddresses, "allowExternalIPs": c.AllowExternalIPs,
	} {
		for _, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() {
				return Config{}, fmt.Errorf("%s: %q is no CIDR", key, p)
			}
		}
	}
	return c, nil
}

// NotYet lists the keys that c sets and that have no effect in this version.
func (c Config) NotYet() []string {
	var keys []string
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"podCIDRs", len(c.PodCIDRs) > 0},
		{"nodePortAddresses", len(c.NodePortAddresses) > 0},
		{"masqueradeAll", c.MasqueradeAll},
		{"localhostNodePorts", c.LocalhostNodePorts != nil},
		{"allowExternalIPs", len(c.AllowExternalIPs) > 0},
	} {
		if k.set {
			keys = append(keys, k.name)
		}
	}
	return keys
}
