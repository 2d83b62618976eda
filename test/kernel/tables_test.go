// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// world makes tables that meet packets often: few addresses, few ports, every choice from choose. It is one node,
// seen with the rows of the cluster and its own.
type world struct {
	choose   func(int) int
	vips     []netip.Addr
	servers  []netip.Addr // where backends are
	here     []netip.Addr // those of them, and of the clients, that are on the node
	of       []model.Protocol
	anyone   bool // no Service has source ranges
	services []service
	ids      map[model.BackendKey]model.BackendID
	changed  string
	rules    *rules  // nil without policies
	region   *region // of which it is one node; nil if it is alone

	cluster, node *model.Tables
}

// service is one port of a Service in one family, with all its frontends.
type service struct {
	number        int // its sets' ids follow from it
	vip           netip.Addr
	port          uint16
	protocol      model.Protocol
	nodePort      uint16     // 0 for none
	external      netip.Addr // an external IP; not valid for none
	balancer      netip.Addr // a load balancer's; not valid for none
	internalLocal bool
	externalLocal bool
	ranges        []netip.Prefix
	affinity      uint32
	hints         model.SetFlags // what its endpoints have hints for
	forward       model.FrontendFlags
	backends      []backend
	deleted       bool
}

type backend struct {
	at    netip.AddrPort
	state condition
	zone  string // the hint
	mine  bool   // the hint is for this node
}

type condition int

const (
	ready condition = iota
	serving
	finishing // terminates and doesn't serve: kept for its connections
)

// The addresses and ports that all worlds are of.
var (
	vips       = parseAddrs("10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1", "fd00:96::2")
	externals  = parseAddrs("203.0.113.1", "203.0.113.2", "2001:db8:113::1")
	pods       = parseAddrs("10.244.1.2", "10.244.1.3", "fd00:1::2", "fd00:1::3")
	elsewhere  = parseAddrs("10.244.2.4", "10.244.2.5", "fd00:2::4")
	nodes      = parseAddrs("172.20.0.2", "172.21.0.2", "fd00:20::2") // this one's; the second serves no NodePorts
	outsiders  = parseAddrs("192.0.2.7", "198.51.100.7", "2001:db8::7")
	servers    = slices.Concat(pods[1:2], pods[3:], elsewhere, nodes[:1])
	dialled    = []uint16{80, 53}
	nodePorts  = []uint16{30080, 30053}
	served     = []uint16{80, 8080}
	protocols  = []model.Protocol{model.TCP, model.TCP, model.UDP, model.UDP, model.SCTP}
	maxSetsIn  = 8
	setsEach   = 5
	affinities = []uint32{0, 0, 0, 10, 86400}
)

// uplinkA and uplinkB are the interfaces that packets from elsewhere come by, as the programs are told.
const uplinkA, uplinkB = 1, 1000

func surroundings(masqueradeAll bool) refmodel.Surroundings {
	return refmodel.Surroundings{
		Locals: map[netip.Addr]refmodel.LocalFlags{
			nodes[0]: refmodel.LocalNodePort, nodes[1]: 0, nodes[2]: refmodel.LocalNodePort,
			netip.MustParseAddr("127.0.0.1"): refmodel.LocalNodePort | refmodel.LocalLoopback,
			netip.IPv6Loopback():             refmodel.LocalNodePort | refmodel.LocalLoopback,
		},
		Uplinks:       map[int][]netip.Addr{refmodel.UplinkAny: {nodes[0], nodes[2]}, uplinkA: {nodes[0], nodes[2]}},
		MasqueradeAll: masqueradeAll,
	}
}

func parseAddrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func newWorld(choose func(int) int) *world {
	return &world{
		choose: choose, vips: vips, servers: servers, here: pods, of: protocols,
		cluster: model.NewTables(), node: model.NewTables(), ids: map[model.BackendKey]model.BackendID{},
	}
}

func one[T any](w *world, from []T) T { return from[w.choose(len(from))] }

// likely is true in all but one of n cases.
func (w *world) likely(n int) bool { return w.choose(n) != n-1 }

func (w *world) ofFamily(like netip.Addr, from []netip.Addr) netip.Addr {
	var same []netip.Addr
	for _, a := range from {
		if a.Is4() == like.Is4() {
			same = append(same, a)
		}
	}
	return one(w, same)
}

