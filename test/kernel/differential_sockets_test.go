// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// TestSocketsAgreeWithTheModel lets real sockets dial random Services, while tables change in between, and lets the
// reference model judge where each comes out and whom it sees. (BPF_PROG_TEST_RUN doesn't run socket address hooks.)
func TestSocketsAgreeWithTheModel(t *testing.T) {
	locals := []string{"10.244.2.4", "10.244.2.5", "10.244.2.6", "fd00:2::4", "fd00:2::5"}
	n := newNode(t, locals...)
	servers := parseAddrs(locals...)
	for _, a := range servers {
		for _, port := range served {
			serve(t, n.NetNS, netip.AddrPortFrom(a, port).String())
		}
	}
	seed := anySeed(t)
	rows, err := kernelnode.Over(n.plane, 256)
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Surround(surroundings(false)); err != nil {
		t.Fatal(err)
	}
	n.Do(t, func() {
		for i := range *runsFlag / 10 {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			if err := rows.Reset(); err != nil {
				t.Fatal(err)
			}
			ns := &refmodel.Namespace{Via: refmodel.PodSocket, Affinities: refmodel.Affinities{}}
			j := &socketJudge{t: t, rows: rows, ns: ns, world: newWorld(func(n int) int { return rng.IntN(n) })}
			j.world.servers, j.world.here, j.world.of = servers, servers, []model.Protocol{model.TCP, model.UDP, model.UDP}
			j.world.anyone = true
			if !j.run(50) {
				t.Fatalf("world %d of seed %d", i, seed)
			}
		}
	})
}

// socketJudge holds the socket hooks and the model to each other.
type socketJudge struct {
	t     *testing.T
	rows  *kernelnode.Node
	world *world
	node  *refmodel.Node
	ns    *refmodel.Namespace
	told  []string

	datagrams []*datagramSocket
}

// datagramSocket is a UDP socket without a peer, and what the model remembers of it.
type datagramSocket struct {
	*net.UDPConn
	memory refmodel.Socket
	isIPv4 bool
}

func (j *socketJudge) run(steps int) bool {
	j.change()
	for i := range 4 {
		network := []string{"udp4", "udp"}[i%2] // the latter is an IPv6 socket that IPv4 addresses are mapped for
		conn, err := net.ListenUDP(network, nil)
		if err != nil {
			j.t.Fatal(err)
		}
		defer conn.Close()
		j.datagrams = append(j.datagrams, &datagramSocket{UDPConn: conn, isIPv4: i%2 == 0})
	}
	for range steps {
		var err error
		switch j.world.choose(8) {
		case 0:
			j.change()
		case 1, 2:
			err = j.connect()
		default:
			err = j.send()
		}
		if err != nil {
			j.t.Errorf("%v\nthe tables:\n%s\nthe last steps:\n%v", err, j.world, j.told)
			return false
		}
	}
	return true
}

func (j *socketJudge) change() {
	j.world.change()
	j.tell("the tables change: %s", j.world.changed)
	if err := errors.Join(j.rows.Set(model.LayerCluster, j.world.cluster), j.rows.Set(model.LayerNode, j.world.node)); err != nil {
		j.t.Fatal(err)
	}
	j.node = j.world.model(surroundings(false))
}

// destination is mostly a Service, sometimes a server.
func (j *socketJudge) destination(protocol model.Protocol) netip.AddrPort {
	if s := one(j.world, j.world.services); s.protocol == protocol && j.world.likely(6) {
		return j.world.frontend(s)
	}
	return netip.AddrPortFrom(one(j.world, j.world.servers), one(j.world, served))
}

func (j *socketJudge) connect() error {
	protocol := one(j.world, []model.Protocol{model.TCP, model.UDP})
	to := j.destination(protocol)
	network := map[model.Protocol]string{model.TCP: "tcp", model.UDP: "udp"}[protocol] + "4"
	if to.Addr().Is6() || j.world.choose(3) == 0 {
		network = network[:3] + "6"
	}
	var memory refmodel.Socket
	conn, err := dialErr(network, to)
	if err != nil {
		j.tell("connect %s to %s: %v", network, to, err)
		return memory.Connect(j.node, j.ns, protocol, to, refused(err, to), clock())
	}
	defer conn.Close()
	reached, err := netip.ParseAddrPort(ask(j.t, conn))
	if err != nil {
		return err
	}
	j.tell("connect %s to %s: reached %s", network, to, reached)
	if err := memory.Connect(j.node, j.ns, protocol, to, refmodel.Reached{Verdict: refmodel.Forward, At: reached}, clock()); err != nil {
		return err
	}
	if want, got := memory.Peer(reached), netip.MustParseAddrPort(conn.RemoteAddr().String()); got != want {
		return fmt.Errorf("connected to %s, getpeername shows %s, want %s", to, got, want)
	}
	return nil
}

func (j *socketJudge) send() error {
	i := j.world.choose(len(j.datagrams))
	s := j.datagrams[i]
	to := j.destination(model.UDP)
	if s.isIPv4 && !to.Addr().Is4() {
		return nil
	}
	_, err := s.WriteToUDPAddrPort([]byte("who"), to)
	if err != nil {
		j.tell("socket %d to %s: %v", i, to, err)
		return s.memory.Send(j.node, j.ns, to, refused(err, to), clock())
	}
	b := make([]byte, 64)
	s.SetReadDeadline(time.Now().Add(patience))
	n, from, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", to, err)
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	reached := netip.MustParseAddrPort(string(b[:n]))
	j.tell("socket %d to %s: reached %s, which shows as %s", i, to, reached, from)
	if err := s.memory.Send(j.node, j.ns, to, refmodel.Reached{Verdict: refmodel.Forward, At: reached}, clock()); err != nil {
		return err
	}
	if want := s.memory.Sender(reached); from != want {
		return fmt.Errorf("the answer of %s to what was sent to %s shows as from %s, want %s", reached, to, from, want)
	}
	return nil
}

// refused reads the error of a connect or a send. One that the namespace has no route for went where it was to.
func refused(err error, to netip.AddrPort) refmodel.Reached {
	did := refmodel.Reached{Verdict: refmodel.Forward, At: to}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		did.Verdict = refmodel.Reject
	case errors.Is(err, syscall.ETIMEDOUT):
		did.Verdict = refmodel.Drop
	}
	return did
}

func (j *socketJudge) tell(format string, args ...any) {
	j.told = append(j.told, fmt.Sprintf("  "+format+"\n", args...))
	j.told = slices.Clone(j.told[max(0, len(j.told)-historyLength):])
}
