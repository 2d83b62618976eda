// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// world makes tables and packets that meet each other often: few addresses, few ports, every choice from choose.
type world struct {
	choose   func(int) int
	vips     []netip.Addr
	servers  []netip.Addr
	of       []model.Protocol
	tables   *model.Tables
	services []service
	ids      map[model.BackendKey]model.BackendID
	changed  string
	recent   []sent
}

// service is one set with its frontend.
type service struct {
	id       model.SetID
	vip      netip.Addr
	port     uint16
	protocol model.Protocol
	backends []backend
	deleted  bool
}

type backend struct {
	at          netip.AddrPort
	terminating bool
	member      bool
}

// sent is a packet that was sent of late: its like, and its answers, are the likeliest to find a bug.
type sent struct {
	protocol    model.Protocol
	source, dst netip.AddrPort
	sequence    uint32
}

var (
	vips       = parseAddrs("10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1", "fd00:96::2")
	pods       = parseAddrs("10.244.1.2", "10.244.1.3", "fd00:1::2", "fd00:1::3")
	servers    = parseAddrs("10.244.1.3", "10.244.2.4", "10.244.2.5", "fd00:1::3", "fd00:2::4")
	dialled    = []uint16{80, 53}
	served     = []uint16{80, 8080}
	clients    = []uint16{40000, 40001}
	protocols  = []model.Protocol{model.TCP, model.TCP, model.UDP, model.UDP, model.SCTP}
	maxSetsIn  = 8
	recentKept = 12
)

func parseAddrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func newWorld(choose func(int) int) *world {
	return &world{
		choose: choose, vips: vips, servers: servers, of: protocols,
		tables: model.NewTables(), ids: map[model.BackendKey]model.BackendID{},
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
	switch w.choose(7) {
	case 0:
		w.addService()
		w.changed = "a Service is added"
	case 1:
		s.deleted = true
		w.changed = fmt.Sprintf("set %d is deleted", s.id)
	case 2:
		s.vip = w.ofFamily(s.vip, w.vips)
		w.changed = fmt.Sprintf("set %d moves to %s", s.id, s.vip)
	case 3, 4:
		w.changed = fmt.Sprintf("set %d gets a backend", s.id)
		w.addBackend(s)
	default:
		w.changeBackend(s)
	}
	w.compile()
}

func (w *world) addService() {
	if len(w.services) >= maxSetsIn {
		w.services = w.services[1:]
	}
	id := model.SetID(1)
	for _, s := range w.services {
		id = max(id, s.id+1)
	}
	s := service{id: id, vip: one(w, w.vips), port: one(w, dialled), protocol: one(w, w.of)}
	for range w.choose(4) {
		w.addBackend(&s)
	}
	w.services = append(w.services, s)
}

func (w *world) addBackend(s *service) {
	at := netip.AddrPortFrom(w.ofFamily(s.vip, w.servers), one(w, served))
	if s.protocol == model.SCTP {
		at = netip.AddrPortFrom(at.Addr(), s.port) // other ports would need a CRC of the whole packet
	}
	if !slices.ContainsFunc(s.backends, func(b backend) bool { return b.at == at }) {
		s.backends = append(s.backends, backend{at: at, member: true})
	}
}

func (w *world) changeBackend(s *service) {
	if len(s.backends) == 0 {
		return
	}
	i := w.choose(len(s.backends))
	if w.choose(2) == 0 {
		w.changed = fmt.Sprintf("set %d loses %s", s.id, s.backends[i].at)
		s.backends = slices.Delete(s.backends, i, i+1)
		return
	}
	b := &s.backends[i]
	b.terminating, b.member = !b.terminating, !b.member
	w.changed = fmt.Sprintf("%s of set %d is member: %v", b.at, s.id, b.member)
}

// compile makes the tables. Where two Services claim an address the earlier one has it.
func (w *world) compile() {
	t := model.NewTables()
	for _, s := range w.services {
		key := model.FrontendKey{Addr: s.vip, Port: s.port, Protocol: s.protocol}
		if _, taken := t.Frontends[key]; s.deleted {
			continue
		} else if !taken {
			t.Frontends[key] = model.Frontend{FrontendKey: key, Set: s.id, Kind: model.FrontendClusterIP}
		}
		t.Sets[s.id] = model.BackendSet{ID: s.id, SetKey: model.SetKey{
			Service: model.ServicePort{Namespace: "test", Name: fmt.Sprintf("service-%d", s.id), Port: s.port, Protocol: s.protocol},
			Family:  model.FamilyOf(s.vip), Scope: model.ScopeAll,
		}}
		for _, b := range s.backends {
			w.compileBackend(t, s.id, b)
		}
	}
	w.tables = t
}

func (w *world) compileBackend(t *model.Tables, set model.SetID, b backend) {
	key := model.BackendKey{Set: set, Addr: b.at.Addr(), Port: b.at.Port()}
	if w.ids[key] == 0 {
		w.ids[key] = model.BackendID(len(w.ids) + 1)
	}
	row := model.Backend{ID: w.ids[key], BackendKey: key, State: model.BackendActive}
	if b.terminating {
		row.State = model.BackendTerminating
	}
	t.Backends[row.ID] = row
	if b.member {
		m := model.Member{Set: set, Backend: row.ID}
		t.Members[m] = m
	}
}

// String writes the tables for people.
func (w *world) String() string {
	var lines []string
	for _, f := range w.tables.Frontends {
		lines = append(lines, fmt.Sprintf("  frontend %s → set %d", f.FrontendKey, f.Set))
	}
	for _, b := range w.tables.Backends {
		_, member := w.tables.Members[model.Member{Set: b.Set, Backend: b.ID}]
		lines = append(lines, fmt.Sprintf("  set %d: backend %d %s, takes new connections: %v", b.Set, b.ID, refmodel.AddrPort(b), member))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// packet makes a frame, and says whether it goes to a pod.
func (w *world) packet() (frame []byte, toPod bool) {
	var s sent
	switch w.choose(10) {
	case 0, 1, 2, 3:
		s = w.fresh()
	case 4, 5:
		if len(w.recent) == 0 {
			s = w.fresh()
			break
		}
		s = one(w, w.recent) // again
	default:
		return w.reply(), true
	}
	if s.sequence == 0 || w.choose(4) == 0 {
		s.sequence = uint32(1 + w.choose(3))
	}
	w.recent = append(w.recent, s)
	if len(w.recent) > recentKept {
		w.recent = w.recent[1:]
	}
	return w.frame(s), w.choose(30) == 0
}

func (w *world) fresh() sent {
	s := sent{protocol: one(w, protocols), source: netip.AddrPortFrom(one(w, pods), one(w, clients))}
	if w.likely(4) { // to a Service that there is, or was of late
		to := one(w, w.services)
		return sent{protocol: to.protocol, source: netip.AddrPortFrom(w.ofFamily(to.vip, pods), s.source.Port()), dst: netip.AddrPortFrom(to.vip, to.port)}
	}
	to := vips
	if w.choose(5) == 0 {
		to = servers
	}
	s.dst = netip.AddrPortFrom(w.ofFamily(s.source.Addr(), to), one(w, dialled))
	if w.choose(5) == 0 {
		s.dst = netip.AddrPortFrom(s.dst.Addr(), one(w, served))
	}
	if w.choose(60) == 0 { // nobody to answer to
		s.source = netip.AddrPortFrom(w.ofFamily(s.source.Addr(), parseAddrs("0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1")), s.source.Port())
	}
	return s
}

// reply makes an answer to a pod: from a server, mostly one that a packet of late may have gone to.
func (w *world) reply() []byte {
	s := sent{protocol: one(w, protocols), dst: netip.AddrPortFrom(one(w, pods), one(w, clients)), sequence: 9}
	if len(w.recent) > 0 && w.likely(5) {
		r := one(w, w.recent)
		s.protocol, s.dst = r.protocol, r.source
	}
	port := one(w, served)
	if s.protocol == model.SCTP {
		port = one(w, dialled)
	}
	s.source = netip.AddrPortFrom(w.ofFamily(s.dst.Addr(), servers), port)
	if w.choose(4) == 0 {
		return w.icmpError(s)
	}
	if service := one(w, w.services); len(service.backends) > 0 && w.likely(3) {
		s.source, s.protocol = one(w, service.backends).at, service.protocol
		s.dst = netip.AddrPortFrom(w.ofFamily(s.source.Addr(), pods), s.dst.Port())
	}
	return w.frame(s)
}

// icmpError makes a router, or the server itself, say something about what a pod sent to a server.
func (w *world) icmpError(reply sent) []byte {
	if service := one(w, w.services); len(service.backends) > 0 && w.likely(6) {
		reply.source, reply.protocol = one(w, service.backends).at, service.protocol
		reply.dst = netip.AddrPortFrom(w.ofFamily(reply.source.Addr(), pods), reply.dst.Port())
	}
	about := frameOf(sent{protocol: reply.protocol, source: reply.dst, dst: reply.source, sequence: 5}, []byte("what was sent"))
	about.withoutChecksum = reply.protocol == model.UDP && w.choose(4) == 0
	if w.choose(12) == 0 {
		about.options = bytesOf(1, 8)
	}
	if w.choose(12) == 0 {
		about.fragment = uint16(0x2000 | w.choose(2)*7)
	}
	quoted := about.bytes()[14:]
	whole := w.choose(3) == 0
	if !whole {
		quoted = quoted[:min(len(quoted), one(w, []int{20, 27, 28, 35, 38, 47, 48, 57, 58}))]
	}
	sayer := w.ofFamily(reply.source.Addr(), parseAddrs("10.0.0.1", "fd00::1"))
	if w.choose(2) == 0 {
		sayer = reply.source.Addr()
	}
	f := frameSpec{sent: sent{source: netip.AddrPortFrom(sayer, 0), dst: netip.AddrPortFrom(reply.dst.Addr(), 0)}, payload: quoted}
	f.icmp = one(w, []byte{3, 3, 11, 12, 2, 1, 8})
	if whole && w.choose(10) == 0 { // no link pads what is longer than 60 bytes; the programs take padding for more of a cut quote
		f.padding = 1 + w.choose(30)
	}
	if w.choose(20) == 0 {
		f.options = bytesOf(1, 4)
	}
	return f.bytes()
}

// String orders packets for people.
func (s sent) String() string { return fmt.Sprintf("%s %s → %s", s.protocol, s.source, s.dst) }

// frame makes the bytes, now and then odd ones.
func (w *world) frame(s sent) []byte {
	f := frameOf(s, one(w, [][]byte{nil, []byte("x"), []byte("hello, Service")}))
	f.flags = one(w, []byte{0x02, 0x02, 0x10, 0x10, 0x11, 0x04, 0x14, 0x12, 0x00})
	f.withoutChecksum = s.protocol == model.UDP && w.choose(6) == 0
	switch w.choose(24) {
	case 0:
		f.options = bytesOf(1, 4*(1+w.choose(10)))
	case 1:
		f.fragment = uint16(0x2000 | w.choose(2)*7)
	case 2:
		f.extensions = one(w, [][]byte{{60}, {0, 43}, {44}, {51}, {0, 60, 43, 44, 51}, {60, 60, 60, 60, 60, 60}, {59}})
	case 3:
		f.lengthOff = one(w, []int{-20, 1, 200})
	case 4:
		f.padding = 1 + w.choose(20)
	case 5:
		f.dataOffset = byte(w.choose(16))
	case 6:
		f.tcpOptions = bytesOf(1, 4*(1+w.choose(10)))
	}
	frame := f.bytes()
	if w.choose(40) == 0 {
		least := 14 + 20 // the kernel runs nothing shorter than an IP header
		if s.source.Addr().Is6() {
			least = 14 + 40
		}
		frame = frame[:max(least, w.choose(len(frame)))] // cut short
	}
	return frame
}

func bytesOf(b byte, n int) []byte { return slices.Repeat([]byte{b}, n) }

// frameSpec is a frame to be made.
type frameSpec struct {
	sent
	flags           byte
	payload         []byte
	options         []byte // IPv4
	tcpOptions      []byte
	extensions      []byte // IPv6: kinds of headers
	fragment        uint16 // IPv4: flags and offset
	lengthOff       int    // added to the length that the IP header says
	dataOffset      byte   // TCP: instead of the right one, if not 0
	padding         int
	withoutChecksum bool
	icmp            byte // a message of this kind instead of protocol's packet, if not 0
}

func frameOf(s sent, payload []byte) frameSpec { return frameSpec{sent: s, payload: payload} }

func (f frameSpec) bytes() []byte {
	transport := f.transport()
	if f.icmp != 0 {
		f.protocol, transport = f.message()
	}
	var ip []byte
	etherType := uint16(0x0800)
	if f.source.Addr().Is4() {
		ip = f.ipv4(len(transport))
	} else {
		etherType = 0x86dd
		ip = f.ipv6(len(transport))
	}
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	frame = append(append(frame, ip...), transport...)
	return append(frame, make([]byte, f.padding)...)
}

func (f frameSpec) ipv4(transport int) []byte {
	header := make([]byte, 20, 60)
	header[0] = 0x40 | byte(5+len(f.options)/4)
	header[8], header[9] = 64, byte(f.protocol)
	header = append(header, f.options...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+transport+f.lengthOff))
	binary.BigEndian.PutUint16(header[4:], 4711)
	binary.BigEndian.PutUint16(header[6:], f.fragment)
	copy(header[12:], f.source.Addr().AsSlice())
	copy(header[16:], f.dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(header[10:], refmodel.Checksum(header))
	return header
}

func (f frameSpec) ipv6(transport int) []byte {
	header := make([]byte, 40, 120)
	header[0], header[7] = 0x60, 64
	copy(header[8:], f.source.Addr().AsSlice())
	copy(header[24:], f.dst.Addr().AsSlice())
	kinds := append(slices.Clone(f.extensions), byte(f.protocol))
	header[6] = kinds[0]
	for i := range f.extensions {
		extension := []byte{kinds[i+1], 0, 0, 0, 0, 0, 0, 0}
		header = append(header, extension...)
	}
	binary.BigEndian.PutUint16(header[4:], uint16(len(header)-40+transport+f.lengthOff))
	return header
}

// message is an ICMP message about the payload.
func (f frameSpec) message() (protocol model.Protocol, message []byte) {
	message = append([]byte{f.icmp, 1, 0, 0, 0, 0, 5, 0xdc}, f.payload...)
	if f.source.Addr().Is4() {
		binary.BigEndian.PutUint16(message[2:], refmodel.Checksum(message))
		return 1, message
	}
	pseudo := append(f.source.Addr().AsSlice(), f.dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	binary.BigEndian.PutUint16(message[2:], refmodel.Checksum(append(pseudo, 0, 0, 0, 58), message))
	return 58, message
}

func (f frameSpec) transport() []byte {
	h := binary.BigEndian.AppendUint16(nil, f.source.Port())
	h = binary.BigEndian.AppendUint16(h, f.dst.Port())
	at := -1
	switch f.protocol {
	case model.TCP:
		h = binary.BigEndian.AppendUint32(h, f.sequence)
		h = binary.BigEndian.AppendUint32(h, 77)
		h = append(h, cmp.Or(f.dataOffset, byte(5+len(f.tcpOptions)/4))<<4, f.flags, 0xff, 0xff, 0, 0, 0, 0)
		h = append(h, f.tcpOptions...)
		at = 16
	case model.UDP:
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(f.payload)))
		h = append(h, 0, 0)
		at = 6
	default:
		h = append(h, 0, 0, 0, 1, 0, 0, 0, 0)
	}
	h = append(h, f.payload...)
	if at >= 0 && !f.withoutChecksum {
		pseudo := append(f.source.Addr().AsSlice(), f.dst.Addr().AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(h)))
		sum := refmodel.Checksum(append(pseudo, 0, 0, 0, byte(f.protocol)), h)
		if sum == 0 && f.protocol == model.UDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(h[at:], sum)
	}
	return h
}
