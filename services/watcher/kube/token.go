// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// What a programmer's token must be for, and what tells its node: the kubelet asks for it when it starts a pod, and the
// API server gives it to nobody but that pod's own node.
const (
	TokenAudience = "deltaplane-bus"
	nodeClaim     = "authentication.kubernetes.io/node-name"
)

// Reviewer asks the API server about tokens.
type Reviewer struct {
	Client kubernetes.Interface
	// Namespace and ServiceAccount are the programmers'.
	Namespace, ServiceAccount string
}

// Node returns the node whose programmer a token proves. An error says what is wrong with it.
func (r Reviewer) Node(ctx context.Context, token string) (string, error) {
	review, err := r.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the API server about a node's token: %w", err)
	}
	return r.node(review.Status)
}

func (r Reviewer) node(status authenticationv1.TokenReviewStatus) (string, error) {
	want := "system:serviceaccount:" + r.Namespace + ":" + r.ServiceAccount
	nodes := status.User.Extra[nodeClaim]
	switch {
	case !status.Authenticated:
		return "", fmt.Errorf("the API server doesn't know the token: %s", status.Error)
	case len(status.Audiences) != 1 || status.Audiences[0] != TokenAudience:
		return "", fmt.Errorf("the token is for %q, not for %s", status.Audiences, TokenAudience)
	case status.User.Username != want:
		return "", fmt.Errorf("the token is of %s, not of %s", status.User.Username, want)
	case len(nodes) != 1 || nodes[0] == "":
		return "", errors.New("the token names no node: that needs Kubernetes 1.30 or newer, and a token of a pod")
	}
	return nodes[0], nil
}
