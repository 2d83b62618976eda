// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// FromNode builds the world of one node of a running cluster: the objects as the bus has them, and the node's own rows,
// as they are in its kernel or as the compiler wants them.
func FromNode(facts []*schemas.Fact, node string, rows *model.Rows, config Config) *World {
	tables := model.NewTables()
	tables.Apply(&model.Change{Put: *rows}, model.Digest{})
	return NewWorld(facts, map[model.Layer]*model.Tables{model.ClusterLayer: tables, model.NodeLayer(node): model.NewTables()}, config)
}

// NodeOf returns the node that sees what q asks about first, from the objects alone.
func NodeOf(facts []*schemas.Fact, q Question) (string, error) {
	w := NewWorld(facts, nil, Config{})
	if q.From == "" {
		if q.Node == "" {
			return "", errors.New("node is missing: say whose rows to look at")
		}
		return q.Node, nil
	}
	from, err := w.source(q.From)
	if err != nil {
		return "", err
	}
	c := connection{from: from}
	if to, err := w.target(q.To, 0); err == nil {
		_, c.dialled, _ = pair(from, to)
	}
	node, err := w.where(q.Node, c, q.From)
	if err != nil {
		return "", fmt.Errorf("ask about the live cluster: %w", err)
	}
	return node, nil
}
