// SPDX-License-Identifier: Apache-2.0

// Package keyfile keeps the keys of package seal in files, and follows the files when they change, so that keys are
// rotated without a restart: trust gets the new key first, then who signs, then trust loses the old one.
//
// It promises that a file that can't be read or understood any more changes nothing: the keys it held before stay in use,
// and the log says why. An empty path is no error but an intention, so callers say loudly what it leaves unchecked.
package keyfile

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/seal"
)

// every is how often a file is read again at most.
const every = time.Second

// Signer signs by the key in a file.
type Signer struct {
	*seal.Signer // nil without a file
	file         file
}

// OpenSigner reads the private key in a file. Without a path its Signer is nil, which seals nothing.
func OpenSigner(path string, log *slog.Logger) (*Signer, error) {
	s := &Signer{file: file{path: path, log: log}}
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	key, err := seal.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read the signing key in %s: %w", path, err)
	}
	s.Signer, s.file.content, s.file.next = seal.NewSigner(key), data, time.Now().Add(every)
	log.Info("messages are sealed", "key", s.ID().String(), "file", path)
	return s, nil
}

// Follow takes over what has become of the file, and says whether the key has changed. Call it as often as you like: it
// reads once a second at most.
func (s *Signer) Follow() (changed bool) {
	data := s.file.changed()
	if data == nil {
		return false
	}
	key, err := seal.ParsePrivateKey(data)
	if err != nil {
		s.file.complain(err)
		return false
	}
	s.Replace(key)
	s.file.accept(data)
	s.file.log.Info("messages are sealed by another key", "key", s.ID().String(), "file", s.file.path)
	return true
}

// Trust opens what the keys in a file have sealed. A nil one checks nothing.
type Trust struct {
	trust *seal.Trust
	file  file
}

// OpenTrust reads the public keys in a file. Without a path it returns nil, which checks nothing.
func OpenTrust(path string, log *slog.Logger) (*Trust, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the trusted keys: %w", err)
	}
	t := &Trust{trust: seal.NewTrust(), file: file{path: path, log: log}}
	if err := t.use(data); err != nil {
		return nil, fmt.Errorf("read the trusted keys in %s: %w", path, err)
	}
	t.file.next = time.Now().Add(every)
	return t, nil
}

func (t *Trust) use(data []byte) error {
	keys, err := seal.ParsePublicKeys(data)
	if err != nil {
		return err
	}
	t.trust.Replace(keys...)
	t.file.accept(data)
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = seal.IDOf(k).String()
	}
	t.file.log.Info("messages are used only if sealed by one of these keys", "keys", names, "file", t.file.path)
	return nil
}

// Open is seal.Trust's, by the keys that the file holds, or held a second ago. It may be called from several goroutines.
func (t *Trust) Open(d seal.Domain, data []byte) ([]byte, error) {
	if t == nil {
		return data, nil
	}
	if content := t.file.changed(); content != nil {
		if err := t.use(content); err != nil {
			t.file.complain(err)
		}
	}
	return t.trust.Open(d, data)
}

// Has says whether a key is trusted at the moment.
func (t *Trust) Has(key seal.KeyID) bool { return t.trust.Has(key) }

// file is one that is read again from time to time.
type file struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	content []byte // what is in use
	next    time.Time
	said    string
}

// changed returns what the file holds if that isn't what is in use; nil else, and when it isn't due.
func (f *file) changed() []byte {
	if f.path == "" || !f.due() {
		return nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		f.complain(err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if bytes.Equal(data, f.content) {
		f.said = ""
		return nil
	}
	return data
}

func (f *file) due() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.next) {
		return false
	}
	f.next = now.Add(every)
	return true
}

func (f *file) accept(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content, f.said = data, ""
}

// complain says once why what the file holds isn't used.
func (f *file) complain(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.said != err.Error() {
		f.said = err.Error()
		f.log.Error("keys stay as they were: their file can't be used", "file", f.path, "error", err)
	}
}
