// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

const (
	other4, other6     = "10.1.2.2", "fd00:1:2::2"
	foreign4, foreign6 = "203.0.113.9", "2001:db8::9"
	marker             = 7  // bytes of what the client sends in its own name, behind all else
	forged             = 99 // bytes of what it sends in another's
)

// masks is a fabric with a third pod, which may do all, and by which the node reaches all the world. The client may
// only reach the backend.
func masks(t *testing.T, options bpf.Options) *fabric {
	t.Helper()
	f := newFabric(t, options)
	other := testkit.NewNetNS(t)
	f.join(t, other, "other", other4, other6)
	f.node.Do(t, func() { check(t, f.plane.AttachPod(f.node.Index(t, "other"))) })
	f.node.Route(t, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(other4), "other")
	f.node.Route(t, netip.MustParsePrefix("::/0"), netip.MustParseAddr(other6), "other")
	f.putServices(t)
	f.judge(t, through)
	for _, addr := range []string{other4, other6} {
		testkit.PutPolicy(t, f.plane, testkit.Pod{Addr: netip.MustParseAddr(addr), Incarnation: 1})
	}
	return f
}

// pretend lets the client send from an address to the backend, and returns how many bytes the backend was told, by a
// datagram that is then sent as it should be.
func pretend(t *testing.T, f *fabric, client *wire, frames [][]byte, to netip.AddrPort, own string) []int {
	t.Helper()
	conn := listenUDP(t, f.backend, to.String())
	defer conn.Close()
	client.sendAll(frames)
	client.sendAll([][]byte{client.datagram(own, to.String(), marker)})
	var heard []int
	b := make([]byte, 2048)
	conn.SetReadDeadline(time.Now().Add(patience))
	for {
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("what the client sends in its own name does not arrive: %v", err)
		}
		if n == marker {
			return heard
		}
		heard = append(heard, n)
	}
}

// Policy row 1: a pod that makes its own packets is judged by its own address: those from another's go nowhere, and the
// drop has a name. A node that lets pods route can be told to.
func TestPodsSendFromTheirOwnAddresses(t *testing.T) {
	for _, checked := range []bool{true, false} {
		f := masks(t, bpf.Options{CheckSources: checked})
		client := wireAt(t, f, f.client, f.clientPort)
		for _, c := range []struct{ own, to, service, other, outside string }{
			{client4 + ":40000", backend4 + ":8080", service4, other4 + ":40000", foreign4 + ":40000"},
			{"[" + client6 + "]:40000", "[" + backend6 + "]:8080", service6, "[" + other6 + "]:40000", "[" + foreign6 + "]:40000"},
		} {
			itself := netip.AddrPortFrom(netip.MustParseAddrPort(c.to).Addr(), 40000).String()
			for name, frames := range map[string][][]byte{
				"another pod's":               {client.datagram(c.other, c.to, forged)},
				"another pod's, to a Service": {client.datagram(c.other, c.service, forged)},
				"an address outside":          {client.datagram(c.outside, c.to, forged)},
				"the backend's own":           {client.datagram(itself, c.to, forged)},
				"another pod's, in fragments": fragmentsOf(client.datagram(c.other, c.to, 1400), 77, 1000),
			} {
				before := drops(t, f.plane)[model.ReasonSpoofed]
				heard := pretend(t, f, client, frames, netip.MustParseAddrPort(c.to), c.own)
				dropped := drops(t, f.plane)[model.ReasonSpoofed] - before
				if checked && (len(heard) > 0 || dropped == 0) || !checked && (len(heard) == 0 && name != "the backend's own" || dropped > 0) {
					t.Errorf("checked: %v, to %s from %s: the backend got %v, %d dropped as spoofed", checked, c.to, name, heard, dropped)
				}
			}
		}
	}
}

// Policy row 1: a connection of another pod is that pod's alone, also while it lasts and what is sent says that it is of
// it.
func TestKnownConnectionsAreTheirPodsAlone(t *testing.T) {
	f := masks(t, bpf.Options{CheckSources: true})
	client := wireAt(t, f, f.client, f.clientPort)
	for _, c := range []struct{ own, to, victim string }{
		{client4 + ":40000", backend4 + ":8080", other4 + ":40000"}, {"[" + client6 + "]:40000", "[" + backend6 + "]:8080", "[" + other6 + "]:40000"},
	} {
		// Sent as its pod would: by that pod's interface.
		frame := client.datagram(c.victim, c.to, forged)
		f.node.Do(t, func() {
			verdict, _, err := f.plane.RunFromPod(frame, f.node.Index(t, "other"))
			if err != nil || verdict != bpf.Pass {
				t.Fatalf("the other pod's own: %v, %v", verdict, err)
			}
		})
		if heard := pretend(t, f, client, [][]byte{frame}, netip.MustParseAddrPort(c.to), c.own); len(heard) > 0 {
			t.Errorf("%s: the backend got %v in the name of %s", c.own, heard, c.victim)
		}
	}
	if got := drops(t, f.plane); got[model.ReasonSpoofed] != 2 || len(got) != 1 {
		t.Errorf("drops: %v", got)
	}
}

// Policy row 1: a node's address is no pod's; what has no address yet, and what stays on the link, is not asked for one.
func TestSourcesThatAreNoPods(t *testing.T) {
	f := masks(t, bpf.Options{CheckSources: true})
	at := f.clientPort
	for name, c := range map[string]struct {
		frame []byte
		want  model.DropReason
	}{
		"the node's":                  {echo(t, "10.1.1.1", backend4, 1, false), model.ReasonSpoofed},
		"the node's, IPv6":            {echo(t, "[fd00:1:1::1]", "["+backend6+"]", 1, false), model.ReasonSpoofed},
		"a pod's of another node":     {echo(t, "10.9.0.1", backend4, 1, false), model.ReasonSpoofed},
		"a group's":                   {echo(t, "224.0.0.5", backend4, 1, false), model.ReasonSpoofed},
		"its own":                     {echo(t, client4, backend4, 1, false), 0},
		"its own, IPv6":               {echo(t, "["+client6+"]", "["+backend6+"]", 1, false), 0},
		"none yet":                    {segment{from: "0.0.0.0:68", to: "255.255.255.255:67", udp: true}.frame(t), 0},
		"none yet, IPv6":              {segment{from: "[::]:546", to: "[ff02::1:2]:547", udp: true}.frame(t), 0},
		"the link's":                  {segment{from: "[fe80::1]:546", to: "[ff02::1:2]:547", udp: true}.frame(t), 0},
		"a neighbour that is probed":  {message(t, "[::]", "[ff02::1:ff00:2]", 135, make([]byte, 20)), 0},
		"a neighbour that is visited": {message(t, "["+other6+"]", "[ff02::1:ff00:2]", 135, make([]byte, 20)), 0},
	} {
		before := drops(t, f.plane)
		f.node.Do(t, func() {
			_, _, err := f.plane.RunFromPod(c.frame, at)
			check(t, err)
		})
		got := drops(t, f.plane)
		for _, reason := range slices.Sorted(maps.Keys(got)) {
			if got[reason] > before[reason] && reason != c.want {
				t.Errorf("%s: dropped as %s, want %s", name, reason, c.want)
			}
		}
		if c.want != 0 && got[c.want] == before[c.want] {
			t.Errorf("%s: not dropped as %s", name, c.want)
		}
	}
}
