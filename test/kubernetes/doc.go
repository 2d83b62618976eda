// SPDX-License-Identifier: Apache-2.0

// Package kubernetes tests the pipeline against a real kube-apiserver with a real etcd, both in this process. It
// is a module of its own, outside go.work, because the API server brings 2,200 packages: nothing else in the
// repository should wait for them. Run it with `make test-kubernetes`.
//
// A test starts its own Cluster, in about four seconds. Services run as the binaries that `make build` made, each
// with the credential that deploy/manifests gives it, so that a missing RBAC rule fails here first.
package kubernetes
