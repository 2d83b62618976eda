// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/deltaplane/deltaplane/schemas"
)

// KindCluster is the kind of the one fact about the cluster as a whole.
const KindCluster = "Cluster"

// Cluster returns the fact about the cluster that ServiceCIDR objects make, each prefix with the object it is from;
// nil if they name none.
func Cluster(ranges []*networkingv1.ServiceCIDR) *schemas.Fact {
	var found []*schemas.Found
	for _, object := range ranges {
		for _, text := range object.Spec.CIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				found = append(found, &schemas.Found{Value: prefix.Masked().String(), Origin: "ServiceCIDR " + object.Name + ", spec.cidrs"})
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return ClusterFact(&schemas.Cluster{ServiceCidrs: found})
}

// ClusterFact returns the fact that says what was found out about the cluster.
func ClusterFact(cluster *schemas.Cluster) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: KindCluster, Name: "cluster"},
		State:  &schemas.Fact_Cluster{Cluster: cluster},
	}
}
