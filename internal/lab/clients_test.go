// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/capture"
)

const twoNodes = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n"

// A network that finds another way takes all of a client's packets there, also those of sockets that are open already.
func TestClientsAreLedThroughAnotherNode(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-lead"), twoNodes)
	if err := l.AddClient("elsewhere"); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node-1", "node-2"} {
		answerForVIPs(t, l, node)
	}
	reach := func(client, want string) {
		t.Helper()
		for _, vip := range vips {
			r := ProbeRequest{From: client, To: netip.AddrPortFrom(vip, 80).String(), Protocol: "udp", Timeout: patience}
			if got := probe(t, l, r); got.Outcome != agent.OK || got.Reached != want {
				t.Errorf("%s: got %+v, want %s", client, got, want)
			}
		}
	}
	open, err := l.DialAt(Outside, "udp", netip.AddrPortFrom(vips[0], 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	ask := func(want string) {
		t.Helper()
		answer := make([]byte, 100)
		_, err := open.Write([]byte("\n"))
		err = errors.Join(err, open.SetDeadline(time.Now().Add(patience)))
		n, failed := open.Read(answer)
		if err := errors.Join(err, failed); err != nil || !strings.HasPrefix(string(answer[:n]), want+" ") {
			t.Errorf("the open socket: %q, %v, want %s", answer[:n], err, want)
		}
	}
	ask("node/node-1")
	reach(Outside, "node/node-1")
	if err := l.Lead(Outside, "node/node-2"); err != nil {
		t.Fatal(err)
	}
	reach(Outside, "node/node-2")
	reach("elsewhere", "node/node-1")
	ask("node/node-2")
	for _, wrong := range [][2]string{{"nobody", "node/node-1"}, {Outside, "node/node-9"}} {
		if err := l.Lead(wrong[0], wrong[1]); err == nil {
			t.Errorf("%s is led through %s", wrong[0], wrong[1])
		}
	}
}

// Frames are there as soon as they are answered, on every link that they passed, with checksums once these are filled in.
func TestFramesAreCaptured(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-capture"), twoNodes)
	answerForVIPs(t, l, "node-1")
	captures := map[string]*capture.Capture{}
	for _, place := range []string{Outside, "node/node-1", "node/node-2"} {
		c, err := l.Capture(place)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		captures[place] = c
	}
	to := []byte{198, 51, 100, 7}
	ask := func() map[string][]capture.Frame {
		if got := probe(t, l, ProbeRequest{From: Outside, To: "198.51.100.7:80", Protocol: "udp", Timeout: patience}); got.Outcome != agent.OK {
			t.Fatalf("got %+v", got)
		}
		seen := map[string][]capture.Frame{}
		for place, c := range captures {
			frames, err := c.Frames()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				if len(f.Bytes) > 34 && (bytes.Equal(f.Bytes[26:30], to) || bytes.Equal(f.Bytes[30:34], to)) {
					seen[place] = append(seen[place], f)
				}
			}
		}
		return seen
	}
	for _, summed := range []bool{false, true} {
		if summed {
			if err := l.SumUp(); err != nil {
				t.Fatal(err)
			}
		}
		seen := ask()
		if len(seen[Outside]) != 2 || len(seen["node/node-1"]) != 2 || len(seen["node/node-2"]) != 0 {
			t.Fatalf("got %v, want a question and an answer at both ends and nothing elsewhere", seen)
		}
		for i, out := range []bool{true, false} {
			here, there := seen[Outside][i], seen["node/node-1"][i]
			if here.Out != out || there.Out == out || here.Unsummed == summed || !bytes.Equal(here.Bytes, there.Bytes) {
				t.Errorf("frame %d: outside %+v, at the node %+v", i, here, there)
			}
		}
	}
}
