// SPDX-License-Identifier: Apache-2.0

// Package shop has a small cluster of plain Kubernetes YAML, to see deltaplane at work without any of one's own: TCP
// and UDP, IPv4 and IPv6, a client on every node, and a Service that nobody serves.
package shop

import (
	_ "embed"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

// YAML is the shop as a person would write it.
//
//go:embed shop.yaml
var YAML []byte

// Objects decodes the shop.
func Objects() *manifest.Objects { return manifest.Decode("shop.yaml", YAML) }
