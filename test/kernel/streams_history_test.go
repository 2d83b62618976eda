// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/model"
	naive "github.com/deltaplane/deltaplane/internal/refmodel/policy"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// history is what policies allowed when: eras in which one state was live, and between them those of a change, in which
// any of several may have been.
type history struct{ eras []era }

// era ends where the next one begins.
type era struct {
	begin  int64 // nanoseconds since 1970
	states []*moment
}

// moment is what the naive model says of a cluster.
type moment struct {
	objects *manifest.Objects
	cluster *naive.Cluster

	mu   sync.Mutex
	said map[call]bool
}

func (h *history) begins(states ...*moment) {
	h.eras = append(h.eras, era{time.Now().UnixNano(), states})
}

// between says whether a call was allowed from one time to another, by some state and by all.
func (h *history) between(t testing.TB, c call, from, to int64) (may, must bool) {
	t.Helper()
	must = true
	for i, e := range h.eras {
		if e.begin > to || i+1 < len(h.eras) && h.eras[i+1].begin < from {
			continue
		}
		for _, one := range e.states {
			allowed := one.allows(t, c)
			may, must = may || allowed, must && allowed
		}
	}
	return may, must
}

func newMoment(t testing.TB, objects *manifest.Objects) *moment {
	t.Helper()
	var facts []*schemas.Fact
	for object := range objects.Watched() {
		fact, err := convert.Fact(object)
		check(t, err)
		facts = append(facts, fact)
	}
	return &moment{objects: objects, cluster: naive.New(facts, nil), said: map[call]bool{}}
}

func (s *moment) allows(t testing.TB, c call) bool {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	allowed, known := s.said[c]
	if known {
		return allowed
	}
	protocol := model.UDP
	if c.proto == "tcp" {
		protocol = model.TCP
	}
	from, to := addressIn(s.objects, c.from, c.family), addressIn(s.objects, c.to, c.family)
	// A pod that isn't known passes nothing.
	allowed = from.IsValid() && to.IsValid() &&
		s.cluster.Judge(naive.Connection{From: from, To: to, Protocol: protocol, Port: uint16(c.port)}).Allowed()
	s.said[c] = allowed
	return allowed
}

// addressIn returns a pod's address; invalid if there is none.
func addressIn(objects *manifest.Objects, pod string, family int) netip.Addr {
	for _, p := range objects.Pods {
		for _, addr := range manifest.PodAddrs(p) {
			if manifest.Name(p) == pod && addr.Is4() == (family == 4) {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// underway is how long a datagram may take from its socket to the last place where it is judged, and to its echo, on a
// busy machine: one that is allowed throughout must come.
const underway = time.Second

// count is what became of datagrams.
type count struct {
	sent, came, echoed   int
	allowed, denied      int // that had to come, and that had to stay away
	allowedIn, deniedIn  int // of these, those sent or kept out during a change
	lost, leaked, unsent int
	wrong                []string
}

func (n *count) String() string {
	return fmt.Sprintf("%d datagrams sent, %d came, %d echoes; %d had to come (%d of them sent during a change): %d lost; %d had to stay away (%d during a change): %d came",
		n.sent, n.came, n.echoed, n.allowed, n.allowedIn, n.lost, n.denied, n.deniedIn, n.leaked)
}

// judge compares what became of each datagram with the history.
func (h *history) judge(t testing.TB, streams []*stream) *count {
	t.Helper()
	n := &count{}
	for _, one := range streams {
		one.mu.Lock()
		for number, sent := range one.sent {
			if sent == 0 {
				n.unsent++
				continue
			}
			h.one(t, n, one, number)
		}
		one.mu.Unlock()
	}
	return n
}

func (h *history) one(t testing.TB, n *count, s *stream, number int) {
	t.Helper()
	n.sent++
	sent, came := s.sent[number], s.came[number]
	may, must := h.between(t, s.call, sent, sent+underway.Nanoseconds())
	if must {
		n.allowed++
	}
	if !may {
		n.denied++
	}
	if h.changing(sent) {
		if must {
			n.allowedIn++
		} else if !may {
			n.deniedIn++
		}
	}
	if came == 0 {
		if must {
			n.lost++
			n.tell(h, s, number, "is lost")
		}
		return
	}
	n.came++
	if may, _ := h.between(t, s.call, came, came); !may {
		n.leaked++
		n.tell(h, s, number, "came")
	}
	if _, must := h.between(t, s.call, came, came+underway.Nanoseconds()); must && s.echoed(uint64(number)) {
		n.echoed++
		if s.back[number] == 0 {
			n.lost++
			n.tell(h, s, number, "has lost its echo")
		}
	}
}

func (h *history) changing(at int64) bool {
	for _, e := range slices.Backward(h.eras) {
		if e.begin <= at {
			return len(e.states) > 1
		}
	}
	return false
}

// tell notes what went wrong with one datagram, and when that was in the history.
func (n *count) tell(h *history, s *stream, number int, what string) {
	if len(n.wrong) >= 20 {
		return
	}
	at := s.sent[number]
	if s.came[number] != 0 {
		at = s.came[number]
	}
	for i, e := range slices.Backward(h.eras) {
		if e.begin <= at {
			n.wrong = append(n.wrong, fmt.Sprintf("%s: datagram %d %s, %s after era %d of %d states began", s.call, number, what, time.Duration(at-e.begin), i, len(e.states)))
			return
		}
	}
}

// settled waits until nothing is on its way any more, and fails the test for each datagram that was lost or leaked.
func (r *streams) settled(h *history) *count {
	r.t.Helper()
	r.stop()
	var n *count
	soon, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	_ = space.Poll(soon, 50*time.Millisecond, func() (bool, error) { // what is lost by then is told below
		n = h.judge(r.t, r.all())
		return n.lost == 0, nil
	})
	if n.lost+n.leaked > 0 {
		r.t.Errorf("%s\n%s", n, strings.Join(n.wrong, "\n"))
	}
	if n.allowed == 0 || n.denied == 0 || n.unsent*10 > n.sent {
		r.t.Errorf("the streams tell too little: %s, %d unsent", n, n.unsent)
	}
	r.t.Log(n)
	return n
}
