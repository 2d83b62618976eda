// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// countingServices has node a answer with counts of Services; an old one answers another question.
func (s *stage) countingServices(old bool, uncounted uint64, counts ...*schemas.ServiceCount) {
	s.t.Helper()
	_, err := s.conn.Respond(schemas.FlowsSubject("a"), "", func(_ context.Context, data []byte, answer func([]byte) error) {
		var request schemas.FlowsRequest
		if err := wire.Unmarshal(data, &request); err != nil || !request.GetOnlyServices() {
			s.t.Errorf("asked %v, %v", &request, err)
		}
		_ = answer(encoded(s.t, &schemas.FlowsReply{OnlyServices: !old, Uncounted: uncounted}))
		_ = answer(encoded(s.t, &schemas.FlowsReply{Services: counts, Sequence: 1, Last: true}))
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestCountsOfServices(t *testing.T) {
	s := newStage(t)
	s.countingServices(false, 7,
		&schemas.ServiceCount{Service: "shop/web:80", Forwarding: "tunnel", Count: 1204},
		&schemas.ServiceCount{Service: "shop/web:80", Forwarding: "local", Count: 3},
		&schemas.ServiceCount{Service: "shop/web:80", Reason: "source_range", Count: 12},
		&schemas.ServiceCount{Service: "shop/cart:80", Reason: "no_backend", Count: 1},
	)
	stdout, stderr, code := command(t, "flows", "--node", "a", "--services")
	if code != exitOK || stderr != "" {
		t.Errorf("exit %d, %s", code, stderr)
	}
	want := `SERVICE       NODE  FLOWS BEGUN            DROPPED
shop/cart:80  a     -                      1 no_backend
shop/web:80   a     3 local, 1,204 tunnel  12 source_range
and 7 more drops and flows for whose Service there was no room (--max-service-counts of the programmer)
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
	stdout, _, _ = command(t, "flows", "--node", "a", "--services", "-o", "json")
	var list servicesJSON
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Services) != 4 || list.Uncounted != 7 || list.Services[3] != (serviceCountJSON{"a", "shop/web:80", "source_range", "", 12}) {
		t.Errorf("got %+v", list)
	}
	if _, stderr, code = command(t, "flows", "--services", "--drops"); code != exitError || stderr == "" {
		t.Errorf("--services with --drops: exit %d, %s", code, stderr)
	}
}

func TestOldProgrammersCountNothingOfServices(t *testing.T) {
	s := newStage(t)
	s.countingServices(true, 0)
	if _, stderr, code := command(t, "flows", "--node", "a", "--services"); code != exitError || !strings.Contains(stderr, "upgrade it") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
