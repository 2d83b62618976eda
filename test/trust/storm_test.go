// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"flag"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/trust"
)

var stormNodes = flag.Int("storm.nodes", 40, "how many nodes come back at once, each with a handshake that must take less than 5 s where all have theirs")

// The bus goes and comes, and all nodes come back by credentials of their own: no watcher runs, and no API server.
//
// Promise P9: credentials are checked by the bus's servers alone.
// Fault 4: all nodes come back at once, and ask the API server nothing.
func TestAllNodesComeBackAtOnce(t *testing.T) {
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	o := embedded.Options{Trust: folder.BusPath()}
	server, err := embedded.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown() })
	address, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if o.Port, err = strconv.Atoi(address.Port()); err != nil {
		t.Fatal(err)
	}
	var back sync.WaitGroup
	begun, used := time.Now(), cpu(t)
	for i := range *stormNodes {
		node := fmt.Sprintf("node-%d", i)
		if err := folder.Node(node); err != nil {
			t.Fatal(err)
		}
		conn, err := bus.Connect(t.Context(), bus.Options{
			URL: server.URL(), Name: "programmer " + node, OnReconnect: back.Done,
			CredentialsFile: filepath.Join(folder.NodePath(node), trust.FileCredentials), RootCAFile: filepath.Join(folder.NodePath(node), trust.FileCA),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		back.Add(1)
	}
	t.Logf("%d nodes connected in %v, with %v of CPU for their keys, for them and for the server", *stormNodes, time.Since(begun), cpu(t)-used)
	server.Shutdown()
	begun, used = time.Now(), cpu(t)
	if server, err = embedded.Start(o); err != nil {
		t.Fatal(err)
	}
	back.Wait()
	t.Logf("all came back in %v, with %v of CPU, for them and for the server", time.Since(begun), cpu(t)-used)
}

// cpu is what this process has used.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
