// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// What services say when they have read a file of keys, and when a server has closed their connection.
const (
	believes = "messages are used only if sealed by one of these keys"
	sealsNew = "messages are sealed by another key"
	lostBus  = "lost the bus"
)

// deployed is a cluster on a bus with the deployed configuration, whose services have the files of the folder itself: what
// deltaplane trust writes there is in their hands. The cluster changes all the time.
type deployed struct {
	*hostile
	server                  *embedded.Server
	watcher, compiler, node *process
	size                    int // endpoints there are
	next                    time.Time
}

func newDeployed(t *testing.T) *deployed {
	t.Helper()
	keys := newKeys(t)
	server, err := embedded.Start(embedded.Options{Trust: keys.BusPath()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	operator := keys.Path(trust.RoleOperator)
	d := &deployed{server: server, hostile: meet(t, keys, bus.Options{
		URL: server.URL(), Name: "whoever asks", User: trust.RoleOperator,
		CredentialsFile: filepath.Join(operator, trust.FileCredentials), RootCAFile: filepath.Join(operator, trust.FileCA),
	})}
	d.endpoints(1)
	for _, role := range []string{trust.RoleWatcher, trust.RoleCompiler, trust.RoleNode} {
		d.restart(role)
	}
	d.until("the node holds what the cluster is", d.agrees)
	return d
}

// restart ends a service, if it runs, and starts it.
func (d *deployed) restart(role string) *process {
	d.t.Helper()
	is := map[string]**process{trust.RoleWatcher: &d.watcher, trust.RoleCompiler: &d.compiler, trust.RoleNode: &d.node}[role]
	if *is != nil {
		(*is).stop()
	}
	switch role {
	case trust.RoleWatcher:
		*is = d.runs("watcher", d.keys.Path(role), trust.FileSeal, "--source", "directory", "--directory", d.yaml)
	case trust.RoleCompiler:
		*is = d.runs("compiler", d.keys.Path(role), trust.FileSeal)
	default:
		*is = d.runs("programmer", d.keys.NodePath("node-a"), "", "--node", "node-a", "--maps", "memory")
	}
	return *is
}

// runs starts a service with the files of a folder; it believes whom the folder says, but for the watcher, who reads nothing.
func (d *deployed) runs(program, folder, seal string, args ...string) *process {
	args = append(args, "--bus-credentials", filepath.Join(folder, trust.FileCredentials), "--bus-ca", filepath.Join(folder, trust.FileCA))
	if seal != "" {
		args = append(args, "--signing-key", filepath.Join(folder, seal))
	}
	if program != "watcher" {
		args = append(args, "--trusted-keys", filepath.Join(folder, trust.FileSeals))
	}
	return d.start(d.url, ownAddress(), program, args...)
}

// until waits for something, while the cluster changes.
func (d *deployed) until(what string, so func() bool) {
	d.t.Helper()
	was := false
	defer func() {
		if !was {
			d.t.Errorf("it isn't so that %s", what)
		}
	}()
	testkit.Eventually(d.t, 15*soon, func() bool {
		if now := time.Now(); now.After(d.next) {
			d.next = now.Add(100 * time.Millisecond)
			d.size = d.size%20 + 1
			d.endpoints(d.size)
		}
		was = so()
		return was
	})
}

// removeAnother adds a Service and takes it away, so that STATE remembers one that is gone.
func (d *deployed) removeAnother() {
	d.t.Helper()
	path := filepath.Join(d.yaml, "another.yaml")
	if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Service\nmetadata: {name: another, namespace: shop}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.until("STATE has the Service", func() bool { fact := d.fact("another"); return fact.GetService() != nil })
	if err := os.Remove(path); err != nil {
		d.t.Fatal(err)
	}
	d.until("STATE knows that the Service is gone", func() bool { fact := d.fact("another"); return fact != nil && fact.GetService() == nil })
}

// fact is what STATE says of a Service; nil if nothing.
func (d *deployed) fact(service string) (fact *schemas.Fact) {
	d.t.Helper()
	err := d.conn.Read(d.t.Context(), bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.StateSubject("Service", "shop", service)}},
		func(r bus.Record) error {
			fact = &schemas.Fact{}
			return proto.Unmarshal(r.Data, fact)
		})
	if err != nil {
		d.t.Fatal(err)
	}
	return fact
}

// agrees says whether the node holds what the cluster is, or was when it was asked.
func (d *deployed) agrees() bool {
	backends, _, err := d.dump("node-a")
	return err == nil && backends == d.size
}

