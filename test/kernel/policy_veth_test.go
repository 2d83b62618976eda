// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// The rule sets of the fabric's pods: each has its own for each direction.
const (
	clientGets, clientSends   model.RuleSetID = 1, 2
	backendGets, backendSends model.RuleSetID = 3, 4
)

// judge gives the fabric's pods policies that say the same of all; rule sets that aren't named isolate.
func (f *fabric) judge(t testing.TB, actions map[model.RuleSetID]model.Action) {
	t.Helper()
	for _, addr := range []string{client4, client6} {
		testkit.PutPolicy(t, f.plane, testkit.Pod{Addr: netip.MustParseAddr(addr), Ingress: clientGets, Egress: clientSends, Incarnation: 1})
	}
	for _, addr := range []string{backend4, backend6} {
		testkit.PutPolicy(t, f.plane, testkit.Pod{Addr: netip.MustParseAddr(addr), Ingress: backendGets, Egress: backendSends, Incarnation: 1})
	}
	for set := clientGets; set <= backendSends; set++ {
		action := actions[set]
		if action == 0 {
			action = model.ActionIsolate
		}
		testkit.PutPolicy(t, f.plane, says(set, 0, action, 0))
	}
	check(t, f.plane.Judge(true))
}

// through lets the client reach the backend, and nothing else.
var through = map[model.RuleSetID]model.Action{clientSends: model.ActionAllow, backendGets: model.ActionAllow}

// dialledAs is how a client fares that dials and asks, and waits for so long for each.
func dialledAs(network, to string, timeout time.Duration) error {
	conn, err := net.DialTimeout(network, to, timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES)
}

// Policy row 1: sockets reach what both pods' policies let them, directly and through a Service, and nothing else.
// Policy row 3: by choice they learn at once that they don't, whichever of the two says so.
func TestSocketsAreJudged(t *testing.T) {
	for _, reject := range []bool{false, true} {
		f := newFabric(t, bpf.Options{PolicyReject: reject})
		f.putServices(t)
		serve(t, f.backend, backend4+":8080")
		serve(t, f.backend, "["+backend6+"]:8080")
		denied := isTimeout
		if reject {
			denied = isRefused
		}
		for name, actions := range map[string]map[model.RuleSetID]model.Action{
			"the client may not": {backendGets: model.ActionAllow}, "the backend may not": {clientSends: model.ActionAllow}, "both may": through,
		} {
			f.judge(t, actions)
			timeout := patience
			if len(actions) < 2 && !reject {
				timeout = 300 * time.Millisecond
			}
			for _, to := range []string{service4, service6, backend4 + ":8080", "[" + backend6 + "]:8080"} {
				for _, network := range []string{"tcp", "udp"} {
					var err error
					f.client.Do(t, func() { err = dialledAs(network, to, timeout) })
					if len(actions) == 2 && err != nil || len(actions) < 2 && !denied(err) {
						t.Errorf("answered: %v, %s, %s to %s: %v", reject, name, network, to, err)
					}
				}
			}
		}
	}
}

// Policy row 3: a connection that is denied while it is in use is over at once, where it is answered.
func TestConnectionsInUseEnd(t *testing.T) {
	f := newFabric(t, bpf.Options{PolicyReject: true})
	f.putServices(t)
	serve(t, f.backend, backend4+":8080")
	f.judge(t, through)
	f.client.Do(t, func() {
		conn := dialRaw(t, "tcp4", netip.MustParseAddrPort(service4))
		defer conn.Close()
		ask(t, conn)
		f.judge(t, map[model.RuleSetID]model.Action{clientSends: model.ActionAllow})
		conn.SetDeadline(time.Now().Add(patience))
		_, err := conn.Write([]byte("?"))
		if err == nil {
			_, err = conn.Read(make([]byte, 100))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection ended by %v", err)
		}
	})
}

// Policy row 1: a datagram in fragments arrives whatever order they come in, once each; of one that is denied nothing
// does, also not what comes without its first.
// Trap 9: later fragments go the way of their first, and wait for it.
func TestFragmentsAreJudgedByTheirFirst(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	client := wireAt(t, f, f.client, f.clientPort)
	server := wireAt(t, f, f.backend, f.backendPort)
	id := uint32(100)
	for _, c := range []struct{ client, pod string }{
		{client4 + ":40000", backend4 + ":9999"}, {"[" + client6 + "]:40000", "[" + backend6 + "]:9999"},
	} {
		conn := listenUDP(t, f.backend, c.pod)
		from := netip.MustParseAddrPort(c.client).Addr().String()
		marker := client.datagram(c.client, c.pod, 77)
		for name, order := range orders {
			for _, actions := range []map[model.RuleSetID]model.Action{through, {clientSends: model.ActionAllow}, {backendGets: model.ActionAllow}} {
				f.judge(t, actions)
				id++
				whole := client.datagram(c.client, c.pod, 5000)
				client.sendAll(order(fragmentsOf(whole, id, 1000)))
				client.sendAll(order(fragmentsOf(whole, id+1000, 1000))[:1]) // alone
				f.judge(t, through)
				client.sendAll([][]byte{marker})
				arrived := server.until(from, len(marker))
				if len(actions) < 2 && len(arrived) > 0 || len(actions) == 2 && len(arrived) < 6 {
					t.Errorf("%s, %s: %d fragments arrived", c.pod, name, len(arrived))
				}
				if len(actions) == 2 {
					got, _ := readDatagram(t, conn)
					if !bytes.Equal(got, whole[len(whole)-5000:]) {
						t.Errorf("%s, %s: %d bytes arrived", c.pod, name, len(got))
					}
				}
				got, _ := readDatagram(t, conn)
				if diff := cmp.Diff(77, len(got)); diff != "" {
					t.Error(diff)
				}
			}
		}
	}
}

// received waits for so many bytes of fragments' data from an address, and returns how many came.
func (w *wire) received(from string, most int) (total int) {
	w.t.Helper()
	b := make([]byte, 65536)
	for total < most {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return total
		}
		if s, err := addresses(b[:n]); n < 54 || err != nil || s != from {
			continue
		}
		if b[12] == 0x86 {
			if b[20] == 44 {
				total += int(binary.BigEndian.Uint16(b[18:])) - 8
			}
			continue
		}
		total += int(binary.BigEndian.Uint16(b[16:])) - 20
	}
	return total
}

// Policy row 1: a ping of several fragments is judged as one that isn't.
func TestLargePingsAreJudged(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	client := wireAt(t, f, f.client, f.clientPort)
	for _, c := range []struct{ client, pod string }{{client4, backend4}, {"[" + client6 + "]", "[" + backend6 + "]"}} {
		for name, order := range orders {
			f.judge(t, through)
			ping := message(t, c.client, c.pod, map[bool]byte{true: 8, false: 128}[bare(c.pod).Is4()], bytes.Repeat([]byte{7}, 4000))
			copy(ping, client.dst)
			copy(ping[6:], client.sourceMAC)
			client.sendAll(order(fragmentsOf(ping, 99, 1000)))
			if answers := client.received(bare(c.pod).String(), 4004); answers != 4004 {
				t.Errorf("%s, %s: %d bytes came back", c.pod, name, answers)
			}
		}
	}
	if got := drops(t, f.plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}
