// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// FromNodes builds the world of a running cluster: the objects as the bus has them, and the rows of each node that a
// question is about, as they are in its kernel, which rowsOf reads.
func FromNodes(facts []*schemas.Fact, rowsOf func(node string) (*model.Rows, error), config Config) *World {
	w := NewWorld(facts, map[model.Layer]*model.Tables{}, config)
	w.live = rowsOf
	return w
}
