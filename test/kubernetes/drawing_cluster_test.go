// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// A part of an object as JSON has it.
type (
	fields = map[string]any
	list   = []any
)

// clusterPolicy draws a ClusterNetworkPolicy. The API server checks nothing of it, so now and then it is one that nobody
// understands.
func (d Drawing) clusterPolicy(name string) *unstructured.Unstructured {
	spec := fields{"tier": oneOf(d, "Admin", "Baseline"), "priority": int64(d.IntN(3)), "subject": d.subject()}
	for direction, peers := range map[string]string{"ingress": "from", "egress": "to"} {
		var rules list
		for range d.IntN(4) {
			rules = append(rules, d.clusterRule(direction, peers))
		}
		if rules != nil {
			spec[direction] = rules
		}
	}
	if d.IntN(30) == 0 {
		spec["unless"] = "it rains"
	}
	return &unstructured.Unstructured{Object: fields{
		"apiVersion": clusterPolicy.GroupVersion().String(), "kind": "ClusterNetworkPolicy", "metadata": fields{"name": name}, "spec": spec,
	}}
}

func (d Drawing) clusterRule(direction, peers string) fields {
	rule := fields{"action": oneOf[any](d, "Accept", "Deny", "Pass"), peers: list{d.clusterPeer(direction)}}
	if d.often(4) {
		rule[peers] = append(rule[peers].(list), d.clusterPeer(direction))
	}
	if d.often(3) {
		rule["name"] = oneOf[any](d, "first", "second")
	}
	var protocols list
	for d.often(4) {
		protocols = append(protocols, d.clusterPort())
	}
	if protocols != nil {
		rule["protocols"] = protocols
	}
	return rule
}

func (d Drawing) clusterPeer(direction string) fields {
	if direction == "ingress" {
		return d.subject()
	}
	switch d.IntN(8) {
	case 0, 1:
		return fields{"nodes": jsonOf(d.selector())}
	case 2, 3, 4:
		return fields{"networks": list{oneOf[any](d, anyOf(blocks)...), oneOf[any](d, anyOf(blocks)...)}}
	case 5:
		if d.often(3) {
			return fields{"domainNames": list{"example.com"}}
		}
	}
	return d.subject()
}

func (d Drawing) subject() fields {
	if d.often(5) {
		return fields{"namespaces": jsonOf(d.namespaces())}
	}
	return fields{"pods": fields{"namespaceSelector": jsonOf(d.namespaces()), "podSelector": jsonOf(d.selector())}}
}

func (d Drawing) clusterPort() fields {
	if d.often(3) {
		return fields{"destinationNamedPort": oneOf[any](d, "http", "dns", "none")}
	}
	port := fields{"number": oneOf[any](d, int64(53), int64(80), int64(8080))}
	if d.often(3) {
		port = fields{"range": fields{"start": oneOf[any](d, int64(1), int64(53), int64(80)), "end": oneOf[any](d, int64(81), int64(443), int64(65535))}}
	}
	return fields{oneOf(d, "tcp", "udp", "sctp"): fields{"destinationPort": port}}
}

func anyOf(texts []string) (all []any) {
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

func jsonOf(s *metav1.LabelSelector) fields {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s)
	if err != nil {
		panic(err) // a selector is always JSON
	}
	return object
}
