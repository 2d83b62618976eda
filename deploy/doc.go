// SPDX-License-Identifier: Apache-2.0

// Package deploy tests what people deploy: the manifests of a cluster, the bus' configuration, the images and the
// compose file. It has no code but its tests. The manifests also go to a real API server, in test/kubernetes.
package deploy
