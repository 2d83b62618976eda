// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// The kinds of PEM blocks (RFC 7468, sections 10 and 13).
const (
	pemPrivate = "PRIVATE KEY"
	pemPublic  = "PUBLIC KEY"
)

// EncodePrivateKey returns a key as PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
func EncodePrivateKey(key ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("seal: encode a private key: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der})
}

// EncodePublicKey returns a key as PKIX in PEM, as `openssl pkey -pubout` writes it. Several together, one after the
// other, are a file of trusted keys.
func EncodePublicKey(key ed25519.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("seal: encode a public key: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der})
}

// ParsePrivateKey reads the one Ed25519 key in PEM.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("it holds no PEM block: want one PRIVATE KEY (PKCS #8), as `deltaplane trust init` or `openssl genpkey -algorithm ed25519` writes it")
	case block.Type != pemPrivate || len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("it begins with a PEM block %s and has %d bytes after it: want one PRIVATE KEY (PKCS #8) alone", block.Type, len(rest))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a key of type %T: want Ed25519", key)
	}
	return private, nil
}

// ParsePublicKeys reads one or more Ed25519 keys in PEM.
func ParsePublicKeys(data []byte) (keys []ed25519.PublicKey, err error) {
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("after %d keys it holds something that is no PEM block: want PUBLIC KEYs (PKIX), as `deltaplane trust init` writes them", len(keys))
		}
		if block.Type != pemPublic {
			return nil, fmt.Errorf("block %d is a %s: want PUBLIC KEY (PKIX)", len(keys)+1, block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		public, ok := key.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("key %d is of type %T: want Ed25519", len(keys)+1, key)
		}
		keys = append(keys, public)
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key: want one PUBLIC KEY (PKIX) or more")
	}
	return keys, nil
}
