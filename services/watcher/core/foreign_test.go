// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/deltaplane/deltaplane/schemas"
)

// Promise P7: what somebody else has put into STATE is said anew, and what there is no object for is said to be gone.
func TestWhatAnotherHasSealedIsSaidAnew(t *testing.T) {
	c := New(Options{Source: "test", Kinds: kinds, Versioned: true, Started: started})
	forged := pod("forged", "elsewhere")
	forged.Object.ResourceVersion = "99999" // of the future, to be waited for
	c.Known(pod("same", "n"), 1)
	c.Foreign(forged, 2)
	c.Foreign(pod("invented", "n"), 3)
	c.Foreign(&schemas.Fact{Object: pod("hidden", "n").Object}, 4)
	c.Foreign(pod("old", "n"), 5)
	c.Lead(now, 1)
	effects := c.Step(now, list(pod("same", "n"), pod("forged", "n"), pod("hidden", "n"), pod("old", "n")))
	if got, want := said(effects), "+Pod a/forged +Pod a/hidden +Pod a/old -Pod a/invented +Complete state"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
}
