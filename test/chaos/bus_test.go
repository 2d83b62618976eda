// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/schemas"
)

// streamLeader returns the server that leads a stream.
func (e *experiment) streamLeader(stream string) (server string) {
	e.t.Helper()
	waitFor(e.t, "stream "+stream+" to have a leader", func() bool {
		is, err := e.Conn().StreamState(e.t.Context(), stream)
		server = is.Leader
		return err == nil && server != ""
	})
	return server
}

// ready waits until servers say that they are, as their readiness probe asks.
func (e *experiment) ready(servers ...string) {
	e.t.Helper()
	for _, server := range servers {
		waitFor(e.t, server+" to be ready", func() bool { return e.health(server, "/healthz") == nil })
	}
}

// health asks a server as its probes do, on its own machine.
func (e *experiment) health(server, path string) error {
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Second)
	defer cancel()
	answer, err := e.get(ctx, server, "127.0.0.1:8222", path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s isn't well: %s", server, text)
	}
	return nil
}

// streams are how each server has all streams and who reads them, for failures.
func (e *experiment) streams() string {
	var text strings.Builder
	for _, server := range busServers() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := e.get(ctx, server, "127.0.0.1:8222", "/jsz?accounts=true&streams=true&consumers=true")
		if err != nil {
			fmt.Fprintf(&text, "%s: %v\n", server, err)
		} else {
			said, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			fmt.Fprintf(&text, "%s: %s\n", server, said)
		}
		cancel()
	}
	return text.String()
}

// Fault 5: the servers are restarted one after the other, as an update of their DaemonSet does it: nobody notices.
// Promise P4: an update of the bus loses no packet and no connection.
func TestTheBusIsUpdatedServerByServer(t *testing.T) {
	onlyLong(t)
	e := begin(t, "rolling restart of the bus")
	rolls := func() {
		for _, server := range busServers() {
			check(t, e.Halt(server, syscall.SIGTERM))
			check(t, e.Resume(server))
			e.ready(server)
		}
	}
	rolls()
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(rolls)
	e.converges(soon)
}

// Fault 5: two of three servers are gone, for as long as it takes; then they are back.
// Promise P3: losing the bus changes no forwarding.
func TestTheBusLosesItsQuorum(t *testing.T) {
	onlyLong(t)
	e := begin(t, "quorum of the bus lost")
	away := func() {
		for _, server := range busServers()[1:] {
			check(t, e.Halt(server, syscall.SIGKILL))
		}
		e.lasts(cutOff())
		for _, server := range busServers()[1:] {
			check(t, e.Resume(server))
		}
		e.ready(busServers()...)
	}
	away()
	e.converges(soon)
	e.wroteNothing()
	e.whileChanging(away)
	e.converges(soon)
}

// Fault 5: all three servers lose their disks: everything is made anew from Kubernetes, and nodes write nothing.
// Promise P3: losing the bus and all that it knows changes no forwarding.
func TestTheBusLosesEverything(t *testing.T) {
	e := begin(t, "all volumes of the bus lost")
	lose := func() {
		e.offline(func() {
			for _, server := range busServers() {
				check(t, emptied(e.Disk(server)))
			}
		})
	}
	if *long { // what is numbered in the order of changes must keep its number
		e.whileChanging(func() { e.lasts(5 * time.Second) })
		e.converges(soon)
		e.strikes()
	}
	lose()
	e.converges(anew)
	e.wroteNothing()
	if !*long {
		return
	}
	e.whileChanging(lose)
	e.converges(anew)
}

// offline ends all servers, does something to their disks and starts them again.
func (e *experiment) offline(do func()) {
	e.t.Helper()
	for _, server := range busServers() {
		check(e.t, e.Halt(server, syscall.SIGKILL))
	}
	do()
	for _, server := range busServers() {
		check(e.t, e.Resume(server))
	}
	e.ready(busServers()...)
}

