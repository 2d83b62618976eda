// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// Documents that name no object are set aside under this kind.
const kindDocument = "Document"

// Kinds are the kinds that a list of files decides about: also what another source has found out about the cluster,
// which is no longer known to hold.
var Kinds = append(slices.Clone(convert.Kinds), kindDocument, convert.KindCluster)

// reader remembers what files held: a file that is unreadable for a while loses nothing, and one that has not changed
// is not decoded again.
type reader struct {
	paths   []string
	files   map[string]*file
	derived []manifest.Object // the slices made last
	begun   bool
}

// file is what one file holds.
type file struct {
	sum      [sha256.Size]byte
	modified time.Time
	// objects are the good ones, and of what can't be read now those that were good before.
	objects  []manifest.Object
	ranges   []*networkingv1.ServiceCIDR
	problems []core.Refusal
	// spoilt are the objects that are in the file, but not as they were when they were good.
	spoilt map[core.Key]bool
	// nameless says that a problem may hide any object.
	nameless bool
	// whole says that everything that the file ever held is known.
	whole bool
}

func newReader(paths []string) *reader { return &reader{paths: paths, files: map[string]*file{}} }

// read returns everything in the files, and whether anything has changed since the last time.
func (r *reader) read() (list core.List, changed bool) {
	list = core.List{Kinds: Kinds}
	names, err := manifest.Files(r.paths)
	if err != nil {
		reason := fmt.Sprintf("the folder can't be read: %v", err)
		list.Kinds, list.Incomplete = nil, reason // this lists nothing, not even in part
		list.Refused = []core.Refusal{{Object: document(strings.Join(r.paths, ", ")), Reason: reason}}
		return list, true
	}
	changed = !r.begun
	r.begun = true
	for _, name := range names {
		changed = r.readFile(name) || changed
	}
	for name := range r.files {
		if !slices.Contains(names, name) {
			delete(r.files, name)
			changed = true
		}
	}
	if changed {
		r.collect(names, &list)
	}
	return list, changed
}

// readFile reads one file anew if its bytes have changed, and says whether they have.
func (r *reader) readFile(name string) (changed bool) {
	f := r.files[name]
	if f == nil {
		f = &file{}
		r.files[name] = f
	}
	data, err := os.ReadFile(name)
	if err != nil {
		f.sum, f.nameless = [sha256.Size]byte{}, true
		f.problems = []core.Refusal{{Object: document(name), Reason: fmt.Sprintf("%s can't be read: %v", name, err)}}
		return true
	}
	sum := sha256.Sum256(data)
	if sum == f.sum {
		return false
	}
	f.sum, f.modified = sum, time.Time{}
	if info, err := os.Stat(name); err == nil {
		f.modified = info.ModTime()
	}
	f.decode(name, data)
	return true
}

// decode takes a file's documents. What can't be read now stays as it was.
func (f *file) decode(name string, data []byte) {
	decoded := manifest.Decode(name, data)
	f.problems, f.nameless, f.spoilt = nil, false, map[core.Key]bool{}
	for _, problem := range decoded.SetAside {
		ref, named := refOf(problem)
		f.spoilt[core.KeyOf(ref)] = true
		f.problems = append(f.problems, core.Refusal{Object: ref, Reason: problem.Error(), Closed: closed(problem)})
		f.nameless = f.nameless || !named
	}
	before := f.objects
	f.objects = slices.Collect(decoded.Watched())
	if len(decoded.SetAside) == 0 || len(decoded.ServiceCIDRs) > 0 {
		f.ranges = decoded.ServiceCIDRs
	}
	good := map[core.Key]bool{}
	for _, object := range f.objects {
		good[keyOf(object)] = true
		delete(f.spoilt, keyOf(object)) // there is another, which is good
	}
	for _, object := range before {
		if key := keyOf(object); !good[key] && (f.nameless || f.spoilt[key]) {
			f.objects = append(f.objects, object)
		}
	}
	f.whole = f.whole || !f.nameless
}

