// SPDX-License-Identifier: Apache-2.0

// Package nats holds the configuration of the bus's servers as it is deployed, so that labs, demos and tests run the
// same one.
package nats

import "embed"

// Folder is where the configuration expects itself; what `deltaplane trust init` makes for the bus is in trust below it.
const Folder = "/etc/nats"

// Files are cluster.conf, for a server of several, single.conf, for one alone, and what both include.
//
//go:embed *.conf
var Files embed.FS
