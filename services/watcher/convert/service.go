// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// labelProxyName names another proxy that handles a Service (k8s.io/kubernetes pkg/proxy/apis, LabelServiceProxyName).
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// The annotations that are deltaplane's own.
const (
	// AnnotationForwarding of a Service says how clients from outside get to a backend on another node than the one
	// they reach: tunnel, dsr or snat.
	AnnotationForwarding = "deltaplane.io/forwarding"
	// AnnotationWeight of an EndpointSlice is the share of clients from outside that its endpoints get, 1 to 100.
	AnnotationWeight = "deltaplane.io/weight"
)

// longestAnnotation is as much of one as is told, in bytes: more than any that means something, enough to be
// recognized.
const longestAnnotation = 64

// annotation returns an annotation as it is: the compiler names one that it can't read, and does without.
func annotation(all map[string]string, key string) string {
	text := strings.ToValidUTF8(all[key], "\uFFFD")
	return strings.ToValidUTF8(text[:min(len(text), longestAnnotation)], "")
}

// service converts a Service. A headless one and one of type ExternalName have nothing that a proxy serves
// (k8s.io/kubernetes pkg/proxy/util, ShouldSkipService).
func service(s *corev1.Service) (*schemas.Service, error) {
	out := &schemas.Service{
		PublishNotReadyAddresses: s.Spec.PublishNotReadyAddresses,
		ProxyName:                s.Labels[labelProxyName],
		Type:                     string(s.Spec.Type),
		Forwarding:               annotation(s.Annotations, AnnotationForwarding),
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
	case "":
		out.Type = string(corev1.ServiceTypeClusterIP)
	default:
		return nil, fmt.Errorf("spec.type: %q is not ClusterIP, NodePort, LoadBalancer or ExternalName", s.Spec.Type)
	}
	if !s.CreationTimestamp.IsZero() {
		out.Created = timestamppb.New(s.CreationTimestamp.Time)
	}
	var err error
	if out.ClusterIps, err = clusterIPs(s); err != nil {
		return nil, err
	}
	if out.Ports, err = servicePorts(s.Spec.Ports); err != nil || len(out.ClusterIps) == 0 {
		return out, err
	}
	return out, expose(s, out)
}

// leftAlone says whether labels keep every proxy from a Service: kube-proxy neither lists one that has the label of a
// headless Service, nor one that names another proxy, be the name empty.
func leftAlone(labels map[string]string) bool {
	_, headless := labels[corev1.IsHeadlessService]
	name, named := labels[labelProxyName]
	return headless || named && name == ""
}

// clusterIPs returns at most one address of each family; none for a headless Service and for ExternalName.
func clusterIPs(s *corev1.Service) ([][]byte, error) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || leftAlone(s.Labels) {
		return nil, nil
	}
	field, texts := "spec.clusterIPs", s.Spec.ClusterIPs
	if len(texts) == 0 && s.Spec.ClusterIP != "" {
		field, texts = "spec.clusterIP", []string{s.Spec.ClusterIP}
	}
	if len(texts) == 1 && texts[0] == corev1.ClusterIPNone {
		return nil, nil
	}
	var out [][]byte
	seen := map[model.Family]bool{}
	for i, text := range texts {
		addr, err := unicast(text)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		family := model.FamilyOf(addr)
		if seen[family] {
			return nil, fmt.Errorf("%s[%d]: %s is a second IPv%d address; a Service has one of each family", field, i, addr, family)
		}
		seen[family] = true
		out = append(out, addr.AsSlice())
	}
	return out, nil
}

func servicePorts(ports []corev1.ServicePort) ([]*schemas.ServicePort, error) {
	type key struct {
		protocol schemas.Protocol
		port     uint32
	}
	names, keys := map[string]bool{}, map[key]bool{}
	var out []*schemas.ServicePort
	for i, p := range ports {
		field := fmt.Sprintf("spec.ports[%d]", i)
		protocol, err := protocolOf(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("%s.protocol: %w", field, err)
		}
		port, err := portOf(p.Port)
		if err != nil {
			return nil, fmt.Errorf("%s.port: %w", field, err)
		}
		if names[p.Name] {
			return nil, fmt.Errorf("%s.name: %q is taken by an earlier port; with more than one port each needs a name of its own", field, p.Name)
		}
		if keys[key{protocol, port}] {
			return nil, fmt.Errorf("%s.port: %d is taken by an earlier port of the same protocol", field, port)
		}
		names[p.Name], keys[key{protocol, port}] = true, true
		out = append(out, &schemas.ServicePort{Name: p.Name, Protocol: protocol, Port: port})
	}
	return out, nil
}
