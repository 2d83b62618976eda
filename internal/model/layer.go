// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"
	"time"
)

// Layer is one audience: every node, or one node. Layers own disjoint keys, so that they apply independently
// and in any order.
type Layer struct {
	Kind LayerKind
	Name string // the node's name if Kind is LayerNode, else empty
}

// LayerKind says what kind of audience a Layer is.
type LayerKind uint8

// The kinds of layers. Number 2 is kept for zones.
const (
	LayerCluster LayerKind = 1
	LayerNode    LayerKind = 3
)

// ClusterLayer is the layer that is the same on every node.
var ClusterLayer = Layer{Kind: LayerCluster}

// NodeLayer returns the layer of one node.
func NodeLayer(node string) Layer { return Layer{Kind: LayerNode, Name: node} }

// String returns "cluster" or "node.NAME".
func (l Layer) String() string {
	if l.Kind == LayerNode {
		return "node." + l.Name
	}
	return "cluster"
}

// ParseLayer reads what String writes.
func ParseLayer(s string) (Layer, error) {
	if s == "cluster" {
		return ClusterLayer, nil
	}
	if name, ok := strings.CutPrefix(s, "node."); ok && name != "" {
		return NodeLayer(name), nil
	}
	return Layer{}, fmt.Errorf("layer %q: want cluster or node.NAME", s)
}

// Epoch counts compilers that have led. A higher epoch outranks a lower one.
type Epoch uint64

// epochsAhead is by how much an epoch may be above the seconds since 1970 to be believed.
const epochsAhead = 1 << 30

// Believable says whether there can have been so many leaders by now: each leads for a second at least. What says an epoch
// isn't sealed, so one message that lies must not lead to where numbers end; and one that lies as far as it is believed
// leaves as many epochs as there are seconds to come.
func (e Epoch) Believable(now time.Time) bool {
	return uint64(e) <= uint64(max(0, now.Unix()))+epochsAhead
}

// Revision counts the compiler's commits. It grows over epochs and is the same number in all layers that one
// commit touches.
type Revision uint64

// Position is how far a layer has come: at Revision its rows had Digest.
type Position struct {
	Epoch    Epoch
	Revision Revision
	Digest   Digest
}

// Cause is one object's change that led to a delta.
type Cause struct {
	Kind            string // Kubernetes kind, such as "EndpointSlice"
	Namespace       string
	Name            string
	UID             string
	ResourceVersion string
	Manager         string    // the field manager of the newest change, if known
	Trigger         time.Time // when the change came about; see EndpointsLastChangeTriggerTime
	Deleted         bool
}

// String returns "Kind namespace/name", or "Kind name" for what has no namespace.
func (c Cause) String() string {
	if c.Namespace == "" {
		return c.Kind + " " + c.Name
	}
	return c.Kind + " " + c.Namespace + "/" + c.Name
}

// Delta takes one layer from revision From to revision To.
type Delta struct {
	Epoch         Epoch
	Layer         Layer
	From, To      Revision
	Change        Change
	DigestAfter   Digest
	Causes        []Cause // oldest first, at most MaxCauses
	CausesLeftOut uint32
	Committed     time.Time
	// StateSequence is the newest message of STATE that was taken into account.
	StateSequence uint64
	// UnchangedAt are messages of STATE up to which was compiled since the revision before without changing a row.
	UnchangedAt []uint64
}

// MaxCauses bounds the causes that one Delta names.
const MaxCauses = 64

// Snapshot is all rows of one layer at one position.
type Snapshot struct {
	Layer    Layer
	Position Position
	Rows     Rows
}
