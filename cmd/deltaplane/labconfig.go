// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// configure passes on what a configuration file says to whom it concerns: explain and labs take the same file.
func configure(options *lab.Options, config explain.Config) {
	options.ServiceCIDRs = config.ServiceCIDRs
	compiler, programmer := &options.CompilerFlags, &options.ProgrammerFlags
	addPrefixes(compiler, "pod-cidrs", config.PodCIDRs)
	addPrefixes(compiler, "allow-external-ips", config.AllowExternalIPs)
	if config.Forwarding != state.ForwardDefault {
		*compiler = append(*compiler, "--forwarding="+config.Forwarding.String())
	}
	addPrefixes(programmer, "node-port-addresses", config.NodePortAddresses)
	if config.MasqueradeAll {
		*programmer = append(*programmer, "--masquerade-all")
	}
	if config.LocalhostNodePorts != nil {
		*programmer = append(*programmer, "--localhost-node-ports="+strconv.FormatBool(*config.LocalhostNodePorts))
	}
}

func addPrefixes(flags *[]string, name string, prefixes []netip.Prefix) {
	if len(prefixes) == 0 {
		return
	}
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	*flags = append(*flags, "--"+name+"="+strings.Join(texts, ","))
}
