// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// What a programmer's token must be for, and what tells its node: the kubelet asks for it when it starts a pod, and the
// API server gives it to nobody but that pod's own node.
const (
	TokenAudience = "deltaplane-bus"
	nodeClaim     = "authentication.kubernetes.io/node-name"
	nodeUIDClaim  = "authentication.kubernetes.io/node-uid"
)

// maxToken bounds the bytes of a token; those of Kubernetes have some 1,200.
const maxToken = 16 << 10

// ErrRefused is the API server's verdict that a token isn't what it should be.
var ErrRefused = errors.New("the token is refused")

// Proof is the Node that a token is of. The UID may be missing.
type Proof struct{ Node, NodeUID string }

// Reviewer asks the API server about tokens.
type Reviewer struct {
	Client kubernetes.Interface
	// Namespace and ServiceAccount are the programmers'.
	Namespace, ServiceAccount string
}

// claims are those of a token that are looked at before the API server is asked (KEP-1205, KEP-4193).
type claims struct {
	Subject    string   `json:"sub"`
	Audience   audience `json:"aud"`
	Expires    float64  `json:"exp"` // seconds since 1970
	Kubernetes struct {
		Node struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"node"`
	} `json:"kubernetes.io"`
}

// audience is one string or a list of them (RFC 7519, 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// Claimed returns what a token says of itself. Nothing of it is proven: anyone can write such a token. An error says why
// the API server needn't be asked.
func (r Reviewer) Claimed(token string, now time.Time) (Proof, error) {
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return Proof{}, fmt.Errorf("what is shown, %d bytes, is no ServiceAccount token", len(token))
	}
	var c claims
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	switch {
	case err != nil:
		return Proof{}, fmt.Errorf("what is shown is no ServiceAccount token: %w", err)
	case !slices.Contains(c.Audience, TokenAudience):
		return Proof{}, fmt.Errorf("the token is for %.64q, not for %s", c.Audience, TokenAudience)
	case c.Subject != r.account():
		return Proof{}, fmt.Errorf("the token is of %.64q, not of %s", c.Subject, r.account())
	case float64(now.Unix()) >= c.Expires:
		return Proof{}, errors.New("the token has expired")
	case c.Kubernetes.Node.Name == "":
		return Proof{}, errNoNode
	}
	return Proof{c.Kubernetes.Node.Name, c.Kubernetes.Node.UID}, nil
}

func (r Reviewer) account() string {
	return "system:serviceaccount:" + r.Namespace + ":" + r.ServiceAccount
}

var errNoNode = fmt.Errorf("%w: it names no node: that needs Kubernetes 1.30 or newer, and a token of a pod", ErrRefused)

// Review returns the node whose programmer a token proves. ErrRefused is the API server's verdict; any other error says
// that there is none.
func (r Reviewer) Review(ctx context.Context, token string) (Proof, error) {
	review, err := r.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return Proof{}, fmt.Errorf("ask the API server about a node's token: %w", err)
	}
	return r.proof(review.Status)
}

func (r Reviewer) proof(status authenticationv1.TokenReviewStatus) (Proof, error) {
	nodes, uids := status.User.Extra[nodeClaim], status.User.Extra[nodeUIDClaim]
	switch {
	case !status.Authenticated:
		return Proof{}, fmt.Errorf("%w: the API server doesn't know it: %s", ErrRefused, status.Error)
	case len(status.Audiences) != 1 || status.Audiences[0] != TokenAudience:
		return Proof{}, fmt.Errorf("%w: it is for %q, not for %s", ErrRefused, status.Audiences, TokenAudience)
	case status.User.Username != r.account():
		return Proof{}, fmt.Errorf("%w: it is of %s, not of %s", ErrRefused, status.User.Username, r.account())
	case len(nodes) != 1 || nodes[0] == "":
		return Proof{}, errNoNode
	}
	p := Proof{Node: nodes[0]}
	if len(uids) == 1 {
		p.NodeUID = uids[0]
	}
	return p, nil
}
