// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A server that has just restarted knows of nothing to read: what is stored is asked for elsewhere, or later.
//
// Fault 5: a server that is behind never passes for one that has everything.
func TestOnlyServersThatHaveEverythingAreRead(t *testing.T) {
	info := &jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{
		{Name: "b", Current: true}, {Name: "c"}, {Name: "d", Current: true, Offline: true},
	}}}
	for server, whole := range map[string]bool{"a": true, "b": true, "c": false, "d": false, "elsewhere": false} {
		if err := behind(info, server); (err == nil) != whole {
			t.Errorf("server %s: %v, want it to be read: %t", server, err, whole)
		}
	}
	if err := behind(&jetstream.StreamInfo{}, "alone"); err != nil {
		t.Errorf("a server that stands alone: %v", err)
	}
}
