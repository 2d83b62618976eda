// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// FileRevoked names the nodes that the watchers let in no more, one a line.
	FileRevoked = "revoked-nodes"
	// fileRevokedKeys has the public keys of nodes' files that are worth nothing any more, each with the second since 1970
	// when that was said. It only grows: such files have no end.
	fileRevokedKeys = "revoked-keys"
)

// Revoke puts a node out until Allow: the watchers neither let it in nor give it a credential, and what was given to it,
// for whatever keys, the bus's servers refuse as soon as they have read the accounts. It returns which files changed,
// relative to the folder. It may be run again.
func (f *Folder) Revoke(node string) (changed []string, err error) {
	if node == "" || strings.ContainsAny(node, " \t\r\n/") {
		return nil, fmt.Errorf("put node %q out: that is no node's name", node)
	}
	revoked, err := f.Revoked()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(revoked, node) {
		revoked = append(revoked, node)
	}
	if err := f.writeRevoked(revoked); err != nil {
		return nil, err
	}
	// Each generation, so that the step of a replacement that is under way stays the same for all parts.
	for _, key := range f.keys.generations(partKey(partOf(schemas.User(node), nodeParts))) {
		if _, err := f.keys.make(key); err != nil {
			return nil, err
		}
	}
	if err := f.revokeFile(node); err != nil {
		return nil, err
	}
	return []string{filepath.Join(RoleWatcher, FileRevoked), filepath.Join(RoleWatcher, FileNodes), filepath.Join(folderBus, fileAccounts)},
		errors.Join(f.Accounts(), f.services())
}

// Allow lets a node in again that was put out: by its ServiceAccount, or with files that Node makes. It returns which
// files changed.
func (f *Folder) Allow(node string) (changed []string, err error) {
	revoked, err := f.Revoked()
	if err != nil {
		return nil, err
	}
	at := slices.Index(revoked, node)
	if at < 0 {
		return nil, fmt.Errorf("node %s isn't put out: those are: %s", node, strings.Join(revoked, ", "))
	}
	return []string{filepath.Join(RoleWatcher, FileRevoked)}, f.writeRevoked(slices.Delete(revoked, at, at+1))
}

// Revoked returns the nodes that are put out.
func (f *Folder) Revoked() ([]string, error) { return readRevoked(f.Path(RoleWatcher)) }

func (f *Folder) writeRevoked(nodes []string) error {
	slices.Sort(nodes)
	return write(f.file(RoleWatcher, FileRevoked), []byte(strings.Join(append(nodes, ""), "\n")))
}

func readRevoked(folder string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, FileRevoked))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read which nodes are put out: %w", err)
	}
	return strings.Fields(string(text)), nil
}

// revokeFile refuses a node's file from now on, if it has one, and removes it.
func (f *Folder) revokeFile(node string) error {
	key := userKey(RoleNode, schemas.User(node))
	if !exists(f.keys.path(key)) {
		return nil
	}
	public, err := f.keys.public(key)
	if err != nil {
		return err
	}
	known, err := f.revokedKeys()
	if err != nil {
		return err
	}
	known[public] = time.Now().Unix()
	text := &bytes.Buffer{}
	for public, at := range known {
		fmt.Fprintf(text, "%s %d\n", public, at)
	}
	return errors.Join(write(f.file(folderKeys, fileRevokedKeys), text.Bytes()), os.RemoveAll(f.NodePath(node)), os.Remove(f.keys.path(key)))
}

// revokedKeys are the public keys in fileRevokedKeys: JWTs for them are refused that were made up to a time.
func (f *Folder) revokedKeys() (jwt.RevocationList, error) {
	list := jwt.RevocationList{}
	path := f.file(folderKeys, fileRevokedKeys)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read which keys are revoked: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		public, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		if list[public], err = strconv.ParseInt(at, 10, 64); err != nil {
			return nil, fmt.Errorf("read which keys are revoked: %s has the line %q", path, line)
		}
	}
	return list, nil
}
