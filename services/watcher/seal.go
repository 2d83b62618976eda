// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/schemas"
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

// fieldNumber is the number of Fact.number; a test holds it to the generated code.
const fieldNumber protowire.Number = 4

// number gives an encoded fact a number above those of all before it, in STATE and of this watcher. It is the time where
// that is above them, so that it goes on growing where STATE was lost.
func (w *service) number(fact []byte) []byte {
	w.highest = max(w.highest+1, uint64(time.Now().UnixMicro()))
	b := make([]byte, 0, len(fact)+11)
	b = protowire.AppendTag(append(b, fact...), fieldNumber, protowire.VarintType)
	return protowire.AppendVarint(b, w.highest)
}

// order says whether a fact that this watcher opens, read after all before it, is an old one that was put back.
func (s *session) order(fact *schemas.Fact) (old bool) {
	number := fact.GetNumber()
	if number <= s.read {
		return true
	}
	s.read = number
	s.highest = max(s.highest, number)
	return false
}
