// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
)

func TestAConfigurationReachesTheServices(t *testing.T) {
	t.Parallel()
	config, err := explain.ParseConfig([]byte(`
podCIDRs: [10.244.0.0/16, "fd00:10:244::/48"]
serviceCIDRs: [10.96.0.0/16]
allowExternalIPs: [192.0.2.0/24]
nodePortAddresses: [172.30.0.0/16]
masqueradeAll: true
localhostNodePorts: false
forwarding: dsr
`))
	if err != nil {
		t.Fatal(err)
	}
	var got lab.Options
	configure(&got, config)
	if diff := cmp.Diff([]string{"--pod-cidrs=10.244.0.0/16,fd00:10:244::/48", "--allow-external-ips=192.0.2.0/24", "--forwarding=dsr"}, got.CompilerFlags); diff != "" {
		t.Errorf("compiler (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"--node-port-addresses=172.30.0.0/16", "--masquerade-all", "--localhost-node-ports=false"}, got.ProgrammerFlags); diff != "" {
		t.Errorf("programmer (-want +got):\n%s", diff)
	}
	if len(got.ServiceCIDRs) != 1 || got.ServiceCIDRs[0] != netip.MustParsePrefix("10.96.0.0/16") {
		t.Errorf("service CIDRs %v", got.ServiceCIDRs)
	}
	var none lab.Options
	if configure(&none, explain.Config{}); len(none.CompilerFlags)+len(none.ProgrammerFlags) > 0 {
		t.Errorf("without a file: %v %v", none.CompilerFlags, none.ProgrammerFlags)
	}
}
