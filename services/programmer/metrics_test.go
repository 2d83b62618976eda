// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestMetricsAreDocumented(t *testing.T) {
	testkit.DocumentedMetrics(t, "programmer", newMetrics(nil).registry)
}
