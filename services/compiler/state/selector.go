// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unique"

	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// MaxTerms bounds the terms of one selector.
	MaxTerms = 256
	// MaxValues bounds the values of one term.
	MaxValues = 1024
)

// Operator compares a label with the values of a Term.
type Operator byte

// The operators, as Kubernetes has them.
const (
	In           Operator = Operator(schemas.SelectorOperator_SELECTOR_OPERATOR_IN)
	NotIn        Operator = Operator(schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN)
	Exists       Operator = Operator(schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS)
	DoesNotExist Operator = Operator(schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST)
)

// Term is a demand on one label. Values are sorted, each once: some for In and NotIn, none for the others.
type Term struct {
	Key      string
	Operator Operator
	Values   []string
}

// Selector selects labels that fulfil all of its terms; the zero one, without terms, selects all. Selectors with the
// same terms are equal, whatever order they were written in. Packed it is a sequence of
//
//	key NUL operator, then 0x01 value for each value, NUL
type Selector struct{ packed unique.Handle[string] }

// NewSelector returns the selector that demands all terms.
func NewSelector(terms ...Term) Selector {
	texts := make([]string, len(terms))
	for i, term := range terms {
		values := slices.Clone(term.Values)
		slices.Sort(values)
		var b strings.Builder
		b.WriteString(term.Key + "\x00" + string(rune(term.Operator)))
		for _, value := range slices.Compact(values) {
			b.WriteString("\x01" + value)
		}
		texts[i] = b.String() + "\x00"
	}
	slices.Sort(texts)
	if len(texts) == 0 {
		return Selector{}
	}
	return Selector{unique.Make(strings.Join(slices.Compact(texts), ""))}
}

// InNamespace selects one namespace by the label that each has.
func InNamespace(name string) Selector {
	return NewSelector(Term{NamespaceLabel, In, []string{name}})
}

// Everything says that the selector has no terms.
func (s Selector) Everything() bool { return s == Selector{} }

// packedTerm is a Term as it is packed; values is "" or begins with 0x01.
type packedTerm struct {
	key      string
	operator Operator
	values   string
}

func (s Selector) packedTerms() iter.Seq[packedTerm] {
	return func(yield func(packedTerm) bool) {
		if s.Everything() {
			return
		}
		for rest := s.packed.Value(); rest != ""; {
			var key, demand string
			key, rest, _ = strings.Cut(rest, "\x00")
			demand, rest, _ = strings.Cut(rest, "\x00")
			if !yield(packedTerm{key, Operator(demand[0]), demand[1:]}) {
				return
			}
		}
	}
}

// Terms returns the terms in an order that depends on them alone.
func (s Selector) Terms() (terms []Term) {
	for t := range s.packedTerms() {
		term := Term{Key: t.key, Operator: t.operator}
		if t.values != "" {
			term.Values = strings.Split(t.values[1:], "\x01")
		}
		terms = append(terms, term)
	}
	return terms
}

// Matches says whether labels fulfil all terms (metav1.LabelSelector): NotIn and DoesNotExist are fulfilled by
// labels without the key. It doesn't allocate.
func (s Selector) Matches(labels Labels) bool {
	for term := range s.packedTerms() {
		if !term.matches(labels) {
			return false
		}
	}
	return true
}

func (t packedTerm) matches(labels Labels) bool {
	value, found := labels.Get(t.key)
	switch t.operator {
	case In:
		return found && t.has(value)
	case NotIn:
		return !found || !t.has(value)
	case Exists:
		return found
	}
	return !found
}

func (t packedTerm) has(value string) bool {
	rest, more := strings.CutPrefix(t.values, "\x01")
	for more {
		var v string
		if v, rest, more = strings.Cut(rest, "\x01"); v == value {
			return true
		}
	}
	return false
}

// Compare orders selectors by their terms.
func (s Selector) Compare(o Selector) int {
	switch {
	case s == o:
		return 0
	case s.Everything():
		return -1
	case o.Everything():
		return 1
	}
	return cmp.Compare(s.packed.Value(), o.packed.Value())
}

// String returns the selector as kubectl writes it; "everything" without terms.
func (s Selector) String() string {
	var texts []string
	for _, t := range s.Terms() {
		switch list := strings.Join(t.Values, ","); {
		case t.Operator == In && len(t.Values) == 1:
			texts = append(texts, t.Key+"="+list)
		case t.Operator == In:
			texts = append(texts, t.Key+" in ("+list+")")
		case t.Operator == NotIn:
			texts = append(texts, t.Key+" notin ("+list+")")
		case t.Operator == Exists:
			texts = append(texts, t.Key)
		default:
			texts = append(texts, "!"+t.Key)
		}
	}
	if len(texts) == 0 {
		return "everything"
	}
	return strings.Join(texts, ",")
}

func parseSelector(m *schemas.Selector) (Selector, error) {
	if len(m.GetTerms()) > MaxTerms {
		return Selector{}, fmt.Errorf("a selector has %d terms: the bound is %d", len(m.GetTerms()), MaxTerms)
	}
	terms := make([]Term, len(m.GetTerms()))
	for i, t := range m.GetTerms() {
		terms[i] = Term{t.GetKey(), Operator(t.GetOperator()), t.GetValues()}
		if err := checkTerm(t); err != nil {
			return Selector{}, fmt.Errorf("a selector's term %d: %w", i, err)
		}
	}
	return NewSelector(terms...), nil
}

func checkTerm(t *schemas.SelectorTerm) error {
	values := t.GetValues()
	switch t.GetOperator() {
	case schemas.SelectorOperator_SELECTOR_OPERATOR_IN, schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN:
		if len(values) == 0 || len(values) > MaxValues {
			return fmt.Errorf("it has %d values: want 1 to %d", len(values), MaxValues)
		}
	case schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS, schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST:
		if len(values) != 0 {
			return fmt.Errorf("it has %d values: want none", len(values))
		}
	default:
		return fmt.Errorf("operator %d: want In, NotIn, Exists or DoesNotExist", t.GetOperator())
	}
	for _, value := range values {
		if err := checkLabel(t.GetKey(), value); err != nil {
			return err
		}
	}
	return checkLabel(t.GetKey(), "")
}
