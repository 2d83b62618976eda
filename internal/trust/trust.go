// SPDX-License-Identifier: Apache-2.0

// Package trust says who may do what on the bus, and makes the keys and files that hold everyone to it: a NATS operator,
// accounts, users, TLS certificates, and the keys that deltas and facts are sealed with.
//
// It promises that the permissions in the table of roles are all that there are: the accounts, docs/reference and the
// tests are made from it. A user's own file holds no permission, only who it is; what that may do stands in the
// accounts, which the servers read. So a change of permissions needs new accounts on the servers, and no new file for
// anybody else. Only this package imports nats-io/jwt.
//
// The one thing to know before changing it: whoever asks chooses where the answer goes, and the server doesn't check
// that against the asker's permissions. In one account, a node could have answers sent to where other nodes listen for
// deltas. That is why nodes are in an account of their own and reach the pipeline through imported services, whose
// answers come back into the nodes' account alone; and why no stream there answers to a report.
package trust

import (
	"fmt"
	"time"
)

// The accounts. Subjects of one don't exist in the others, but for what is imported.
const (
	// AccountPipeline has the streams, the watcher, the compiler and the people who operate the cluster.
	AccountPipeline = "PIPELINE"
	// AccountNodes has the programmers.
	AccountNodes = "NODES"
	// AccountReaders has who only reads the streams.
	AccountReaders = "READERS"
	// AccountJoin is where a node without a credential shows its ServiceAccount token. Nothing else is there.
	AccountJoin = "JOIN"
	// AccountSystem is the servers' own: their events and statistics.
	AccountSystem = "SYS"
)

// ReadPrefix stands for $JS.API in the readers' account.
const ReadPrefix = "DPJS"

// NodeCredentialTime is how long a node's credential is good. It is renewed after half of it. A node that is gone, or a copy
// of its credential, is out after that at the latest; and the API server may be away for half of it without any node
// having to leave the bus.
const NodeCredentialTime = 12 * time.Hour

// What a server may be asked for, and not more, by one user.
const (
	// nodeSubscriptions are enough for what a programmer listens to and for its requests under way.
	nodeSubscriptions = 32
	// answersMax and answersWithin bound how often and how long whoever was asked may answer.
	answersMax    = 4096
	answersWithin = time.Minute
)

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
