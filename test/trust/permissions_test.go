// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// A node whose name is no token of a subject.
const dotted = "ip-10-0-0-1.example.internal"

// stage is a bus with the deployed configuration, and someone of each kind.
type stage struct {
	server *embedded.Server
	folder *trust.Folder
	// paths are the folders with the credentials of each, by role's name, and of nodes by theirs.
	paths map[string]string
}

func newStage(t testing.TB) *stage {
	t.Helper()
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{folder: folder, paths: map[string]string{}}
	for _, role := range []string{trust.RoleWatcher, trust.RoleCompiler, trust.RoleOperator, trust.RoleReader, trust.RoleAdmin, trust.RoleSystem} {
		s.paths[role] = folder.Path(role)
	}
	for _, node := range []string{"node-a", "node-b", dotted} {
		if err := folder.Node(node); err != nil {
			t.Fatal(err)
		}
		s.paths[node] = folder.NodePath(node)
	}
	if s.server, err = embedded.Start(embedded.Options{Trust: folder.BusPath()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.server.Shutdown)
	return s
}

func (s *stage) enter(t testing.TB, who string) *raw {
	t.Helper()
	r, err := knock(t, s.server.URL(), s.paths[who])
	if err != nil {
		t.Fatalf("%s: %v", who, err)
	}
	return r
}

const (
	nobody   = ""
	pipeline = "watcher compiler operator"
	allNodes = "node-a node-b " + dotted
)

// subjects are all there are, who may publish there and who may listen. What happens to somebody else's node is the same
// for all: node-a stands for it.
var subjects = []struct{ subject, publish, listen string }{
	{schemas.StateSubject("Pod", "shop", "cart"), "watcher", nobody},
	{schemas.SubjectStateEpoch, "watcher", nobody},
	{schemas.DeltaSubject("cluster"), "compiler", nobody},
	{schemas.DeltaSubject("node.node-a"), "compiler", nobody},
	{schemas.SubjectEpoch, "compiler", nobody},
	{schemas.SubjectCheckpoint, "compiler", nobody},
	{schemas.SubjectHold, "compiler", nobody},
	{schemas.ApplySubject("cluster"), "compiler", allNodes},
	{schemas.ApplySubject("node.node-a"), "compiler", "node-a"},
	{schemas.ApplySubject("node." + dotted), "compiler", dotted},
	{schemas.SubjectHeartbeat, "compiler", pipeline + " " + allNodes},
	{schemas.SubjectStatus, pipeline, "compiler"},
	{schemas.SubjectDesired, "operator", "compiler"},
	{schemas.SubjectApprove, "operator", "watcher"},
	{schemas.SubjectRollback, "operator", "compiler"},
	{schemas.SubjectResume, "operator", "compiler"},
	{schemas.SubjectSeen, "operator", "watcher"},
	{schemas.PulseSubject("watcher"), "watcher", "watcher compiler operator"},
	{schemas.PulseSubject("compiler"), "compiler", "compiler operator"},
	{schemas.AppliedSubject("node-a"), "node-a", pipeline},
	{schemas.AppliedSubject(dotted), dotted, pipeline},
	{schemas.SyncSubject("node-a"), "node-a", "compiler"},
	{schemas.CredentialSubject("node-a"), "node-a", "watcher"},
	{schemas.ActualSubject("node-a"), "operator", "node-a"},
	{schemas.FlowsSubject("node-a"), "operator", "node-a"},
	{schemas.EventSubject("watcher", ""), "watcher", "operator"},
	{schemas.EventSubject("compiler", ""), "compiler", "operator watcher"},
	{schemas.EventSubject("programmer", "node-a"), "node-a", "operator"},
	{schemas.SubjectAllState, nobody, nobody},
	{schemas.SubjectAllDeltas, nobody, nobody},
	{schemas.SubjectAllApply, nobody, nobody},
	{schemas.SubjectAllApplied, nobody, pipeline},
	{schemas.SubjectAllEvents, nobody, "operator"},
	{schemas.SubjectAllSyncs, nobody, "compiler"},
	{schemas.SubjectAllCredentials, nobody, "watcher"},
	{schemas.SubjectAllPulses, nobody, "compiler operator"},
	{schemas.InboxPrefix("compiler") + ".x", nobody, "compiler"},
	{schemas.InboxPrefix("node-a") + ".x", nobody, "node-a"},
	{schemas.InboxPrefix(schemas.User(dotted)) + ".x", nobody, dotted},
	{"_INBOX.x", nobody, nobody},
	{"_INBOX.>", nobody, nobody},
	{"_R_.x", nobody, nobody},
	{"_R_.>", nobody, nobody},
	{">", nobody, nobody},
	{"*", nobody, nobody},
	{"deltaplane.>", nobody, nobody},
	{"$SYS.REQ.USER.AUTH", "system", "system"}, // in the system account nobody asks there
	{"$SYS.REQ.SERVER.PING", "system", "system"},
	{"$SYS.>", nobody, "system"},
	{"$JS.API.INFO", "admin", nobody},
	{"$JS.API.STREAM.INFO.DELTA", pipeline + " admin", nobody},
	{"$JS.API.STREAM.CREATE.STATE", "watcher compiler admin", nobody},
	{"$JS.API.STREAM.UPDATE.DELTA", "compiler admin", nobody},
	{"$JS.API.STREAM.CREATE.OTHER", "admin", nobody},
	{"$JS.API.STREAM.DELETE.STATE", "admin", nobody},
	{"$JS.API.STREAM.PURGE.STATE", "admin", nobody},
	{"$JS.API.STREAM.MSG.DELETE.STATE", "admin", nobody},
	{"$JS.API.STREAM.SNAPSHOT.STATE", "admin", nobody},
	{"$JS.API.STREAM.RESTORE.STATE", "admin", nobody},
	{"$JS.API.CONSUMER.CREATE.STATE.x.y", pipeline + " admin", nobody},
	{"$JS.API.CONSUMER.CREATE.DELTA.x.y", "compiler operator admin", nobody},
	{"$JS.API.CONSUMER.MSG.NEXT.DELTA.x", "compiler operator admin", nobody},
	{"$JS.API.DIRECT.GET.DELTA", "compiler operator admin", nobody},
	{"$JS.ACK.DELTA.x.1.1.1.1.1", "admin", nobody},
	{"$JS.FC.DELTA.x.1", nobody, nobody},
	{"DPJS.STREAM.INFO.STATE", "reader", nobody},
	{"DPJS.DIRECT.GET.DELTA", "reader", nobody},
	{"DPJS.CONSUMER.CREATE.DELTA.x.y", nobody, nobody},
	{"DPJS.STREAM.PURGE.DELTA", nobody, nobody},
}

// Everyone tries every subject. What isn't listed for someone must be refused.
//
// Promise P9: no user can publish or hear what its role isn't for, on any subject there is.
func TestEachUserMayDoWhatItsRoleSaysAndNothingElse(t *testing.T) {
	s := newStage(t)
	for _, who := range slices.Sorted(maps.Keys(s.paths)) {
		t.Run(who, func(t *testing.T) {
			r := s.enter(t, who)
			for _, try := range subjects {
				if !strings.ContainsAny(try.subject, "*>") {
					r.publish(try.subject, "", nil)
					check(t, r, "publish on "+try.subject, slices.Contains(strings.Fields(try.publish), who))
				}
				r.subscribe(try.subject)
				check(t, r, "listen on "+try.subject, slices.Contains(strings.Fields(try.listen), who))
				r.send("UNSUB %d\r\n", r.sids)
			}
		})
	}
}

func check(t *testing.T, r *raw, what string, allowed bool) {
	t.Helper()
	refused, _, err := r.sync()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got := len(refused) == 0; got != allowed {
		t.Errorf("%s: allowed %v, want %v %v", what, got, allowed, refused)
	}
}

// Who has no credential, or one that a stranger made, doesn't come in.
func TestStrangersStayOutside(t *testing.T) {
	s, other := newStage(t), newStage(t)
	ca := filepath.Join(s.paths["node-a"], trust.FileCA)
	for who, folder := range other.paths {
		_, err := knockAs(t, s.server.URL(), ca, filepath.Join(folder, trust.FileCredentials), "")
		if err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
			t.Errorf("%s of another operator: %v", who, err)
		}
	}
}
