// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/schemas"
)

// operators are those of metav1.LabelSelectorRequirement.
var operators = map[metav1.LabelSelectorOperator]schemas.SelectorOperator{
	metav1.LabelSelectorOpIn:           schemas.SelectorOperator_SELECTOR_OPERATOR_IN,
	metav1.LabelSelectorOpNotIn:        schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN,
	metav1.LabelSelectorOpExists:       schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS,
	metav1.LabelSelectorOpDoesNotExist: schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST,
}

// selector converts a selector; nil stays nil, since what that means is for the field to say. Keys and values are held
// to what labels can have, as the API server does: others would match nothing.
func selector(s *metav1.LabelSelector) (*schemas.Selector, error) {
	if s == nil {
		return nil, nil
	}
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return nil, err
	}
	out := &schemas.Selector{}
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		out.Terms = append(out.Terms, &schemas.SelectorTerm{
			Key: key, Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN, Values: []string{s.MatchLabels[key]},
		})
	}
	for _, e := range s.MatchExpressions {
		out.Terms = append(out.Terms, &schemas.SelectorTerm{Key: e.Key, Operator: operators[e.Operator], Values: e.Values})
	}
	return out, nil
}

// legacyPrefix reads a prefix as API servers read policies': also with leading zeros, which are decimal, and IPv4 in
// IPv6 clothing (k8s.io/apimachinery validation, IsValidCIDRForLegacyField). Refusing what an API server took would
// close pods for a spelling.
func legacyPrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(withoutZeros(text))
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no prefix such as 10.0.0.0/16 or fd00::/64", text)
	case prefix.Addr().Is4In6() && prefix.Bits() < 96:
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4-mapped prefix that is not all IPv4; write it as IPv4", text)
	case prefix.Addr().Is4In6():
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// withoutZeros takes leading zeros out of an IPv4 prefix.
func withoutZeros(text string) string {
	addr, bits, ok := strings.Cut(text, "/")
	if !ok || strings.Contains(addr, ":") {
		return text
	}
	parts := strings.Split(addr, ".")
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return text
		}
		parts[i] = strconv.FormatUint(number, 10)
	}
	return strings.Join(parts, ".") + "/" + bits
}
