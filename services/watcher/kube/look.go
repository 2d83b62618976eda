// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// Look asks the API server for an object as it is now: the newest version, not what is cached anywhere. There is no
// asking for all objects: without a kind what was told so far has to do.
func (s *Source) Look(ctx context.Context, ref *schemas.ObjectRef) (core.Sighting, error) {
	if ref.GetKind() == "" {
		return core.Sighting{}, nil
	}
	for _, k := range append(s.kinds(), s.clusterNetworkPolicies().kind) {
		if k.name != ref.GetKind() {
			continue
		}
		object, err := k.get(ctx, ref.GetNamespace(), ref.GetName())
		if apierrors.IsNotFound(err) {
			return core.Sighting{Gone: true}, nil
		}
		if err != nil {
			return core.Sighting{}, err
		}
		return core.Sighting{Version: object.GetResourceVersion()}, nil
	}
	return core.Sighting{}, fmt.Errorf("%s is no kind that is watched", ref.GetKind())
}
