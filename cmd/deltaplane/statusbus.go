// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/schemas"
)

// replicaJSON is one replica of a service that sends pulses.
type replicaJSON struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	Leads   bool   `json:"leads"`
	Epoch   uint64 `json:"epoch,omitempty"`
	// Able says that it could take over.
	Able bool `json:"able"`
	// Agrees says whether one that stands by has the leader's rows; nothing if they weren't at the same revision.
	Agrees *bool `json:"agrees,omitempty"`

	revision uint64
	digest   string
}

// listenFor is how long pulses are heard: each replica sends four a second.
const listenFor = 600 * time.Millisecond

// replicas hears who is there, whether anyone leads or not.
type replicas struct {
	sub   *bus.Subscription
	since time.Time

	mu    sync.Mutex
	heard map[string]replicaJSON
}

func hearReplicas(conn *bus.Conn) (*replicas, error) {
	r := &replicas{since: time.Now(), heard: map[string]replicaJSON{}}
	var err error
	r.sub, err = conn.Subscribe(schemas.SubjectAllPulses, func(m bus.Message) {
		var p schemas.Pulse
		if proto.Unmarshal(m.Data, &p) == nil {
			r.add(&p)
		}
	})
	return r, err
}

func (r *replicas) add(p *schemas.Pulse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard[p.GetService()+"/"+p.GetName()] = replicaJSON{
		Service: p.GetService(), Name: p.GetName(), Leads: p.GetEpoch() > 0, Epoch: p.GetEpoch(), Able: p.GetAble(),
		revision: p.GetRevision(), digest: string(p.GetDigest()),
	}
}

func (r *replicas) stop() { r.sub.Stop() }

// wait returns all that were heard, by service and name, once there was time to hear each.
func (r *replicas) wait(ctx context.Context) []replicaJSON {
	select {
	case <-time.After(listenFor - time.Since(r.since)):
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]replicaJSON, 0, len(r.heard))
	for _, one := range r.heard {
		for _, leader := range r.heard {
			if leader.Leads && leader.Service == one.Service && !one.Leads && leader.revision == one.revision && one.digest != "" {
				one.Agrees = new(one.digest == leader.digest)
			}
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b replicaJSON) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func describeReplicas(list []replicaJSON) string {
	var all []string
	for _, r := range list {
		text := r.Service + " " + r.Name
		switch {
		case r.Leads:
			text += fmt.Sprintf(" leads in epoch %d", r.Epoch)
		case !r.Able:
			text += " can't take over"
		default:
			text += " stands by"
		}
		if r.Agrees != nil && !*r.Agrees {
			text += ", with other rows"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// streamJSON is how one stream stands.
type streamJSON struct {
	Name     string     `json:"name"`
	Messages uint64     `json:"messages"`
	Bytes    uint64     `json:"bytes"`
	MaxBytes uint64     `json:"maxBytes"`
	Oldest   *time.Time `json:"oldest,omitempty"`
	Copies   int        `json:"copies"`
	Leader   string     `json:"leader"`
	// Problems are for people.
	Problems []string `json:"problems"`
}

// askServer adds how the streams stand, as the bus itself says, and what the compiler has seen of them before.
func (s *clusterStatus) askServer(ctx context.Context, conn *bus.Conn) {
	ctx, cancel := context.WithTimeout(ctx, watcherWithin)
	defer cancel()
	var watch streams.Watch
	for _, of := range schemas.Streams {
		is, err := conn.StreamState(ctx, of.Name)
		j := streamJSON{Name: of.Name, Messages: is.Messages, Bytes: is.Bytes, MaxBytes: is.MaxBytes, Copies: is.Copies, Leader: is.Leader, Problems: []string{}}
		if !is.Oldest.IsZero() {
			j.Oldest = &is.Oldest
		}
		if err != nil {
			j.Problems = append(j.Problems, err.Error())
		} else {
			raised, _ := watch.Look(time.Now(), of, is)
			for _, alarm := range raised {
				j.Problems = append(j.Problems, alarm.Text)
			}
		}
		for _, f := range s.streamFaults {
			// What the bus has just said is newer than what the compiler saw some seconds ago, but for what it can't know.
			seen := err != nil || f.GetKind() == string(streams.RolledBack)
			if seen && f.GetStream() == of.Name && !slices.Contains(j.Problems, f.GetText()) {
				j.Problems = append(j.Problems, f.GetText())
			}
		}
		s.Healthy = s.Healthy && len(j.Problems) == 0
		s.Streams = append(s.Streams, j)
	}
}

func (v statusView) replicas(b *strings.Builder) {
	if len(v.Replicas) > 0 {
		v.line(b, "Replicas", describeReplicas(v.Replicas))
	}
}

func (v statusView) streams() string {
	var all []string
	for _, s := range v.Streams {
		text := fmt.Sprintf("%s %s", s.Name, inBytes(s.Bytes))
		if s.Copies > 1 {
			text += fmt.Sprintf(" ×%d", s.Copies)
		}
		all = append(all, text)
	}
	return strings.Join(all, "   ")
}

func inBytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
