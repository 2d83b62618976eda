// SPDX-License-Identifier: Apache-2.0

package trust

// A key that is being replaced has up to two files more: the next, which is trusted and not used yet, and the old, which
// is used no more and still trusted.
const (
	next = ".next"
	old  = ".old"
)

// generations are the names of all keys that are trusted in the place of one.
func (r *ring) generations(name string) []string {
	all := []string{name}
	for _, generation := range []string{next, old} {
		if exists(r.path(name + generation)) {
			all = append(all, name+generation)
		}
	}
	return all
}
