// SPDX-License-Identifier: Apache-2.0

package kernelnode

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestRowsDecideUntilReset(t *testing.T) {
	testkit.NeedKernel(t)
	n, err := New(16, false)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	vip := netip.MustParseAddrPort("10.96.0.10:80")
	key := model.FrontendKey{Addr: vip.Addr(), Port: vip.Port(), Protocol: model.TCP}
	rows := model.NewTables()
	rows.Frontends[key] = model.Frontend{FrontendKey: key, Set: 1, Kind: model.FrontendClusterIP}
	rows.Sets[1] = model.BackendSet{ID: 1, Root: 1, SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: "shop", Name: "cart", Port: 80, Protocol: model.TCP}, Family: model.IPv4, Scope: model.ScopeAll,
	}}
	syn := refmodel.FirstPacket(model.TCP, netip.MustParseAddrPort("10.244.1.2:40000"), vip)
	for i, step := range []struct {
		do    func() error
		want  bpf.Verdict
		found bool
	}{
		{func() error { return nil }, bpf.Pass, false},
		{func() error { return n.Set(model.LayerCluster, rows) }, bpf.Refuse, true},
		{n.Forget, bpf.Refuse, true},
		{n.Reset, bpf.Pass, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		got, _, err := n.FromPod(syn)
		if err != nil || got != step.want {
			t.Errorf("step %d: a SYN to the Service: %s (%v), want %s", i, got, err, step.want)
		}
		rows, err := n.Rows(model.LayerCluster)
		if _, found := rows.Frontends[key]; err != nil || found != step.found {
			t.Errorf("step %d: the frontend is in the map: %v (%v), want %v", i, found, err, step.found)
		}
	}
}
