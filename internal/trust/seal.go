// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// sealPath is the private key that a service seals what it says with.
func (r *ring) sealPath(service string) string { return r.folder + "/seal-" + service + ".pem" }

// seal returns the private key with which a service seals, in PEM (PKCS #8), and its public half (PKIX).
func (r *ring) seal(service string) (private, public []byte, err error) {
	path := r.sealPath(service)
	private, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		private, err = makeSeal(path)
	}
	if err != nil {
		return nil, nil, wrap("the key that the "+service+" seals with", err)
	}
	block, _ := pem.Decode(private)
	if block == nil {
		return nil, nil, fmt.Errorf("read the key that the %s seals with: %s has no PEM", service, path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read the key that the %s seals with from %s: %w", service, path, err)
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("read the key that the %s seals with: %s has no ed25519 key", service, path)
	}
	public, err = publicPEM(signer.Public())
	return private, public, err
}

func makeSeal(path string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := privatePEM(key)
	if err != nil {
		return nil, err
	}
	return text, write(path, text)
}

// sealsOf returns the public keys of a service that are trusted, the one in use first.
func (r *ring) sealsOf(services ...string) (all []byte, err error) {
	for _, service := range services {
		for _, generation := range []string{"", next, old} {
			if generation != "" && !exists(r.sealPath(service+generation)) {
				continue
			}
			_, public, err := r.seal(service + generation)
			if err != nil {
				return nil, err
			}
			all = append(all, public...)
		}
	}
	return all, nil
}