// step takes the next step of replacing a key, as people do.
func (d *deployed) step(key, says string) {
	d.t.Helper()
	out, err := exec.Command(filepath.Join(d.bin, "deltaplane"), "trust", "rotate", filepath.Dir(d.keys.BusPath()), key).CombinedOutput()
	if err != nil || !strings.Contains(string(out), says) {
		d.t.Fatalf("deltaplane trust rotate %s: %v, want it to say that %s:\n%s", key, err, says, out)
	}
	if strings.Contains(string(out), "reload") {
		if err := d.server.Reload(); err != nil {
			d.t.Fatal(err)
		}
	}
}

// after does something, and waits until processes have said something once more than before.
func (d *deployed) after(do func(), what string, by ...*process) {
	d.t.Helper()
	var before []int
	for _, p := range by {
		before = append(before, p.log.says(what))
	}
	do()
	d.until("each has said that "+what, func() bool {
		return !slices.ContainsFunc(by, func(p *process) bool { return p.log.says(what) <= before[slices.Index(by, p)] })
	})
}

// sealed says whether all of STATE, and the newest checkpoint, are sealed with the keys in use.
func (d *deployed) sealed(service string) bool {
	key, err := seal.ParsePrivateKey(file(d.t, filepath.Join(d.keys.Path(service), trust.FileSeal)))
	if err != nil {
		d.t.Fatal(err)
	}
	want, stream, subject := seal.NewSigner(key).ID(), schemas.StateFacts.Name, schemas.SubjectAllState
	if service == trust.RoleCompiler {
		stream, subject = schemas.Deltas.Name, schemas.SubjectCheckpoint
	}
	all, newest := true, false
	err = d.conn.Read(d.t.Context(), bus.ReadOptions{Stream: stream, Subjects: []string{subject}}, func(r bus.Record) error {
		newest = seal.KeyOf(r.Data) == want
		all = all && newest
		return nil
	})
	return err == nil && (all || newest && service == trust.RoleCompiler)
}

// allBelieved checks that no message was refused by anyone.
func (d *deployed) allBelieved() {
	d.t.Helper()
	if n := d.compiler.counts()[unsealedAtCompiler]; n > 0 {
		d.t.Errorf("the compiler has refused %v messages", n)
	}
	if n := d.node.counts()[unsealedAtNode]; n > 0 {
		d.t.Errorf("the node has refused %v messages", n)
	}
}

// The keys that watchers and compilers seal with are replaced under way, by the command, in the order that it says: nobody
// refuses any message, and who begins afterwards, with the new keys alone, believes all there is, also that an object is gone.
//
// Promise P7: the keys that decide can be replaced while the cluster works.
func TestSealsAreReplacedWithoutAGap(t *testing.T) {
	d := newDeployed(t)
	readers := map[string][]*process{trust.RoleWatcher: {d.compiler}, trust.RoleCompiler: {d.compiler, d.node}}
	signers := map[string]*process{trust.RoleWatcher: d.watcher, trust.RoleCompiler: d.compiler}
	d.removeAnother()
	for _, service := range []string{trust.RoleCompiler, trust.RoleWatcher} {
		key := "seal-" + service
		d.after(func() { d.step(key, "a new key is believed") }, believes, readers[service]...)
		d.after(func() { d.step(key, "the new key is used") }, sealsNew, signers[service])
		d.until("all is sealed with the new key of the "+service, func() bool { return d.sealed(service) })
		d.after(func() { d.step(key, "the old key is believed no more") }, believes, readers[service]...)
		d.until("the node holds what the cluster is", d.agrees)
	}
	d.allBelieved()
	d.restart(trust.RoleCompiler)
	d.restart(trust.RoleNode)
	d.until("the node holds what the cluster is", d.agrees)
	d.allBelieved()
}

// The keys that make users' credentials are replaced under way, and who uses them is started again once it has been given new
// ones. The old key lets in until it is given up; then no connection is lost, and nobody was refused at any time.
//
// Promise P9: the keys that let users in can be replaced while they work.
func TestKeysOfUsersAreReplacedWithoutAGap(t *testing.T) {
	d := newDeployed(t)
	for _, role := range []string{trust.RoleNode, trust.RoleCompiler, trust.RoleWatcher} {
		d.step(role, "a new key is believed")
		d.until("the node holds what the cluster is", d.agrees)
		d.step(role, "the new key is used")
		user := d.restart(role)
		d.until("the node holds what the cluster is", d.agrees)
		lost := user.log.says(lostBus)
		d.step(role, "the old key is believed no more")
		d.until("the node holds what the cluster is", d.agrees)
		if n := user.log.says(lostBus); n > lost {
			t.Errorf("the %s lost its connection when the key was given up that it doesn't use", role)
		}
	}
	for who, p := range map[string]*process{"watcher": d.watcher, "compiler": d.compiler, "node": d.node} {
		if n := strings.Count(strings.ToLower(p.log.String()), "violation"); n > 0 {
			t.Errorf("the server has refused the %s %d times", who, n)
		}
	}
	d.allBelieved()
}
