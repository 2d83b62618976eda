// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"
	"hash/fnv"
)

// A node makes its own keys, as many as it likes, and nobody keeps a list of them. So that one node can be put out all the
// same, whatever keys it has, nodes are divided by their names, and the credentials of each part are signed with a key of
// its own. Who has a node put out replaces that key: the servers close the connections of the part, and all of it but the
// one node joins again by its tokens.

// nodeParts bounds who joins again when one node is put out: of 5,000 nodes some 160. Each part adds about 1 KB to the
// accounts.
const nodeParts = 32

// partKey signs the credentials that watchers give to a part of the nodes. roleKey(RoleNode) signs those in files.
func partKey(part int) string { return fmt.Sprintf("%s-%02d", roleKey(RoleNode), part) }

// partOf returns the part, of so many, in which a user is.
func partOf(user string, parts int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(user)) // never fails
	return int(h.Sum32() % uint32(parts))
}

// roleKeys are all keys that sign credentials of a role.
func roleKeys(role string) []string {
	keys := []string{roleKey(role)}
	if role == RoleNode {
		keys = append(keys, partKeys()...)
	}
	return keys
}

func partKeys() (keys []string) {
	for part := range nodeParts {
		keys = append(keys, partKey(part))
	}
	return keys
}
