// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommittedPagesAreWhatTheCodeSays(t *testing.T) {
	for name, page := range pages {
		t.Run(name, func(t *testing.T) {
			want, err := page("../..")
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join("../../docs/reference", name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("docs/reference/%s is stale: run make generate (-code +page):\n%s", name, diff)
			}
		})
	}
}
