// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// anything, among the fields that are known, takes all others too.
const anything = "*"

// reader takes values out of decoded JSON. It keeps the first thing that is wrong, named by its field, and goes on
// with empty values.
type reader struct{ err error }

func (r *reader) fail(field, format string, v ...any) {
	r.failed(fmt.Errorf("%s: "+format, append([]any{field}, v...)...))
}

func (r *reader) failed(err error) { r.err = first(r.err, err) }

// fields returns an object, whose fields all are known.
func (r *reader) fields(field string, v any, known ...string) map[string]any {
	m, ok := v.(map[string]any)
	if !ok {
		r.fail(field, "%s", wrong(v, "an object"))
		return nil
	}
	if !slices.Contains(known, anything) {
		for _, name := range sortedKeys(m, known) {
			r.fail(field+"."+name, "is no field that this version knows")
		}
	}
	return m
}

// list returns a list; none is an empty one.
func (r *reader) list(field string, v any) []any {
	list, ok := v.([]any)
	if !ok && v != nil {
		r.fail(field, "%s", wrong(v, "a list"))
	}
	return list
}

// text returns a string; none is an empty one.
func (r *reader) text(field string, v any) string {
	s, ok := v.(string)
	if !ok && v != nil {
		r.fail(field, "%s", wrong(v, "a string"))
	}
	return s
}

// number returns a whole number from least to most. JSON's may come as a fraction that is none.
func (r *reader) number(field string, v any, least, most int64) int64 {
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > math.MaxInt32 {
			r.fail(field, "%v is not a whole number from %d to %d", v, least, most)
			return least
		}
		n = int64(v)
	default:
		r.fail(field, "%s", wrong(v, "a number"))
		return least
	}
	if n < least || n > most {
		r.fail(field, "%d is not between %d and %d", n, least, most)
		return least
	}
	return n
}

func wrong(v any, want string) string {
	switch v.(type) {
	case nil:
		return "is missing"
	case map[string]any:
		return "is an object where " + want + " belongs"
	case []any:
		return "is a list where " + want + " belongs"
	case string:
		return "is a string where " + want + " belongs"
	case bool:
		return "is true or false where " + want + " belongs"
	}
	return "is a number where " + want + " belongs"
}

// sortedKeys returns the keys of m that are not among known, in order.
func sortedKeys(m map[string]any, known []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(key string) bool { return slices.Contains(known, key) })
}

func or(v, otherwise any) any {
	if v == nil {
		return otherwise
	}
	return v
}
