// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"sync"
	"testing"

	"k8s.io/client-go/informers"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
)

// endpointsPerSlice is the controller manager's default.
const endpointsPerSlice = 100

// SliceController runs Kubernetes' own endpointslice controller until the test ends: the slices are those that a real
// cluster would have.
func (c *Cluster) SliceController(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	factory := informers.NewSharedInformerFactory(c.Client, 0)
	core := factory.Core().V1()
	controller := endpointslice.NewController(ctx, core.Pods(), core.Services(), core.Nodes(), factory.Discovery().V1().EndpointSlices(),
		endpointsPerSlice, c.Client, 0)
	factory.Start(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() { controller.Run(ctx, 2) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		factory.Shutdown()
	})
}
