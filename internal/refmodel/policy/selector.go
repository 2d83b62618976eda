// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

type labels map[string]string

// nameLabel is what each namespace has with its own name as value (KEP-2161).
const nameLabel = "kubernetes.io/metadata.name"

// matches says whether labels fulfil all terms. (LabelSelector: "The result of matchLabels and matchExpressions are
// ANDed. An empty label selector matches all objects". A null one "matches no objects" there; here whoever has none
// means all, as the fields of facts say.)
func matches(selector *schemas.Selector, of labels) bool {
	return len(failing(selector, of)) == 0
}

// failing returns the terms that labels don't fulfil.
func failing(selector *schemas.Selector, of labels) (terms []*schemas.SelectorTerm) {
	for _, term := range selector.GetTerms() {
		if !fulfils(term, of) {
			terms = append(terms, term)
		}
	}
	return terms
}

// fulfils compares one label. (Kubernetes, labels.Requirement.Matches: NotIn is "if it doesn't have the key, or its
// value is in none of the values"; DoesNotExist is without the key. A value may be empty, which is not to have no key.)
func fulfils(term *schemas.SelectorTerm, of labels) bool {
	value, has := of[term.GetKey()]
	switch term.GetOperator() {
	case schemas.SelectorOperator_SELECTOR_OPERATOR_IN:
		return has && slices.Contains(term.GetValues(), value)
	case schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN:
		return !has || !slices.Contains(term.GetValues(), value)
	case schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS:
		return has
	case schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST:
		return !has
	}
	return false // of a policy that is refused
}

// describe writes a selector as kubectl would: "app=gateway, tier in (a, b)". Nothing is without terms.
func describe(selector *schemas.Selector) string {
	var texts []string
	for _, term := range selector.GetTerms() {
		values := strings.Join(term.GetValues(), ", ")
		switch term.GetOperator() {
		case schemas.SelectorOperator_SELECTOR_OPERATOR_IN:
			if len(term.GetValues()) == 1 {
				texts = append(texts, term.GetKey()+"="+values)
				continue
			}
			texts = append(texts, term.GetKey()+" in ("+values+")")
		case schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN:
			if len(term.GetValues()) == 1 {
				texts = append(texts, term.GetKey()+"!="+values)
				continue
			}
			texts = append(texts, term.GetKey()+" not in ("+values+")")
		case schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS:
			texts = append(texts, "label "+term.GetKey())
		case schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST:
			texts = append(texts, "no label "+term.GetKey())
		}
	}
	return strings.Join(texts, ", ")
}

// onlyName returns the namespace that a selector names by its name alone.
func onlyName(selector *schemas.Selector) (name string, is bool) {
	terms := selector.GetTerms()
	if len(terms) != 1 || terms[0].GetKey() != nameLabel || len(terms[0].GetValues()) != 1 ||
		terms[0].GetOperator() != schemas.SelectorOperator_SELECTOR_OPERATOR_IN {
		return "", false
	}
	return terms[0].GetValues()[0], true
}
