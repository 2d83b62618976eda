// SPDX-License-Identifier: Apache-2.0

package seal

import "crypto/sha256"

// hash is of a leaf or node of a Merkle tree.
type hash [sha256.Size]byte

// What is hashed begins with one of these (RFC 9162, section 2.1.1), so that no node can stand for a leaf.
const (
	leafPrefix = 0
	nodePrefix = 1
)

// leafOf hashes a message. What is hashed, after the prefix: the domain's length in one byte, the domain, the message.
func leafOf(d Domain, message []byte) (leaf hash) {
	h := sha256.New()
	head := make([]byte, 0, 64)
	head = append(append(head, leafPrefix, byte(len(d))), d...)
	h.Write(head)
	h.Write(message)
	h.Sum(leaf[:0])
	return leaf
}

func nodeOf(left, right []byte) hash {
	var b [1 + 2*len(hash{})]byte
	b[0] = nodePrefix
	copy(b[1:], left)
	copy(b[1+len(hash{}):], right)
	return sha256.Sum256(b[:])
}

// tree is a Merkle tree, level by level: the leaves first, the root alone in the last. A node without a neighbour is
// the same one level up, which comes to the tree of RFC 9162.
type tree [][]hash

func treeOf(leaves []hash) tree {
	t := tree{leaves}
	for level := leaves; len(level) > 1; {
		up := make([]hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			up = append(up, nodeOf(level[i][:], level[i+1][:]))
		}
		if len(level)%2 == 1 {
			up = append(up, level[len(level)-1])
		}
		t, level = append(t, up), up
	}
	return t
}

func (t tree) root() hash { return t[len(t)-1][0] }

// path sets the way from a leaf to the root: the neighbours to be hashed with, lowest first (section 2.1.3.1).
func (t tree) path(m *mark) {
	m.pathLength = 0
	for i, level := int(m.index), 0; level < len(t)-1; i, level = i/2, level+1 {
		if beside := i ^ 1; beside < len(t[level]) {
			m.path[m.pathLength] = t[level][beside][:]
			m.pathLength++
		}
	}
}

// rootBy follows a leaf's path to the root (section 2.1.3.2); ok is false if it can't be one of such a tree.
func (m *mark) rootBy(leaf hash) (root hash, ok bool) {
	at, last := m.index, m.count-1
	for _, p := range m.path[:m.pathLength] {
		if last == 0 {
			return hash{}, false
		}
		if at%2 == 1 || at == last {
			leaf = nodeOf(p, leaf[:])
			for at%2 == 0 && at > 0 {
				at, last = at>>1, last>>1
			}
		} else {
			leaf = nodeOf(leaf[:], p)
		}
		at, last = at>>1, last>>1
	}
	return leaf, last == 0
}
