// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/walk"
)

// layer is the rows of one layer and how far they have come.
type layer struct {
	rows    *model.Tables
	at      model.Position
	changed time.Time // when its newest delta was committed
	// tree is of rows. The cluster layer always has one, so that a question by one of many nodes never costs what
	// building it does; a node's layer has one for a while after the node walked it.
	tree *model.Tree
}

func newLayer(l model.Layer) *layer {
	held := &layer{rows: model.NewTables()}
	if l == model.ClusterLayer {
		held.tree = &model.Tree{}
	}
	return held
}

// apply changes the rows and returns the digest that they then have.
func (l *layer) apply(c *model.Change) model.Digest {
	if l.tree != nil {
		l.tree.Apply(c)
	}
	return l.rows.Apply(c, l.at.Digest)
}

// trees are those of nodes' layers, which are built when they are asked for.
type trees struct {
	order []grown // the oldest first
	rows  int
}

type grown struct {
	layer *layer
	rows  int
}

// maxGrown bounds the rows of all these trees, at some 45 bytes each.
const maxGrown = 1 << 20

// source returns what to answer questions about a layer from.
func (c *Core) source(l model.Layer) walk.Source {
	held := c.layers[l]
	if held == nil {
		held = &layer{rows: model.NewTables(), at: model.Position{Epoch: c.epoch}}
	}
	// A tree that isn't of these rows could lead a node nowhere, again and again.
	if held.tree == nil || held.tree.Sum(model.Root).Digest != held.at.Digest[0] {
		rows := held.rows.Rows()
		held.tree = model.NewTree(&rows)
		if l != model.ClusterLayer {
			c.trees.add(held)
		}
	}
	return walk.Source{Layer: l, Position: held.at, Tables: held.rows, Tree: held.tree}
}

func (t *trees) add(l *layer) {
	t.order = append(t.order, grown{l, l.tree.Len()})
	t.rows += l.tree.Len()
	for t.rows > maxGrown && len(t.order) > 1 {
		t.order[0].layer.tree = nil
		t.rows -= t.order[0].rows
		t.order = t.order[1:]
	}
}
