// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
	"unique"
)

// NamespaceLabel is a label that each namespace has, with its name.
const NamespaceLabel = "kubernetes.io/metadata.name"

const (
	// MaxLabels bounds the labels of one object. Kubernetes bounds only their length.
	MaxLabels = 4096
	// maxLabelKey and maxLabelValue are Kubernetes' bounds: prefix, slash and name; value.
	maxLabelKey, maxLabelValue = maxName + 1 + 63, 63
)

// Labels are an object's labels as one interned string: most pods of a workload have the same. They are ordered by
// key, each as "key NUL value NUL".
type Labels struct{ packed unique.Handle[string] }

func packLabels(labels map[string]string) Labels {
	var b strings.Builder
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString(k)
		b.WriteByte(0)
		b.WriteString(labels[k])
		b.WriteByte(0)
	}
	return Labels{unique.Make(b.String())}
}

// NewLabels returns labels, or what is wrong with them.
func NewLabels(labels map[string]string) (Labels, error) {
	if len(labels) > MaxLabels {
		return Labels{}, fmt.Errorf("it has %d labels: the bound is %d", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if err := checkLabel(k, v); err != nil {
			return Labels{}, err
		}
	}
	return packLabels(labels), nil
}

// checkLabel refuses what would make packed labels or selectors ambiguous, and what Kubernetes never stores.
func checkLabel(key, value string) error {
	switch {
	case key == "":
		return errors.New("a label has no key")
	case len(key) > maxLabelKey || len(value) > maxLabelValue:
		return fmt.Errorf("the label %.64q is longer than Kubernetes allows", key)
	case strings.ContainsFunc(key, unprintable) || strings.ContainsFunc(value, unprintable) ||
		!utf8.ValidString(key) || !utf8.ValidString(value):
		return fmt.Errorf("the label %.64q=%.64q is none that Kubernetes allows", key, value)
	}
	return nil
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// All iterates over keys and values in order of keys, without allocating.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		if l == (Labels{}) {
			return
		}
		for rest := l.packed.Value(); rest != ""; {
			var key, value string
			key, rest, _ = strings.Cut(rest, "\x00")
			value, rest, _ = strings.Cut(rest, "\x00")
			if !yield(key, value) {
				return
			}
		}
	}
}

// Get returns the value of a label.
func (l Labels) Get(key string) (value string, found bool) {
	for k, v := range l.All() {
		if k == key {
			return v, true
		}
		if k > key {
			break
		}
	}
	return "", false
}

// Map returns the labels as a new map.
func (l Labels) Map() map[string]string {
	return maps.Collect(l.All())
}