// change changes one thing, or at first makes several Services.
func (w *world) change() {
	if len(w.services) == 0 {
		for range 4 {
			w.addService()
		}
		w.changed = "they begin"
		w.compile()
		return
	}
	s := &w.services[w.choose(len(w.services))]
	switch w.choose(9) {
	case 0:
		w.addService()
		w.changed = "a Service is added"
	case 1:
		s.deleted = true
		w.changed = fmt.Sprintf("service %d is deleted", s.number)
	case 2:
		s.vip = w.ofFamily(s.vip, w.vips)
		w.changed = fmt.Sprintf("service %d moves to %s", s.number, s.vip)
	case 3, 4:
		w.changed = fmt.Sprintf("service %d gets a backend", s.number)
		w.addBackend(s)
	case 5:
		w.changed = fmt.Sprintf("service %d gets other policies", s.number)
		w.policies(s)
	default:
		w.changeBackend(s)
	}
	w.compile()
}

func (w *world) addService() {
	if len(w.services) >= maxSetsIn {
		w.services = w.services[1:]
	}
	number := 1
	for _, s := range w.services {
		number = max(number, s.number+1)
	}
	s := service{number: number, vip: one(w, w.vips), port: one(w, dialled), protocol: one(w, w.of)}
	w.policies(&s)
	for range w.choose(4) {
		w.addBackend(&s)
	}
	w.services = append(w.services, s)
}

// policies gives a Service what else it may have; most have little.
func (w *world) policies(s *service) {
	s.nodePort, s.external, s.balancer, s.ranges, s.hints = 0, netip.Addr{}, netip.Addr{}, nil, 0
	if w.choose(2) == 0 {
		s.nodePort = one(w, nodePorts)
	}
	if w.choose(4) == 0 {
		s.external = w.ofFamily(s.vip, externals)
	}
	if w.choose(4) == 0 {
		s.balancer = w.ofFamily(s.vip, externals)
	}
	s.internalLocal, s.externalLocal = w.choose(4) == 0, w.choose(4) == 0
	if w.choose(4) == 0 && !w.anyone {
		a := w.ofFamily(s.vip, slices.Concat(outsiders, pods))
		s.ranges = []netip.Prefix{netip.PrefixFrom(a, one(w, []int{a.BitLen(), a.BitLen() - 8})).Masked()}
	}
	s.affinity = one(w, affinities)
	s.hints = one(w, []model.SetFlags{0, 0, model.ZoneHints, model.NodeHints, model.NodeHints | model.ZoneHints})
	if w.region != nil {
		w.expose(s)
	}
}

// expose lets clients from outside get to a Service of a region.
func (w *world) expose(s *service) {
	s.forward = one(w, []model.FrontendFlags{model.ForwardTunnel, model.ForwardTunnel, model.ForwardDSR, 0})
	if s.nodePort == 0 && !s.external.IsValid() && !s.balancer.IsValid() {
		s.nodePort = one(w, nodePorts)
	}
	w.addBackend(s)
}

func (w *world) addBackend(s *service) {
	at := netip.AddrPortFrom(w.ofFamily(s.vip, w.servers), one(w, served))
	if !slices.ContainsFunc(s.backends, func(b backend) bool { return b.at == at }) {
		s.backends = append(s.backends, backend{at: at, zone: one(w, []string{"here", "here", "there"}), mine: w.choose(2) == 0})
	}
}

func (w *world) changeBackend(s *service) {
	if len(s.backends) == 0 {
		return
	}
	i := w.choose(len(s.backends))
	if w.choose(2) == 0 {
		w.changed = fmt.Sprintf("service %d loses %s", s.number, s.backends[i].at)
		s.backends = slices.Delete(s.backends, i, i+1)
		return
	}
	b := &s.backends[i]
	b.state = condition(w.choose(3))
	w.changed = fmt.Sprintf("%s of service %d is now %s", b.at, s.number, []string{"ready", "serving", "finishing"}[b.state])
}

// isHere says that an address is this node's, or of a pod on it.
func (w *world) isHere(a netip.Addr) bool {
	return slices.Contains(w.here, a) || slices.Contains(w.own(), a)
}

// own are the node's addresses.
func (w *world) own() []netip.Addr {
	if w.region != nil {
		return w.region.at.own
	}
	return nodes
}

