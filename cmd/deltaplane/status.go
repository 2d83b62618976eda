// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func newStatusCommand() *cobra.Command {
	var format outputFormat
	var from busFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far every node has come",
		Long: `status asks the leading compiler which revision the cluster is at, which nodes have it in their kernels, and what is
wrong; the leading watcher which objects it can't use and which deletions it holds back; the bus how its streams
stand; and it hears which replicas lead and which stand by. It exits with 3 if a node is behind or reports a fault, if
no watcher answers, if deletions are held back, if a rollback is held, if a stream is not well, or if nodes have other
tunnel ports or numbers than most, so that what they send each other for clients from outside is lost. A node that lacks
only what was committed in the last 2 seconds is updating, not behind; one whose Lease has expired and whose programmer
is silent is lost, and nobody waits for it.`,
		Example: `  deltaplane status
  deltaplane status -o wide
  deltaplane status -o json | jq '.nodes[] | select(.converged | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			replicas, err := hearReplicas(conn)
			if err != nil {
				return err
			}
			defer replicas.stop()
			s, err := readStatus(cmd.Context(), conn)
			if err != nil {
				return err
			}
			s.askWatcher(cmd.Context(), conn)
			s.askServer(cmd.Context(), conn)
			s.Replicas = replicas.wait(cmd.Context())
			out := cmd.OutOrStdout()
			view := statusView{clusterStatus: s, now: time.Now(), paint: paintFor(out), wide: format == formatWide}
			if err := format.print(out, s, func(w io.Writer) error { return view.write(w) }); err != nil {
				return err
			}
			if !s.Healthy {
				return exitStatus(exitNotHealthy)
			}
			return nil
		},
	}
	format.addFlag(cmd)
	from.add(cmd)
	return cmd
}

// clusterStatus is what -o json prints. Scripts read it.
type clusterStatus struct {
	Healthy   bool        `json:"healthy"`
	Leader    string      `json:"leader"`
	Epoch     uint64      `json:"epoch"`
	Revision  uint64      `json:"revision"`
	Committed *time.Time  `json:"committed"`
	Causes    []causeJSON `json:"causes"`
	Rows      uint64      `json:"rows"`
	// ChecksSeals says that the compiler uses only what a key that it trusts has sealed.
	ChecksSeals bool `json:"checksSeals"`
	// Converged is how many of NodesTotal hold the newest revision; Updating lack only what was committed in the last 2 s;
	// Lost have a Lease that expired, and nobody waits for them. The rest is behind.
	Converged        int     `json:"converged"`
	Updating         int     `json:"updating"`
	Lost             int     `json:"lost"`
	NodesTotal       int     `json:"nodesTotal"`
	LatencyP50Millis float64 `json:"latencyP50Millis"`
	LatencyP99Millis float64 `json:"latencyP99Millis"`
	// Nodes are all if a message has room for them, else those that are behind first.
	Nodes    []nodeStatus      `json:"nodes"`
	Maps     []fullestJSON     `json:"maps"`
	Drops    map[string]uint64 `json:"drops"`
	Replicas []replicaJSON     `json:"replicas"`
	Streams  []streamJSON      `json:"streams"`
	SetAside []setAsideJSON    `json:"setAside"`
	Held     *heldJSON         `json:"held"`
	Hold     *holdJSON         `json:"hold"` // of a rollback; null if changes are compiled
	Cluster  clusterJSON       `json:"cluster"`
	// Forwarding is how clients from outside get to backends on other nodes, of Services that don't say: tunnel, dsr or snat.
	Forwarding string      `json:"forwarding,omitempty"`
	External   betweenJSON `json:"external"`
	// WatcherProblem says why the watcher's part is missing; empty if it isn't.
	WatcherProblem string `json:"watcherProblem,omitempty"`

	streamFaults []*schemas.Fault // as the compiler told them
}

type nodeStatus struct {
	Node             string            `json:"node"`
	Converged        bool              `json:"converged"`
	State            string            `json:"state"` // converged, updating, behind or lost
	LackingSince     *time.Time        `json:"lackingSince,omitempty"`
	Drifted          bool              `json:"drifted,omitempty"`
	Behind           uint64            `json:"behind"`
	Reason           string            `json:"reason,omitempty"`
	Reported         *time.Time        `json:"reported"`
	MapsKind         string            `json:"mapsKind"`
	ChecksSeals      bool              `json:"checksSeals"`
	Positions        []positionJSON    `json:"positions"`
	LatencyP50Millis float64           `json:"latencyP50Millis"`
	LatencyP99Millis float64           `json:"latencyP99Millis"`
	Maps             []mapUseJSON      `json:"maps"`
	Faults           []faultJSON       `json:"faults"`
	Drops            map[string]uint64 `json:"drops"`
	External         *externalJSON     `json:"external"` // null if the node doesn't tell, as those with maps in memory
}

// externalJSON is how a node passes on what outside clients send.
type externalJSON struct {
	// Device is the interface by which packets go to other nodes and come from them, Port its UDP port.
	// VNI is the VXLAN network's number, 0 from programmers that don't tell it. Nodes with other ports or numbers don't
	// hear each other.
	Device string `json:"device,omitempty"`
	Port   uint32 `json:"port,omitempty"`
	VNI    uint32 `json:"vni,omitempty"`
	// Masqueraded says why clients' packets for backends on other nodes get this node's address whatever their Service
	// asks for; empty if they needn't.
	Masqueraded string       `json:"masqueraded,omitempty"`
	Uplinks     []uplinkJSON `json:"uplinks"`
	// MaglevSlots is how many slots a Maglev table has; nodes with other numbers pick other backends.
	MaglevSlots uint32 `json:"maglevSlots"`
}

// uplinkJSON is how an interface that clients come by stands with XDP.
type uplinkJSON struct {
	Interface string `json:"interface"`
	XDP       string `json:"xdp"`              // native, generic or off
	Reason    string `json:"reason,omitempty"` // why it is off, if it isn't meant to be
}

type positionJSON struct {
	Layer    string `json:"layer"`
	Epoch    uint64 `json:"epoch"`
	Revision uint64 `json:"revision"`
	Digest   string `json:"digest"`
}

type mapUseJSON struct {
	Name     string `json:"name"`
	Entries  uint64 `json:"entries"`
	Capacity uint64 `json:"capacity"`
}

// fullestJSON is how full a map is on the node where it is fullest.
type fullestJSON struct {
	mapUseJSON
	Node string `json:"node"`
}

type faultJSON struct {
	Kind     string     `json:"kind"`
	Text     string     `json:"text"`
	Since    *time.Time `json:"since"`
	Layer    string     `json:"layer,omitempty"`
	Revision uint64     `json:"revision,omitempty"`
}

type setAsideJSON struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Reason    string `json:"reason"`
}

type heldJSON struct {
	ID        string     `json:"id"`
	Deletions uint64     `json:"deletions"`
	Objects   uint64     `json:"objects"`
	Since     *time.Time `json:"since"`
}

type clusterJSON struct {
	PodCIDRs     []foundJSON `json:"podCIDRs"`
	ServiceCIDRs []foundJSON `json:"serviceCIDRs"`
	APIServers   []foundJSON `json:"apiServers"`
}

type foundJSON struct {
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

func readStatus(ctx context.Context, conn *bus.Conn) (*clusterStatus, error) {
	var s schemas.Status
	if err := ask(ctx, conn, schemas.SubjectStatus, "compiler", &schemas.StatusRequest{}, &s); err != nil {
		return nil, err
	}
	return statusFromProto(&s), nil
}

func statusFromProto(m *schemas.Status) *clusterStatus {
	s := &clusterStatus{
		Leader: m.GetLeader(), Epoch: m.GetEpoch(), Revision: m.GetRevision(), Committed: timeOf(m.GetCommitted()),
		Causes: causesFromProto(m.GetCauses()), Rows: m.GetRows(), ChecksSeals: m.GetChecksSeals(),
		Nodes:    convertAll(m.GetNodes(), nodeFromProto),
		SetAside: convertAll(m.GetSetAside(), setAsideFromProto),
		Cluster: clusterJSON{
			PodCIDRs:     convertAll(m.GetCluster().GetPodCidrs(), foundFromProto),
			ServiceCIDRs: convertAll(m.GetCluster().GetServiceCidrs(), foundFromProto),
			APIServers:   convertAll(m.GetCluster().GetApiServers(), foundFromProto),
		},
	}
	s.Converged, s.Updating = int(m.GetNodesConverged()), int(m.GetNodesUpdating())
	s.Lost, s.NodesTotal = int(m.GetNodesLost()), int(m.GetNodesTotal())
	s.LatencyP50Millis, s.LatencyP99Millis = millis(m.GetLatencyP50().AsDuration()), millis(m.GetLatencyP99().AsDuration())
	s.Maps = convertAll(m.GetMaps(), func(f *schemas.FullestMap) fullestJSON {
		return fullestJSON{mapUseFromProto(f.GetUse()), f.GetNode()}
	})
	if s.Drops = m.GetDrops(); s.Drops == nil {
		s.Drops = map[string]uint64{}
	}
	s.Held, s.streamFaults = heldFromProto(m.GetHeld()), m.GetStreams()
	s.Hold = holdFromProto(m.GetHold())
	s.Healthy = s.Held == nil && s.Hold == nil && s.behind() == 0
	for _, n := range s.Nodes {
		s.Healthy = s.Healthy && len(n.Faults) == 0
	}
	slices.SortFunc(s.Nodes, func(a, b nodeStatus) int { return strings.Compare(a.Node, b.Node) })
	s.Forwarding, s.External = m.GetForwarding(), between(s.Nodes)
	s.Healthy = s.Healthy && len(s.External.Deaf) == 0
	return s
}

// behind is how many nodes lack what they should have had for a while, and are waited for.
func (s *clusterStatus) behind() int { return s.NodesTotal - s.Converged - s.Updating - s.Lost }

// watcherWithin bounds the wait for the watcher, without which a status is still worth having.
const watcherWithin = 2 * time.Second

// askWatcher adds what the compiler can't know: objects that never became facts, and deletions held back. A request
// without an ID approves nothing.
func (s *clusterStatus) askWatcher(ctx context.Context, conn *bus.Conn) {
	ctx, cancel := context.WithTimeout(ctx, watcherWithin)
	defer cancel()
	var reply schemas.ApproveReply
	if err := ask(ctx, conn, schemas.SubjectApprove, "watcher", &schemas.ApproveRequest{}, &reply); err != nil {
		s.WatcherProblem, s.Healthy = err.Error(), false // what changes in the cluster comes to nobody
		return
	}
	for _, a := range reply.GetSetAside() {
		if aside := setAsideFromProto(a); !slices.Contains(s.SetAside, aside) {
			s.SetAside = append(s.SetAside, aside)
		}
	}
	if held := heldFromProto(reply.GetHeld()); held != nil {
		s.Held, s.Healthy = held, false
	}
}

func setAsideFromProto(m *schemas.SetAside) setAsideJSON {
	return setAsideJSON{m.GetObject().GetKind(), m.GetObject().GetNamespace(), m.GetObject().GetName(), m.GetReason()}
}

func heldFromProto(m *schemas.HeldDeletions) *heldJSON {
	if m == nil {
		return nil
	}
	return &heldJSON{m.GetId(), m.GetDeletions(), m.GetObjects(), timeOf(m.GetSince())}
}

func nodeFromProto(m *schemas.NodeStatus) nodeStatus {
	a := m.GetApplied()
	drops := a.GetDrops()
	if drops == nil {
		drops = map[string]uint64{}
	}
	return nodeStatus{
		Node: m.GetNode(), Converged: m.GetConverged(), State: standing(m), Drifted: m.GetDrifted(), LackingSince: timeOf(m.GetLackingSince()), Behind: m.GetBehind(), Reason: m.GetReason(),
		Reported: timeOf(a.GetSent()), MapsKind: a.GetMapsKind(), ChecksSeals: a.GetChecksSeals(), Positions: convertAll(a.GetPositions(), positionFromProto),
		LatencyP50Millis: millis(m.GetLatencyP50().AsDuration()), LatencyP99Millis: millis(m.GetLatencyP99().AsDuration()),
		Maps: convertAll(a.GetMaps(), mapUseFromProto), Drops: drops, External: externalFromProto(a.GetExternal()),
		Faults: convertAll(a.GetFaults(), func(f *schemas.Fault) faultJSON {
			return faultJSON{f.GetKind(), f.GetText(), timeOf(f.GetSince()), f.GetLayer(), f.GetRevision()}
		}),
	}
}

func externalFromProto(m *schemas.External) *externalJSON {
	if m == nil {
		return nil
	}
	uplinks := convertAll(m.GetUplinks(), func(u *schemas.Uplink) uplinkJSON { return uplinkJSON{u.GetInterface(), u.GetXdp(), u.GetReason()} })
	return &externalJSON{m.GetDevice(), m.GetPort(), m.GetVni(), m.GetMasqueraded(), uplinks, m.GetMaglevSlots()}
}

// standing is how a node stands in one word, as in the metric deltaplane_compiler_nodes.
func standing(m *schemas.NodeStatus) string {
	switch {
	case m.GetConverged():
		return "converged"
	case m.GetUpdating():
		return "updating"
	case m.GetLost():
		return "lost"
	}
	return "behind"
}

func positionFromProto(m *schemas.Position) positionJSON {
	digest, err := model.DigestOf(m.GetDigest())
	text := digest.String()
	if err != nil {
		text = ""
	}
	return positionJSON{m.GetLayer(), m.GetEpoch(), m.GetRevision(), text}
}

func mapUseFromProto(m *schemas.MapUse) mapUseJSON {
	return mapUseJSON{m.GetName(), m.GetEntries(), m.GetCapacity()}
}

func foundFromProto(m *schemas.Found) foundJSON { return foundJSON{m.GetValue(), m.GetOrigin()} }

// convertAll never returns nil, so that JSON has an empty list where there is nothing.
func convertAll[A, B any](list []A, convert func(A) B) []B {
	out := make([]B, 0, len(list))
	for _, a := range list {
		out = append(out, convert(a))
	}
	return out
}

func timeOf(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
