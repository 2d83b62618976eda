// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
)

// startCluster starts three servers that keep streams together, and returns them and their URLs.
func startCluster(t *testing.T) ([]*embedded.Server, string) {
	t.Helper()
	var routes []string
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, fmt.Sprintf("nats://%s", l.Addr()))
		l.Close()
	}
	servers, urls := make([]*embedded.Server, 3), make([]string, 3)
	started := make(chan error, 3)
	for i := range servers {
		file := write(t, fmt.Sprintf("server_name: s%d\nhost: 127.0.0.1\nport: -1\ncluster { name: c, listen: \"127.0.0.1:%d\", routes: [%s] }\n",
			i, ports[i], strings.Join(routes, ", ")))
		go func() {
			var err error
			servers[i], err = embedded.Start(embedded.Options{ConfigFile: file, Dir: t.TempDir()})
			started <- err
		}()
	}
	for range servers {
		if err := receive(t, started); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range servers {
		t.Cleanup(s.Shutdown)
		urls[i] = s.URL()
	}
	return servers, strings.Join(urls, ",")
}

// The fence holds with three replicas too, and over the death of any one server.
func TestFenceHoldsInAClusterThatLosesAServer(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers that lose one take 10 s; run without -short")
	}
	servers, urls := startCluster(t)
	c := connect(t, Options{URL: urls})
	if err := c.EnsureStreams(t.Context(), 3, ledger); err != nil {
		t.Fatal(err)
	}
	old := take(t, c, "old")
	appendTo(t, old, "a", "b")
	rivals := make(chan error, 4)
	for range cap(rivals) {
		go func() {
			_, err := c.TakeEpoch(t.Context(), "LEDGER", ledgerEpoch, "rival")
			rivals <- err
		}()
	}
	for range cap(rivals) {
		if err := receive(t, rivals); err != nil {
			t.Error(err)
		}
	}
	if _, err := old.Append(t.Context(), records("x", "y")); !errors.Is(err, ErrDeposed) {
		t.Errorf("the deposed holder: %v, want ErrDeposed", err)
	}
	young := take(t, c, "young")
	if young.Epoch() != 6 {
		t.Errorf("epoch %d, want 6", young.Epoch())
	}
	appendTo(t, young, "c")

	servers[leaderOf(t, c)].Shutdown()
	var survivor *Fence
	eventually(t, "take the epoch after a server died", func() (err error) {
		survivor, err = c.TakeEpoch(t.Context(), "LEDGER", ledgerEpoch, "survivor")
		return err
	})
	if _, err := young.Append(t.Context(), records("z")); !errors.Is(err, ErrDeposed) {
		t.Errorf("the holder from before: %v, want ErrDeposed", err)
	}
	appendTo(t, survivor, "d", "e")
	want := []string{"ledger.entry.0=a", "ledger.entry.1=b", "ledger.entry.0=c", "ledger.entry.0=d", "ledger.entry.1=e"}
	if diff := cmp.Diff(want, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

func leaderOf(t *testing.T, c *Conn) int {
	t.Helper()
	s, err := c.js.Stream(t.Context(), "LEDGER")
	if err != nil {
		t.Fatal(err)
	}
	var i int
	if _, err := fmt.Sscanf(s.CachedInfo().Cluster.Leader, "s%d", &i); err != nil {
		t.Fatal(err)
	}
	return i
}

// eventually tries until it works.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for err := try(); err != nil; err = try() {
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		if wait(t.Context(), 50*time.Millisecond) != nil {
			t.Fatal(what)
		}
	}
}

// Fault 5: whoever hears nothing at one server of a cluster goes on at another.
func TestElsewhereIsAnotherServer(t *testing.T) {
	_, urls := startCluster(t)
	back := make(chan struct{}, 1)
	c := connect(t, Options{URL: urls, OnReconnect: func() { back <- struct{}{} }})
	was := c.nats.ConnectedServerName()
	c.Elsewhere()
	receive(t, back)
	if is := c.nats.ConnectedServerName(); is == was {
		t.Errorf("still at server %s", is)
	}
}

func TestOneServerIsNotLeft(t *testing.T) {
	lost := make(chan error, 1)
	c := connect(t, Options{URL: startServer(t, embedded.Options{}).URL(), OnDisconnect: func(err error) { lost <- err }})
	c.Elsewhere()
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-lost:
		t.Errorf("the only server was left: %v", err)
	default:
	}
}
