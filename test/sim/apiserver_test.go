// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// object is one of the Kubernetes API.
type object interface {
	runtime.Object
	metav1.Object
}

// apiServer holds objects, each change under a resource version of its own, and tells those who watch.
type apiServer struct {
	*world
	objects map[core.Key]object
	version uint64
	changes []change
	watches []*watch
	uids    int
	down    bool
	// What the next lists are: as of an older version, or empty though there are objects. Both are bugs of an API
	// server, or of what stands before it.
	staleLists, emptyLists int
}

// change is one of an object: its new state, or its last one if it is gone.
type change struct {
	version uint64
	key     core.Key
	object  object
	gone    bool
}

// watch is one watcher's of one kind.
type watch struct {
	by    *process
	life  int
	kind  string
	event func(change)
	end   func()
	over  bool
	last  time.Time
}

var errAPI = errors.New("the API server is away")

func newAPIServer(w *world) *apiServer {
	return &apiServer{world: w, objects: map[core.Key]object{}}
}

func keyOf(o runtime.Object) core.Key {
	ref, err := convert.Ref(o)
	if err != nil {
		panic("sim: " + err.Error())
	}
	return core.KeyOf(ref)
}

// put creates or replaces an object.
func (a *apiServer) put(o object) {
	key := keyOf(o)
	a.version++
	if before, exists := a.objects[key]; exists {
		o.SetUID(before.GetUID())
	} else {
		a.uids++
		o.SetUID(types.UID("uid-" + strconv.Itoa(a.uids)))
	}
	o.SetResourceVersion(strconv.FormatUint(a.version, 10))
	a.objects[key] = o
	a.tell(change{a.version, key, o, false})
}

// remove deletes an object.
func (a *apiServer) remove(key core.Key) {
	o, exists := a.objects[key]
	if !exists {
		return
	}
	a.version++
	delete(a.objects, key)
	a.tell(change{a.version, key, o, true})
}

func (a *apiServer) tell(c change) {
	a.trace.add(a.now, "apiserver", "change", c.key.String(), c.gone)
	a.changes = append(a.changes, c)
	for _, w := range a.watches {
		a.bring(w, c)
	}
}

func (a *apiServer) bring(w *watch, c change) {
	if w.kind != c.key.Kind || w.over {
		return
	}
	at := a.now.Add(a.between(100*time.Microsecond, 5*time.Millisecond))
	if at.Before(w.last) {
		at = w.last
	}
	w.last = at
	a.at(at, func() {
		w.by.happens(w.life, func() {
			if !w.over {
				w.event(c)
			}
		})
	})
}

// sorted returns the objects of a kind in the order of their names.
func (a *apiServer) sorted(kind string) (keys []core.Key) {
	for key := range maps.Keys(a.objects) {
		if key.Kind == kind {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// list answers with all objects of a kind, as of a version.
func (a *apiServer) list(p *process, kind string, done func(objects []object, version uint64, err error)) {
	p.after(a.between(time.Millisecond, 20*time.Millisecond), func() {
		if a.down {
			done(nil, 0, errAPI)
			return
		}
		version := a.version
		switch {
		case a.emptyLists > 0 && kind != convert.KindNode: // few Nodes are below what is held back
			a.emptyLists--
			a.inject("list empty", kind)
			done(nil, version, nil)
			return
		case a.staleLists > 0 && version > 0:
			a.staleLists--
			a.inject("list stale", kind)
			version -= min(version, 1+a.random.Uint64N(20))
		}
		done(a.asOf(version, kind), version, nil)
	})
}

// asOf returns the objects of a kind as they were at a version, in the order of their names.
func (a *apiServer) asOf(version uint64, kind string) []object {
	found := map[core.Key]object{}
	for _, c := range a.changes {
		switch {
		case c.version > version || c.key.Kind != kind:
		case c.gone:
			delete(found, c.key)
		default:
			found[c.key] = c.object
		}
	}
	objects := make([]object, 0, len(found))
	for _, key := range slices.SortedFunc(maps.Keys(found), compareKeys) {
		objects = append(objects, found[key])
	}
	return objects
}

// watch tells of every change of a kind after a version, until end.
func (a *apiServer) watch(p *process, kind string, version uint64, event func(change), end func()) {
	if a.down {
		p.after(10*time.Millisecond, end)
		return
	}
	w := &watch{by: p, life: p.life, kind: kind, event: event, end: end, last: a.now}
	a.watches = append(a.watches, w)
	for _, c := range a.changes {
		if c.version > version {
			a.bring(w, c)
		}
	}
}

// expire ends all watches, as an API server does that restarts or has forgotten their version (410 Gone).
func (a *apiServer) expire() {
	for _, w := range a.watches {
		if !w.over {
			w.over = true
			a.after(time.Millisecond, func() { w.by.happens(w.life, w.end) })
		}
	}
	a.watches = nil
}

func compareKeys(a, b core.Key) int {
	for _, pair := range [][2]string{{a.Kind, b.Kind}, {a.Namespace, b.Namespace}, {a.Name, b.Name}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}
