// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/jwt/v2"
)

// renewNodes writes anew what nodes were given as files, and returns which files of that name there are, relative to the
// folder.
func (f *Folder) renewNodes(file string) (changed []string, err error) {
	users, err := f.given(folderNodes)
	for _, user := range users {
		err = errors.Join(err, f.node(user))
		changed = append(changed, filepath.Join(folderNodes, user, file))
	}
	return changed, err
}

// renewPeople writes anew the credentials of people with a role, and returns the files. Who has which role shows in who
// signed what they have: the key in use, or the one before.
func (f *Folder) renewPeople(role string) (changed []string, err error) {
	var signers []string
	for _, key := range f.keys.generations(roleKey(role)) {
		public, err := f.keys.public(key)
		if err != nil {
			return nil, err
		}
		signers = append(signers, public)
	}
	names, err := f.given(folderUsers)
	for _, name := range names {
		file := filepath.Join(folderUsers, name, FileCredentials)
		signer, reading := signerOf(filepath.Join(f.path, file))
		if err = errors.Join(err, reading); reading != nil || !slices.Contains(signers, signer) {
			continue
		}
		err = errors.Join(err, f.credentials(role, name, filepath.Join(f.path, file)))
		changed = append(changed, file)
	}
	return changed, err
}

// given are the users that have a folder of their own in one of these.
func (f *Folder) given(folder string) (users []string, err error) {
	entries, err := os.ReadDir(f.Path(folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look who has files of the folder: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			users = append(users, e.Name())
		}
	}
	return users, nil
}

// signerOf returns the public key of who signed the credentials in a file.
func signerOf(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read credentials: %w", err)
	}
	token, err := jwt.ParseDecoratedJWT(text)
	if err != nil {
		return "", fmt.Errorf("read credentials from %s: %w", path, err)
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", fmt.Errorf("read credentials from %s: %w", path, err)
	}
	return claims.Issuer, nil
}
