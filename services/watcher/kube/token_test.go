// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

var programmers = Reviewer{Namespace: "deltaplane-system", ServiceAccount: "programmer"}

// A token that says of itself that it isn't for us is refused without asking the API server.
func TestWhatATokenSaysOfItself(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, test := range []struct{ payload, want string }{
		{`{"aud":["deltaplane-bus"],"exp":1800000001,"sub":"system:serviceaccount:deltaplane-system:programmer","kubernetes.io":{"node":{"name":"n1","uid":"u1"}}}`, ""},
		{`{"aud":"deltaplane-bus","exp":1800000001,"sub":"system:serviceaccount:deltaplane-system:programmer","kubernetes.io":{"node":{"name":"n1","uid":"u1"}}}`, ""},
		{`{"aud":["kubernetes"],"exp":1800000001,"sub":"system:serviceaccount:deltaplane-system:programmer","kubernetes.io":{"node":{"name":"n1"}}}`, "not for deltaplane-bus"},
		{`{"aud":["deltaplane-bus"],"exp":1800000000,"sub":"system:serviceaccount:deltaplane-system:programmer","kubernetes.io":{"node":{"name":"n1"}}}`, "expired"},
		{`{"aud":["deltaplane-bus"],"exp":1800000001,"sub":"system:serviceaccount:default:default","kubernetes.io":{"node":{"name":"n1"}}}`, "default:default"},
		{`{"aud":["deltaplane-bus"],"exp":1800000001,"sub":"system:serviceaccount:deltaplane-system:programmer"}`, "names no node"},
		{`{"aud":{}}`, "no ServiceAccount token"},
		{`[]`, "no ServiceAccount token"},
		{"", "no ServiceAccount token"},
	} {
		got, err := programmers.Claimed("e30."+base64.RawURLEncoding.EncodeToString([]byte(test.payload))+".c2ln", now)
		if test.want == "" && (err != nil || got != Proof{"n1", "u1"}) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, %v, want %q", test.payload, got, err, test.want)
		}
	}
	for _, token := range []string{"", "x", "e30.!.x", strings.Repeat("a.", 1<<20)} {
		if _, err := programmers.Claimed(token, now); err == nil {
			t.Errorf("%.20q is taken for a token", token)
		}
	}
}

func TestWhatTheAPIServerSaysOfAToken(t *testing.T) {
	good := func() authenticationv1.TokenReviewStatus {
		return authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{TokenAudience}, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:deltaplane-system:programmer",
			Extra:    map[string]authenticationv1.ExtraValue{nodeClaim: {"n1"}, nodeUIDClaim: {"u1"}},
		}}
	}
	for _, test := range []struct {
		change func(*authenticationv1.TokenReviewStatus)
		want   string
	}{
		{func(*authenticationv1.TokenReviewStatus) {}, ""},
		{func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false }, "doesn't know it"},
		{func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"kubernetes"} }, "not for deltaplane-bus"},
		{func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" }, "it is of admin"},
		{func(s *authenticationv1.TokenReviewStatus) { delete(s.User.Extra, nodeClaim) }, "names no node"},
	} {
		status := good()
		test.change(&status)
		got, err := programmers.proof(status)
		if test.want == "" && (err != nil || got != Proof{"n1", "u1"}) || test.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v, %v, want %q", got, err, test.want)
		}
	}
}