// refOf names the object of a document that was set aside, or else the document.
func refOf(problem *manifest.DocumentError) (ref *schemas.ObjectRef, named bool) {
	where := problem.File
	if problem.Document > 0 {
		where = fmt.Sprintf("%s: document %d", problem.File, problem.Document)
	}
	if problem.Name == "" || problem.Kind == "" {
		return document(where), false
	}
	if !slices.Contains(convert.Kinds, problem.Kind) {
		return document(where + ": " + problem.Kind + " " + problem.Name), true
	}
	ref = &schemas.ObjectRef{Kind: problem.Kind, Name: problem.Name}
	if namespace, name, namespaced := strings.Cut(problem.Name, "/"); namespaced {
		ref.Namespace, ref.Name = namespace, name
	}
	return ref, true
}

// closed returns what stands for a policy that can't be read as long as nothing of it is known.
func closed(problem *manifest.DocumentError) *schemas.Fact {
	if problem.Rest == nil {
		return nil
	}
	return convert.Closed(problem.Rest, problem.Err)
}

func document(name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: kindDocument, Name: name}
}

func keyOf(object manifest.Object) core.Key {
	ref, err := convert.Ref(object)
	if err != nil {
		return core.Key{}
	}
	return core.KeyOf(ref)
}

// collect puts together what all files hold. An object that is in two files counts where it is first.
func (r *reader) collect(names []string, list *core.List) {
	first := map[core.Key]string{}
	var all []manifest.Object
	var newest time.Time
	for _, name := range names {
		f := r.files[name]
		if f.modified.After(newest) {
			newest = f.modified
		}
		for _, object := range f.objects {
			key := keyOf(object)
			if other, twice := first[key]; twice {
				list.Refused = append(list.Refused, core.Refusal{
					Object: document(name + ": " + key.String()),
					Reason: fmt.Sprintf("%s: %s is in %s already; that one counts", name, key, other),
				})
				continue
			}
			first[key] = name
			all = append(all, object)
			if !f.spoilt[key] {
				add(list, object, f.modified)
			}
		}
	}
	var ranges []*networkingv1.ServiceCIDR
	for _, name := range names {
		r.problems(name, first, list)
		ranges = append(ranges, r.files[name].ranges...)
	}
	if fact := convert.Cluster(ranges); fact != nil {
		list.Facts = append(list.Facts, fact)
	}
	r.derived = derive(all, r.derived)
	for _, slice := range r.derived {
		add(list, slice, newest)
	}
}

// problems adds a file's problems to a list.
func (r *reader) problems(name string, first map[core.Key]string, list *core.List) {
	f := r.files[name]
	for _, problem := range f.problems {
		key := core.KeyOf(problem.Object)
		if holder, taken := first[key]; taken && !r.files[holder].spoilt[key] { // by an object that is good
			problem.Object = document(name + ": " + key.String())
		}
		list.Refused = append(list.Refused, problem)
	}
	if f.nameless && !f.whole {
		list.Incomplete = cmp.Or(list.Incomplete, f.problems[0].Reason)
	}
}

// add converts an object into a fact, or into a refusal.
func add(list *core.List, object manifest.Object, modified time.Time) {
	fact, err := convert.Fact(object)
	if err != nil {
		ref, refErr := convert.Ref(object)
		if refErr != nil {
			ref = document(err.Error())
		}
		list.Refused = append(list.Refused, core.Refusal{Object: ref, Reason: err.Error()})
		return
	}
	if fact.GetTriggerTime() == nil && !modified.IsZero() {
		fact.TriggerTime = timestamppb.New(modified)
	}
	list.Facts = append(list.Facts, fact)
}

// folders returns all folders in which a change means something.
func folders(paths []string) (out []string) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			out = append(out, filepath.Dir(path)) // also of what isn't there yet
			continue
		}
		_ = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil // What can't be watched is read now and then.
			case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && name != path:
				return fs.SkipDir
			case entry.IsDir():
				out = append(out, name)
			}
			return nil
		})
	}
	return out
}