// compile makes the tables as the compiler would. Where two Services claim an address the earlier one has it.
func (w *world) compile() {
	w.cluster, w.node = model.NewTables(), model.NewTables()
	for _, n := range []model.Network{
		{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Kind: model.NetworkServices},
		{Prefix: netip.MustParsePrefix("fd00:96::/112"), Kind: model.NetworkServices},
		{Prefix: netip.MustParsePrefix("10.244.0.0/16"), Kind: model.NetworkPods},
		{Prefix: netip.MustParsePrefix("fd00:2::/64"), Kind: model.NetworkPods},
		{Prefix: netip.MustParsePrefix("fd00:1::/64"), Kind: model.NetworkPods},
	} {
		w.cluster.Networks[n.Prefix] = n
	}
	w.node.Selves[model.SelfKey{}] = model.Self{Zone: "here"}
	for _, a := range w.here {
		w.node.Endpoints[a] = model.Endpoint{Addr: a, Pod: "test/" + strings.ReplaceAll(a.String(), ":", "-")}
	}
	if w.rules != nil {
		w.rules.compile(w.node)
	}
	if w.region != nil {
		w.region.compile(w.cluster)
	}
	for _, s := range w.services {
		if !s.deleted {
			w.compileService(s.withoutIdle())
		}
	}
}

// withoutIdle leaves out backends that have nothing left to do: only TCP and SCTP have connections to finish.
func (s service) withoutIdle() service {
	s.backends = slices.DeleteFunc(slices.Clone(s.backends), func(b backend) bool { return b.state == finishing && s.protocol == model.UDP })
	return s
}

func (s service) root() model.SetID { return model.SetID(s.number*setsEach - setsEach + 1) }

