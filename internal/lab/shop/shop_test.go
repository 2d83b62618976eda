// SPDX-License-Identifier: Apache-2.0

package shop

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

func TestShopIsWhole(t *testing.T) {
	t.Parallel()
	objects := Objects()
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	cluster, err := manifest.Expand(objects, manifest.Options{})
	if err != nil || cluster.Err() != nil {
		t.Fatal(err, cluster.Err())
	}
	if n := len(cluster.Pods); n != 10 {
		t.Errorf("%d pods, want 10", n)
	}
	for _, s := range cluster.Services {
		if len(manifest.ServiceAddrs(s)) != 2 {
			t.Errorf("%s has addresses %v, want both families", s.Name, manifest.ServiceAddrs(s))
		}
	}
}