// busServers are all servers of the bus, also those that are away.
func busServers() (all []string) {
	for n := range servers {
		all = append(all, fmt.Sprintf("bus-%d", n+1))
	}
	return all
}

// emptied removes everything in a folder.
func emptied(folder string) error {
	entries, err := os.ReadDir(folder)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(folder, entry.Name())))
	}
	return err
}

// Fault 5: somebody brings back a backup of the servers' disks that is older than what nodes hold.
// Promise P3: a bus that went back takes no node back.
func TestAnOldBackupOfTheBusIsBroughtBack(t *testing.T) {
	onlyLong(t)
	e := begin(t, "old backup of the bus restored")
	backup := t.TempDir()
	e.offline(func() {
		for _, server := range busServers() {
			check(t, copied(e.Disk(server), filepath.Join(backup, server)))
		}
	})
	e.whileChanging(func() { e.lasts(5 * time.Second) })
	e.converges(soon)
	e.strikes()
	e.offline(func() {
		for _, server := range busServers() {
			check(t, errors.Join(emptied(e.Disk(server)), copied(filepath.Join(backup, server), e.Disk(server))))
		}
	})
	e.converges(anew)
	e.wroteNothing()
}

// copied copies what is in a folder.
func copied(from, to string) error {
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", from, to, err, out)
	}
	return nil
}

// Fault 5: somebody deletes a stream: people are told, whoever writes it makes it anew, and nodes write nothing.
// Promise P3: losing what a stream knew changes no forwarding.
func TestAStreamIsDeleted(t *testing.T) {
	onlyLong(t)
	e := begin(t, "a stream deleted")
	for _, stream := range schemas.Streams {
		e.strikes()
		e.deleteStream(stream.Name)
		e.named("event", silentWithin, func() bool {
			return e.witness.said(e.struck, stream.Name, streams.Missing, streams.RolledBack)
		})
		e.made(stream.Name)
		e.converges(soon)
		e.wroteNothing()
	}
	e.whileChanging(func() {
		for _, stream := range schemas.Streams {
			e.deleteStream(stream.Name)
			e.made(stream.Name)
		}
	})
	e.converges(soon)
}

func (e *experiment) deleteStream(name string) {
	e.t.Helper()
	repair, err := bus.Connect(e.t.Context(), e.RepairOptions())
	check(e.t, err)
	defer repair.Close()
	answer, err := repair.Request(e.t.Context(), "$JS.API.STREAM.DELETE."+name, nil)
	check(e.t, err)
	var deleted struct{ Success bool }
	if json.Unmarshal(answer, &deleted) != nil || !deleted.Success {
		e.t.Fatalf("deleting stream %s: %s", name, answer)
	}
}

// made waits until a stream is there again.
func (e *experiment) made(name string) {
	e.t.Helper()
	waitFor(e.t, "stream "+name+" to be made anew", func() bool {
		is, err := e.Conn().StreamState(e.t.Context(), name)
		return err == nil && !is.Missing && is.Leader != ""
	})
}

// Fault 5: the disk of a server that leads a stream is full; somebody makes room, and its liveness probe restarts it.
// Promise P1: nodes have each change, though a server of the bus can write nothing.
func TestTheDiskOfAServerIsFull(t *testing.T) {
	onlyLong(t)
	e := begin(t, "disk of a server full")
	server := e.streamLeader("DELTA")
	file := filepath.Join(e.Disk(server), "full")
	check(t, fill(file))
	e.whileChanging(func() { e.lasts(cutOff()) })
	e.converges(soon)
	check(t, os.Remove(file))
	if err := e.health(server, "/healthz?js-enabled-only=true"); err != nil {
		t.Logf("the liveness probe restarts it: %v", err)
		e.kill(server)
		e.runs()
	}
	e.ready(server)
	e.converges(soon)
}

// fill writes a file until nothing fits any more.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 1<<16); len(block) > 0; {
		if _, err := file.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			return err
		}
	}
	return nil
}
