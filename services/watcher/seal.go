// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
)

// openKey reads the key that seals facts.
func (w *service) openKey() error {
	signer, err := keyfile.OpenSigner(w.settings.signingKey, w.log)
	if err != nil {
		return fmt.Errorf("--signing-key: %w", err)
	}
	if w.signer = signer; signer.Signer == nil {
		w.log.Warn("FACTS ARE NOT SEALED: compilers with --trusted-keys will not believe this watcher; give --signing-key")
		return nil
	}
	w.metrics.seals.Set(1)
	return nil
}

// ours opens what this watcher has sealed, or another by the same key; nil if nothing is sealed. A fact that it doesn't
// open, of before there were keys or before they were rotated, is said anew.
func (w *service) ours() *seal.Trust {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.signer.Signer == nil {
		return nil
	}
	if id := w.signer.ID(); w.own == nil || !w.own.Has(id) {
		w.own = seal.NewTrust(w.signer.Public())
	}
	return w.own
}
