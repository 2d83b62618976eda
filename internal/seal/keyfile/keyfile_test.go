// SPDX-License-Identifier: Apache-2.0

package keyfile

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deltaplane/deltaplane/internal/seal"
)

func key(number byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{number}, ed25519.SeedSize))
}

func public(numbers ...byte) (file []byte) {
	for _, n := range numbers {
		file = append(file, seal.EncodePublicKey(key(n).Public().(ed25519.PublicKey))...)
	}
	return file
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Promise P7: keys are rotated without a moment in which a message isn't trusted, and the old one is worth nothing after.
func TestKeysAreRotatedWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signing, trusted := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "keys")
		write(t, signing, seal.EncodePrivateKey(key(1)))
		write(t, trusted, public(1))
		log := slog.New(slog.DiscardHandler)
		signer, err := OpenSigner(signing, log)
		if err != nil {
			t.Fatal(err)
		}
		trust, err := OpenTrust(trusted, log)
		if err != nil {
			t.Fatal(err)
		}
		old := signer.SealOne(seal.Delta, []byte{})
		opens := func(when string, message []byte) {
			t.Helper()
			if _, err := trust.Open(seal.Delta, message); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		opens("before", old)
		write(t, trusted, public(1, 2))
		<-time.After(2 * every)
		opens("trust has both, the old key signs", signer.SealOne(seal.Delta, []byte{}))
		write(t, signing, seal.EncodePrivateKey(key(2)))
		<-time.After(2 * every)
		if !signer.Follow() || signer.Follow() {
			t.Fatal("the signer doesn't say once that its key has changed")
		}
		opens("the new key signs", signer.SealOne(seal.Delta, []byte{}))
		opens("what the old one signed", old)
		write(t, trusted, public(2))
		<-time.After(2 * every)
		opens("trust has the new key alone", signer.SealOne(seal.Delta, []byte{}))
		if _, err := trust.Open(seal.Delta, old); !errors.Is(err, seal.ErrUnknownKey) {
			t.Fatalf("what the old key signed: %v, want ErrUnknownKey", err)
		}
	})
}

func TestABadFileChangesNothingAndIsNamedOnce(t *testing.T) {
	for name, content := range map[string][]byte{
		"removed":    nil,
		"empty":      {},
		"half":       append(public(1), "-----BEGIN PUB"...),
		"wrong kind": []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signing, trusted := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "keys")
				write(t, signing, seal.EncodePrivateKey(key(1)))
				write(t, trusted, public(1))
				var said bytes.Buffer
				log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelError}))
				signer, errSigner := OpenSigner(signing, log)
				trust, errTrust := OpenTrust(trusted, log)
				if err := errors.Join(errSigner, errTrust); err != nil {
					t.Fatal(err)
				}
				for _, path := range []string{signing, trusted} {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					if content != nil {
						write(t, path, content)
					}
				}
				for range 3 {
					<-time.After(2 * every)
					if signer.Follow() {
						t.Fatal("the key has changed")
					}
					if _, err := trust.Open(seal.Fact, signer.SealOne(seal.Fact, []byte{})); err != nil {
						t.Fatal(err)
					}
				}
				if n := strings.Count(said.String(), "level=ERROR"); n != 2 {
					t.Fatalf("%d errors are logged, want one a file:\n%s", n, said.String())
				}
			})
		})
	}
}

func TestAFileThatCannotBeUsedIsAnErrorAtTheStart(t *testing.T) {
	folder := t.TempDir()
	good, bad := filepath.Join(folder, "good"), filepath.Join(folder, "bad")
	write(t, good, seal.EncodePrivateKey(key(1)))
	write(t, bad, append(seal.EncodePrivateKey(key(1)), seal.EncodePrivateKey(key(2))...))
	log := slog.New(slog.DiscardHandler)
	for _, path := range []string{bad, filepath.Join(folder, "none")} {
		if _, err := OpenSigner(path, log); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a signer by %s: %v", path, err)
		}
	}
	for _, path := range []string{good, filepath.Join(folder, "none")} {
		if _, err := OpenTrust(path, log); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("trust by %s: %v", path, err)
		}
	}
}

func TestWithoutFilesNothingIsSealedAndNothingChecked(t *testing.T) {
	signer, err := OpenSigner("", nil)
	if err != nil || signer.Signer != nil || signer.Follow() {
		t.Fatalf("a signer without a file is %v, %v", signer.Signer, err)
	}
	trust, err := OpenTrust("", nil)
	if err != nil || trust != nil {
		t.Fatalf("trust without a file is %v, %v", trust, err)
	}
	if got, err := trust.Open(seal.Delta, signer.SealOne(seal.Delta, []byte("x"))); err != nil || string(got) != "x" {
		t.Fatalf("it opens to %q, %v", got, err)
	}
}
