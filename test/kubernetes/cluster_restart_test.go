// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The other tests stand on this: what was there before an API server's restart is there after it.
func TestAPIServerKeepsObjectsOverARestart(t *testing.T) {
	cluster := NewCluster(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if _, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Stop()
	cluster.Compact(t)
	cluster.Start(t)
	if _, err := cluster.Client.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{}); err != nil {
		t.Fatalf("the namespace is not there after the restart: %v", err)
	}
}