func (w *world) compileService(s service) {
	root := s.root()
	front := func(addr netip.Addr, port uint16, match model.Match, kind model.FrontendKind, flags model.FrontendFlags) {
		key := model.FrontendKey{Addr: addr, Port: port, Protocol: s.protocol, Match: match}
		if _, taken := w.cluster.Frontends[key]; !taken && addr.IsValid() {
			w.cluster.Frontends[key] = model.Frontend{FrontendKey: key, Set: root, Kind: kind, Flags: flags}
		}
	}
	var internal, external, balancer model.FrontendFlags
	if s.internalLocal {
		internal = model.InternalLocal
	}
	if s.externalLocal {
		external = model.ExternalLocal
	} else {
		external = s.forward
	}
	if balancer = external; len(s.ranges) > 0 {
		balancer |= model.SourceRanges
	}
	front(s.vip, s.port, model.MatchAddress, model.FrontendClusterIP, internal)
	if s.nodePort != 0 {
		front(unspecified(s.vip), s.nodePort, model.MatchNodePort, model.FrontendNodePort, external)
	}
	front(s.external, s.port, model.MatchAddress, model.FrontendExternalIP, external)
	front(s.balancer, s.port, model.MatchAddress, model.FrontendLoadBalancer, balancer)
	refused := model.FrontendKey{Addr: s.vip}
	w.cluster.Frontends[refused] = model.Frontend{FrontendKey: refused, Kind: model.FrontendRefused}
	for _, p := range s.ranges {
		row := model.SourceRange{Set: root, Prefix: p}
		w.cluster.SourceRanges[row] = row
	}
	w.compileSets(s)
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// compileSets makes the root and its parts.
func (w *world) compileSets(s service) {
	root, flags := s.root(), model.SetFlags(0)
	members := usable(s.backends)
	if len(members) > 0 && members[0].state != ready {
		flags = model.Fallback
	} else if len(members) > 0 {
		flags = s.hints
	}
	shared := model.SetFlags(0)
	if w.region != nil && !s.externalLocal && (s.nodePort != 0 || s.external.IsValid() || s.balancer.IsValid()) {
		shared = model.External
	}
	flags |= shared
	w.compileSet(w.cluster, s, root, model.ScopeAll, 0, flags, members)
	for _, b := range s.backends {
		w.compileBackend(w.cluster, root, b, 0)
	}
	if flags&model.ZoneHints != 0 {
		for i, zone := range []string{"here", "there"} {
			in := slices.DeleteFunc(slices.Clone(members), func(b backend) bool { return b.zone != zone })
			w.compileSet(w.cluster, s, root+1+model.SetID(i), model.ScopeZone, model.PlaceOf(zone), shared, in)
		}
	}
	if flags&model.NodeHints != 0 {
		mine := slices.DeleteFunc(slices.Clone(members), func(b backend) bool { return !b.mine })
		w.compileSet(w.node, s, root+3, model.ScopeNode, place, 0, mine)
	}
	if s.internalLocal || s.externalLocal {
		local := usable(slices.DeleteFunc(slices.Clone(s.backends), func(b backend) bool { return !w.isHere(b.at.Addr()) }))
		var flags model.SetFlags
		if len(local) > 0 && local[0].state != ready {
			flags = model.Fallback
		}
		w.compileSet(w.node, s, root+4, model.ScopeLocal, place, flags, local)
	}
}

// place is the node's.
var place = model.PlaceOf("node")

// usable returns the ready ones, else those that serve while they terminate (topology.go, CategorizeEndpoints).
func usable(of []backend) []backend {
	for _, least := range []condition{ready, serving} {
		if some := slices.DeleteFunc(slices.Clone(of), func(b backend) bool { return b.state != least }); len(some) > 0 {
			return some
		}
	}
	return nil
}

// compileSet makes a set with its members, and the view that leads to a part; a part without members is left out.
func (w *world) compileSet(t *model.Tables, s service, id model.SetID, scope model.Scope, at model.Place, flags model.SetFlags, members []backend) {
	if id != s.root() {
		if len(members) == 0 {
			return
		}
		key := model.ViewKey{Set: s.root(), Scope: scope}
		if scope == model.ScopeZone {
			key.Place = at
		}
		t.Views[key] = model.View{ViewKey: key, Target: id}
	}
	t.Sets[id] = model.BackendSet{
		ID: id, Root: s.root(), Flags: flags, Affinity: s.affinity,
		SetKey: model.SetKey{
			Service: model.ServicePort{Namespace: "test", Name: fmt.Sprintf("service-%d", s.number), Port: s.port, Protocol: s.protocol},
			Family:  model.FamilyOf(s.vip), Scope: scope, Place: at,
		},
	}
	of := at
	if t == w.cluster {
		of = 0
	}
	for _, b := range members {
		m := model.Member{Set: id, Backend: w.compileBackend(t, s.root(), b, of)}
		t.Members[m] = m
	}
}

func (w *world) compileBackend(t *model.Tables, root model.SetID, b backend, at model.Place) model.BackendID {
	key := model.BackendKey{Set: root, Addr: b.at.Addr(), Port: b.at.Port(), Place: at}
	if w.ids[key] == 0 {
		w.ids[key] = model.BackendID(len(w.ids) + 1)
	}
	row := model.Backend{ID: w.ids[key], BackendKey: key, State: model.BackendActive}
	if w.region != nil {
		row.Node = w.region.placed[b.at.Addr()]
	}
	if at != 0 {
		key.Place = 0
		row.Twin = w.ids[key] // 0 for a hostPort
	}
	if b.state != ready {
		row.State = model.BackendTerminating
	}
	t.Backends[row.ID] = row
	return row.ID
}

// model returns the reference model's node.
func (w *world) model(s refmodel.Surroundings) *refmodel.Node {
	return refmodel.New(refmodel.NewLayer(w.cluster.Clone()), refmodel.NewLayer(w.node.Clone())).In(s)
}

// String writes the tables for people.
func (w *world) String() string {
	var lines []string
	for _, t := range []*model.Tables{w.cluster, w.node} {
		for _, f := range t.Frontends {
			lines = append(lines, fmt.Sprintf("  frontend %s → set %d, flags %d", f.FrontendKey, f.Set, f.Flags))
		}
		for _, v := range t.Views {
			lines = append(lines, fmt.Sprintf("  view of set %d, scope %d → set %d", v.Set, v.Scope, v.Target))
		}
		for _, s := range t.Sets {
			lines = append(lines, fmt.Sprintf("  set %3d of %d: flags %d, affinity %d s", s.ID, s.Root, s.Flags, s.Affinity))
		}
		for _, b := range t.Backends {
			var in []string
			for m := range t.Members {
				if m.Backend == b.ID {
					in = append(in, fmt.Sprint(m.Set))
				}
			}
			slices.Sort(in)
			lines = append(lines, fmt.Sprintf("  set %3d, backend %d: %s, state %d, in sets %s", b.Set, b.ID, refmodel.AddrPort(b), b.State, cmp.Or(strings.Join(in, " "), "none")))
		}
		lines = append(lines, policyLines(t)...)
		for r := range t.SourceRanges {
			lines = append(lines, fmt.Sprintf("  set %3d takes %s", r.Set, r.Prefix))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
