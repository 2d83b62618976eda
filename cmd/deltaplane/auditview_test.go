// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestHowLongAChangeTookIsSaidIfItIsKnown(t *testing.T) {
	t.Parallel()
	for want, applied := range map[string]appliedJSON{
		"in the kernel after 11 ms  3 map writes, 393 bytes\n": {LatencyMillis: 11, Writes: 3, Bytes: 393},
		"in the kernel  3 map writes, 393 bytes\n":             {Writes: 3, Bytes: 393},
		"in the kernel by synchronisation  3 map writes\n":     {Writes: 3},
	} {
		if got := (&tail{}).line(applied); !strings.HasSuffix(got, want) {
			t.Errorf("%+v: got %q, want it to end in %q", applied, got, want)
		}
	}
}
