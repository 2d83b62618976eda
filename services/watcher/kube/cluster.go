// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/schemas"
)

// The ConfigMaps that clusters describe themselves in, as "namespace/name".
const (
	kubeadmConfig = "kube-system/kubeadm-config"
	kubeProxy     = "kube-system/kube-proxy"
	clusterInfo   = "kube-public/cluster-info"
)

// maxNodeCIDRs bounds the prefixes that are told where only the Nodes tell them.
const maxNodeCIDRs = 1024

// cluster puts together what was found, each value with where it was found first.
func (e *evidence) cluster() *schemas.Cluster {
	var pods, services, servers findings
	kubeadm := e.kubeadm()
	pods.add("ConfigMap "+kubeadmConfig+", networking.podSubnet", split(kubeadm.Networking.PodSubnet)...)
	pods.add("ConfigMap "+kubeProxy+", clusterCIDR", split(e.kubeProxy().ClusterCIDR)...)
	pods.addNodes(e.nodes)
	for _, name := range slices.Sorted(maps.Keys(e.serviceCIDRs)) {
		services.add("ServiceCIDR "+name+", spec.cidrs", e.serviceCIDRs[name]...)
	}
	services.add("ConfigMap "+kubeadmConfig+", networking.serviceSubnet", split(kubeadm.Networking.ServiceSubnet)...)
	for _, server := range e.servers {
		servers.put(server.String(), "EndpointSlice default/kubernetes")
	}
	servers.put(kubeadm.ControlPlaneEndpoint, "ConfigMap "+kubeadmConfig+", controlPlaneEndpoint")
	servers.put(serverOf(e.configMaps[kubeProxy]["kubeconfig.conf"]), "ConfigMap "+kubeProxy+", kubeconfig.conf, server")
	servers.put(serverOf(e.configMaps[clusterInfo]["kubeconfig"]), "ConfigMap "+clusterInfo+", server")
	return &schemas.Cluster{PodCidrs: pods, ServiceCidrs: services, ApiServers: servers}
}

// findings are values, each once, in the order in which they were found.
type findings []*schemas.Found

func (f *findings) put(value, origin string) {
	if value != "" && !slices.ContainsFunc(*f, func(have *schemas.Found) bool { return have.GetValue() == value }) {
		*f = append(*f, &schemas.Found{Value: value, Origin: origin})
	}
}

// add puts prefixes; what is none is left out.
func (f *findings) add(origin string, texts ...string) {
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			f.put(prefix.Masked().String(), origin)
		}
	}
}

// addNodes puts the Nodes' prefixes that no prefix found before holds, neighbours put together.
func (f *findings) addNodes(nodes map[string][]string) {
	var known, more []netip.Prefix
	for _, found := range *f {
		known = append(known, netip.MustParsePrefix(found.GetValue()))
	}
	for _, texts := range nodes {
		for _, text := range texts {
			prefix, err := netip.ParsePrefix(text)
			if err == nil && !slices.ContainsFunc(known, func(k netip.Prefix) bool { return holds(k, prefix) }) {
				more = append(more, prefix)
			}
		}
	}
	more = merge(more)
	for _, prefix := range more[:min(len(more), maxNodeCIDRs)] {
		f.put(prefix.String(), "Nodes, spec.podCIDRs")
	}
}

func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// merge orders prefixes, drops those that another holds, and puts two halves of one prefix together, again and again.
func merge(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range prefixes {
		if len(out) > 0 && holds(out[len(out)-1], p) {
			continue
		}
		out = append(out, p)
		for len(out) > 1 {
			a, b := out[len(out)-2], out[len(out)-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 {
				break
			}
			parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if parent.Addr() != a.Addr() || !parent.Contains(b.Addr()) {
				break
			}
			out = append(out[:len(out)-2], parent)
		}
	}
	return out
}

// kubeadmSettings is the part of kubeadm's ClusterConfiguration that matters here.
type kubeadmSettings struct {
	ControlPlaneEndpoint string `json:"controlPlaneEndpoint"`
	Networking           struct {
		PodSubnet     string `json:"podSubnet"`
		ServiceSubnet string `json:"serviceSubnet"`
	} `json:"networking"`
}

func (e *evidence) kubeadm() (out kubeadmSettings) {
	read(e.configMaps[kubeadmConfig]["ClusterConfiguration"], &out)
	return out
}

// kubeProxySettings is the part of kube-proxy's configuration that matters here.
type kubeProxySettings struct {
	ClusterCIDR string `json:"clusterCIDR"`
}

func (e *evidence) kubeProxy() (out kubeProxySettings) {
	read(e.configMaps[kubeProxy]["config.conf"], &out)
	return out
}

// serverOf returns the host and port of the API server in a kubeconfig.
func serverOf(text string) string {
	var kubeconfig struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	read(text, &kubeconfig)
	if len(kubeconfig.Clusters) == 0 {
		return ""
	}
	u, err := url.Parse(kubeconfig.Clusters[0].Cluster.Server)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
}

// read reads YAML of someone else's making: unknown fields are theirs, and what is no YAML says nothing.
func read[T any](text string, into *T) {
	var out T
	if yaml.Unmarshal([]byte(text), &out) == nil {
		*into = out
	}
}

// split splits the lists that dual-stack clusters have.
func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// serversOf returns the API servers that a slice of the Service "kubernetes" names, in order.
func serversOf(slice *schemas.EndpointSlice) (servers []netip.AddrPort) {
	for _, port := range slice.GetPorts() {
		for _, endpoint := range slice.GetEndpoints() {
			addr, ok := netip.AddrFromSlice(endpoint.GetAddress())
			if ok && endpoint.GetReady() && port.GetPort() != 0 {
				servers = append(servers, netip.AddrPortFrom(addr, uint16(port.GetPort())))
			}
		}
	}
	slices.SortFunc(servers, netip.AddrPort.Compare)
	return servers
}
