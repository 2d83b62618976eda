// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

// The kinds of users there are.
const (
	RoleWatcher  = "watcher"
	RoleCompiler = "compiler"
	RoleOperator = "operator"
	RoleNode     = "node"
	RoleReader   = "reader"
	RoleAdmin    = "admin"
	RoleJoining  = "joining"
	RoleDoor     = "door"
	RoleSystem   = "system"
)

// Role is a kind of user and what it may do.
type Role struct {
	Name, Account string
	// Who says for people who has it.
	Who string
	// Publish and Subscribe are the subjects, with NATS's wildcards; {{name()}} is the user's own name. What isn't
	// named is forbidden.
	Publish, Subscribe []string
	// Answers allows to answer whoever asked.
	Answers bool
	// Subscriptions bounds how many there are at a time; 0 is the server's bound.
	Subscriptions int64
}

// Roles are all kinds of users, and all permissions on the bus.
var Roles = []Role{
	{
		Name: RoleWatcher, Account: AccountPipeline, Who: "the watchers",
		Publish: join(
			[]string{schemas.SubjectAllState, schemas.SubjectStateEpoch, schemas.EventSubject("watcher", ""), schemas.PulseSubject("watcher")},
			[]string{schemas.SubjectStatus},
			inspect(schemas.Streams...), keep(schemas.StateFacts, schemas.EventLog), read(schemas.StateFacts), consume(schemas.StateFacts),
		),
		Subscribe: []string{
			own(inbox), schemas.SubjectApprove, schemas.SubjectSeen, schemas.SubjectAllCredentials, schemas.PulseSubject("watcher"),
			schemas.SubjectHeartbeat, schemas.SubjectAllApplied, schemas.EventSubject("compiler", ""),
		},
		Answers: true,
	},
	{
		Name: RoleCompiler, Account: AccountPipeline, Who: "the compilers",
		Publish: join(
			[]string{schemas.SubjectAllDeltas, schemas.SubjectAllApply, schemas.SubjectHeartbeat, schemas.EventSubject("compiler", ""), schemas.PulseSubject("compiler")},
			[]string{schemas.SubjectStatus},
			inspect(schemas.Streams...), keep(schemas.Streams...), read(schemas.Streams...), consume(schemas.Streams...),
		),
		Subscribe: []string{
			own(inbox), schemas.SubjectStatus, schemas.SubjectRollback, schemas.SubjectResume, schemas.SubjectDesired, schemas.SubjectAllSyncs, schemas.SubjectAllApplied,
			schemas.SubjectHeartbeat, schemas.SubjectAllPulses,
		},
		Answers: true,
	},
	{
		Name: RoleOperator, Account: AccountPipeline, Who: "people with the command line",
		Publish: join(
			[]string{schemas.SubjectStatus, schemas.SubjectDesired, schemas.SubjectApprove, schemas.SubjectRollback, schemas.SubjectResume, schemas.SubjectSeen, every(schemas.ActualSubject), every(schemas.FlowsSubject)},
			inspect(schemas.Streams...), read(schemas.Streams...), consume(schemas.Streams...),
		),
		Subscribe: []string{own(inbox), schemas.SubjectAllApplied, schemas.SubjectAllEvents, schemas.SubjectHeartbeat, schemas.SubjectAllPulses},
	},
	{
		Name: RoleNode, Account: AccountNodes, Who: "a node's programmer",
		Publish: []string{
			own(schemas.SyncSubject), own(schemas.AppliedSubject), own(schemas.CredentialSubject),
			own(func(node string) string { return schemas.EventSubject("programmer", node) }),
		},
		Subscribe: []string{
			own(inbox), schemas.ApplySubject("cluster"), own(func(node string) string { return schemas.ApplySubject("node." + node) }),
			schemas.SubjectHeartbeat, own(schemas.ActualSubject), own(schemas.FlowsSubject),
		},
		Answers: true, Subscriptions: nodeSubscriptions,
	},
	{
		Name: RoleReader, Account: AccountReaders, Who: "programs that only read, such as the audit subscriber",
		Publish:   underReadPrefix(join(inspect(schemas.Streams...), read(schemas.Streams...))),
		Subscribe: []string{own(inbox)},
	},
	{
		Name: RoleJoining, Account: AccountJoin, Who: "a programmer that shows its ServiceAccount token to become a node",
	},
	{
		Name: RoleDoor, Account: AccountJoin, Who: "the watchers, where they look at those tokens",
		Subscribe: []string{SubjectDoor}, Answers: true,
	},
	{
		Name: RoleAdmin, Account: AccountPipeline, Who: "people who repair streams, with the nats command line",
		Publish:   []string{"$JS.API.>", "$JS.SNAPSHOT.>", "$JS.ACK.>"},
		Subscribe: []string{own(inbox), "$JS.EVENT.>"},
	},
	{
		Name: RoleSystem, Account: AccountSystem, Who: "people who operate the servers",
		Publish: []string{"$SYS.REQ.>"}, Subscribe: []string{own(inbox), "$SYS.>"},
	},
}

// RoleNamed returns a role of the table.
func RoleNamed(name string) Role {
	for _, r := range Roles {
		if r.Name == name {
			return r
		}
	}
	panic("trust: no role " + name)
}

// ownName is where the server puts the user's name.
const ownName = "{{name()}}"

// own is a subject of a node, of the user's own name; every is that of any node.
func own(subject func(node string) string) string   { return replaceNode(subject, ownName) }
func every(subject func(node string) string) string { return replaceNode(subject, "*") }

func replaceNode(subject func(node string) string, with string) string {
	const node = "NODE" // is its own token
	return strings.Replace(subject(node), node, with, 1)
}

// inbox is where a user hears answers: others must not.
func inbox(user string) string { return schemas.InboxPrefix(schemas.User(user)) + ".>" }

// inspect are the requests how streams stand.
func inspect(streams ...schemas.Stream) []string {
	return api(streams, "$JS.API.STREAM.INFO.%")
}

// keep are the requests to make streams and to change them; not to remove or purge them.
func keep(streams ...schemas.Stream) []string {
	return api(streams, "$JS.API.STREAM.CREATE.%", "$JS.API.STREAM.UPDATE.%")
}

// read are the requests for messages that are stored.
func read(streams ...schemas.Stream) []string {
	return api(streams, "$JS.API.DIRECT.GET.%", "$JS.API.DIRECT.GET.%.>")
}

// consume are the requests by which a stream is followed. They are not for readers: who makes a consumer says where it
// sends, and that could be where others listen.
func consume(streams ...schemas.Stream) []string {
	return api(streams, "$JS.API.CONSUMER.CREATE.%.>", "$JS.API.CONSUMER.INFO.%.*", "$JS.API.CONSUMER.MSG.NEXT.%.*", "$JS.API.CONSUMER.DELETE.%.*")
}

func api(streams []schemas.Stream, forms ...string) (all []string) {
	for _, form := range forms {
		for _, s := range streams {
			all = append(all, strings.Replace(form, "%", s.Name, 1))
		}
	}
	return all
}

func underReadPrefix(subjects []string) (all []string) {
	for _, s := range subjects {
		all = append(all, readSubject(s))
	}
	return all
}

// readSubject is what a request of the JetStream API is called in the readers' account.
func readSubject(api string) string { return strings.Replace(api, "$JS.API", ReadPrefix, 1) }

func join(lists ...[]string) (all []string) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
