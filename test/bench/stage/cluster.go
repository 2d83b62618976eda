// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// Cluster is a made-up cluster of equal Services, each with one EndpointSlice, and nodes with one pod each.
type Cluster struct {
	endpoints int
	nodes     int
	version   []int // of each Service's slice: how often it has changed
}

// NewCluster returns a cluster of so many services, with so many endpoints each, and nodes called NodeName.
func NewCluster(services, endpoints, nodes int) *Cluster {
	return &Cluster{endpoints: endpoints, nodes: nodes, version: make([]int, services)}
}

// NodeName returns the name of a node.
func NodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// service returns the Fact of Service i: one TCP port at an address in 10.96.0.0/11.
func (c *Cluster) service(i int) *schemas.Fact {
	return fact("Service", serviceName(i), 0, &schemas.Fact_Service{Service: &schemas.Service{
		ClusterIps: [][]byte{address(10<<24 | 96<<16 + uint32(i) + 1)},
		Ports:      []*schemas.ServicePort{{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80}},
		Type:       "ClusterIP",
		Created:    timestamppb.New(time.Unix(1_700_000_000, 0)),
	}})
}

// slice returns the Fact of Service i's slice. With each change one endpoint gives way to a new one.
func (c *Cluster) slice(i int) *schemas.Fact {
	endpoints := make([]*schemas.SliceEndpoint, c.endpoints)
	first := uint32(i * 2 * c.endpoints)
	for k := range endpoints {
		host := first + uint32(k)
		if k < c.version[i]%(c.endpoints+1) {
			host += uint32(c.endpoints)
		}
		endpoints[k] = &schemas.SliceEndpoint{Address: address(11<<24 + host), Ready: true, Serving: true, Node: "elsewhere"}
	}
	return fact("EndpointSlice", serviceName(i)+"-1", c.version[i], &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{
		Service: serviceName(i), Family: schemas.IPFamily_IP_FAMILY_IPV4,
		Ports:     []*schemas.EndpointPort{{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}},
		Endpoints: endpoints,
	}})
}

// Change gives one endpoint of Service i for another and returns the new Fact.
func (c *Cluster) Change(i int) *schemas.Fact {
	c.version[i]++
	return c.slice(i)
}

// All returns the Facts of the whole cluster, the Complete one last.
func (c *Cluster) All() []*schemas.Fact {
	var facts []*schemas.Fact
	for i := range c.version {
		facts = append(facts, c.service(i), c.slice(i))
	}
	for i := range c.nodes {
		facts = append(facts, c.node(i), c.pod(i))
	}
	return append(facts, fact("Complete", "bench", 0, &schemas.Fact_Complete{
		Complete: &schemas.Complete{Source: "bench", Objects: uint64(len(facts))},
	}))
}

// node returns the Fact of node i.
func (c *Cluster) node(i int) *schemas.Fact {
	return fact("Node", NodeName(i), 0, &schemas.Fact_Node{Node: &schemas.Node{Addresses: [][]byte{address(192<<24 | 168<<16 + uint32(i) + 1)}}})
}

// pod returns the Fact of the pod on node i.
func (c *Cluster) pod(i int) *schemas.Fact {
	return fact("Pod", "pod-"+NodeName(i), 0, &schemas.Fact_Pod{Pod: &schemas.Pod{Node: NodeName(i), Addresses: [][]byte{address(12<<24 + uint32(i) + 1)}}})
}

// fact wraps a state; its trigger is now.
func fact[S any](kind, name string, version int, state S) *schemas.Fact {
	namespace := "bench"
	if kind == "Complete" || kind == "Node" {
		namespace = ""
	}
	f := &schemas.Fact{
		Object: &schemas.ObjectRef{
			Kind: kind, Namespace: namespace, Name: name,
			Uid: "00000000-0000-4000-8000-" + fmt.Sprintf("%012d", len(name)), ResourceVersion: fmt.Sprint(version + 1),
		},
		TriggerTime: timestamppb.Now(),
		Manager:     "bench",
	}
	switch state := any(state).(type) {
	case *schemas.Fact_Service:
		f.State = state
	case *schemas.Fact_EndpointSlice:
		f.State = state
	case *schemas.Fact_Complete:
		f.State = state
	case *schemas.Fact_Node:
		f.State = state
	case *schemas.Fact_Pod:
		f.State = state
	}
	return f
}

// Record is a Fact as STATE keeps it.
func Record(f *schemas.Fact) (bus.Record, error) {
	data, err := proto.Marshal(f)
	return bus.Record{Subject: schemas.StateSubject(f.GetObject().GetKind(), f.GetObject().GetNamespace(), f.GetObject().GetName()), Data: data}, err
}

func address(a uint32) []byte { return binary.BigEndian.AppendUint32(nil, a) }
