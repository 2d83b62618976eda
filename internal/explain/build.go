// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// FromFiles builds the world that files and directories of Kubernetes YAML describe, with the watcher's and the
// compiler's own code. What can't be used is left out and told in warnings, a sentence each.
func FromFiles(paths []string, config Config) (w *World, warnings []string, err error) {
	loaded, err := manifest.Load(paths)
	if err != nil {
		return nil, nil, err
	}
	expanded, err := manifest.Expand(loaded, manifest.Options{ServiceCIDRs: config.ServiceCIDRs})
	if err != nil {
		return nil, nil, err
	}
	for _, aside := range expanded.SetAside {
		warnings = append(warnings, "set aside: "+aside.Error())
	}
	var facts []*schemas.Fact
	for object := range expanded.Watched() {
		fact, err := convert.Fact(object)
		if err != nil {
			warnings = append(warnings, "set aside: "+err.Error())
			continue
		}
		facts = append(facts, fact)
	}
	if cluster := convert.Cluster(expanded.ServiceCIDRs); cluster != nil {
		facts = append(facts, cluster)
	}
	w, more, err := FromFacts(facts, config)
	return w, append(warnings, more...), err
}

// FromFacts compiles facts as the compiler would at its start.
func FromFacts(facts []*schemas.Fact, config Config) (w *World, warnings []string, err error) {
	db := state.New()
	complete := &schemas.Fact{
		Object:      &schemas.ObjectRef{Kind: state.KindComplete, Name: "explain"},
		TriggerTime: timestamppb.Now(),
		State:       &schemas.Fact_Complete{Complete: &schemas.Complete{Source: "explain", Objects: uint64(len(facts))}},
	}
	if _, err := db.Apply(append(slices.Clone(facts), complete)...); err != nil {
		return nil, nil, fmt.Errorf("compile the objects: %w", err)
	}
	output := compile.Full(db.Snapshot(), ids.New(0), compile.Settings{
		AllowExternalIPs: config.AllowExternalIPs, Forwarding: config.Forwarding, PodCIDRs: config.PodCIDRs, ServiceCIDRs: config.ServiceCIDRs,
	})
	assumeServiceNetworks(output.Layers[model.ClusterLayer])
	for _, aside := range output.SetAside {
		warnings = append(warnings, "set aside: "+objectTitle(aside.Object)+": "+aside.Reason)
	}
	w = NewWorld(facts, output.Layers, config)
	w.policies = policy.New(facts, output.Refused)
	return w, warnings, nil
}

// assumeServiceNetworks takes each cluster IP for a network of its own where nothing tells the Services' prefixes: its
// other ports are refused, and no other address is taken for a Service's.
func assumeServiceNetworks(rows *model.Tables) {
	for _, n := range rows.Networks {
		if n.Kind == model.NetworkServices {
			return
		}
	}
	for key, f := range rows.Frontends {
		if f.Kind == model.FrontendRefused {
			own := netip.PrefixFrom(key.Addr, key.Addr.BitLen())
			rows.Networks[own] = model.Network{Prefix: own, Kind: model.NetworkServices}
		}
	}
}

func objectTitle(ref *schemas.ObjectRef) string { return ref.GetKind() + " " + objectName(ref) }

// Rows returns the rows of one node, for those who want to see them.
func (w *World) Rows(node string) (*model.Tables, error) {
	if !slices.Contains(w.Nodes(), node) {
		return nil, errors.New("there is no node " + quoted(node))
	}
	return w.tables(node), nil
}
