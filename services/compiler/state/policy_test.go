// SPDX-License-Identifier: Apache-2.0

package state

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSelectorsMatchAsKubernetes compares packed selectors with the plain reading of metav1.LabelSelector.
func TestSelectorsMatchAsKubernetes(t *testing.T) {
	keys, values := rapid.SampledFrom([]string{"a", "ab", "b", "x/a"}), rapid.SampledFrom([]string{"", "1", "12", "2"})
	rapid.Check(t, func(t *rapid.T) {
		labels := rapid.MapOf(keys, values).Draw(t, "labels")
		var terms []Term
		for range rapid.IntRange(0, 3).Draw(t, "terms") {
			term := Term{Key: keys.Draw(t, "key"), Operator: Operator(rapid.IntRange(1, 4).Draw(t, "operator"))}
			if term.Operator == In || term.Operator == NotIn {
				term.Values = rapid.SliceOfN(values, 1, 3).Draw(t, "values")
			}
			terms = append(terms, term)
		}
		want := !slices.ContainsFunc(terms, func(term Term) bool { return !fulfils(labels, term) })
		packed, err := NewLabels(labels)
		if err != nil {
			t.Fatal(err)
		}
		selector := NewSelector(terms...)
		if got := selector.Matches(packed); got != want {
			t.Fatalf("%s on %v: %v, want %v", selector, labels, got, want)
		}
		slices.Reverse(terms)
		if again := NewSelector(terms...); again != selector || NewSelector(selector.Terms()...) != selector {
			t.Fatalf("%s is another one in another order: %s", selector, again)
		}
		if got := packed.Map(); !maps.Equal(got, labels) {
			t.Fatalf("labels %v became %v", labels, got)
		}
	})
}

func fulfils(labels map[string]string, term Term) bool {
	value, found := labels[term.Key]
	switch term.Operator {
	case In:
		return found && slices.Contains(term.Values, value)
	case NotIn:
		return !found || !slices.Contains(term.Values, value)
	case Exists:
		return found
	}
	return !found
}
