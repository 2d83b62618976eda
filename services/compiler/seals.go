// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// seals are the keys by which this compiler seals what it says and believes what it reads.
type seals struct {
	signer *keyfile.Signer
	trust  *keyfile.Trust
}

// openSeals reads the keys. What is missing is said loudly: then others on the bus may decide about packets.
func (s *service) openSeals() error {
	signer, err := keyfile.OpenSigner(s.settings.signingKey, s.log)
	if err != nil {
		return fmt.Errorf("--signing-key: %w", err)
	}
	trust, err := keyfile.OpenTrust(s.settings.trustedKeys, s.log)
	if err != nil {
		return fmt.Errorf("--trusted-keys: %w", err)
	}
	s.seals = seals{signer, trust}
	switch {
	case trust == nil:
		s.log.Warn("NOTHING ON THE BUS IS CHECKED: whoever may write to STATE or DELTA decides about packets; give --trusted-keys")
	case signer.Signer == nil:
		return fmt.Errorf("--trusted-keys without --signing-key: this compiler would not believe what it has written itself")
	case !trust.Has(signer.ID()):
		return fmt.Errorf("the key in --signing-key %s, %s, is not among those in --trusted-keys %s: this compiler would not believe what it has written itself; add its public key there first",
			s.settings.signingKey, signer.ID(), s.settings.trustedKeys)
	}
	if signer.Signer == nil {
		s.log.Warn("NOTHING IS SEALED: nodes with --trusted-keys will not believe this compiler; give --signing-key")
	}
	if trust != nil {
		s.metrics.checked.Set(1)
	}
	return nil
}

// follow signs by the key that stands in the file now.
func (s *seals) follow(log *slog.Logger) {
	if s.signer.Follow() && s.trust != nil && !s.trust.Has(s.signer.ID()) {
		log.Error("the new signing key is not among the trusted keys: no compiler will believe what is written from now on; add its public key there",
			"key", s.signer.ID().String())
	}
}

// checkRecord says why a record of DELTA isn't to be used.
func (s *service) checkRecord(r *bus.Record) error {
	domain, sealed := core.DomainOf(r.Subject, r.Data)
	if !sealed {
		_, err := bus.ReadEpoch(r.Data)
		return err
	}
	_, err := s.seals.trust.Open(domain, r.Data)
	return err
}

// openFact reads a message of STATE.
func (s *service) openFact(r *bus.Record) (*schemas.Fact, error) {
	body, err := s.seals.trust.Open(seal.Fact, r.Data)
	if err != nil {
		return nil, err
	}
	fact := &schemas.Fact{}
	if err := wire.Unmarshal(body, fact); err != nil {
		return nil, err
	}
	o := fact.GetObject()
	if subject := schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName()); subject != r.Subject {
		return nil, fmt.Errorf("it is about the object of subject %s", subject)
	}
	return fact, nil
}

// strange counts messages that aren't used, and says of which one an event is due: of the first, then one in a while.
type strange struct {
	mu    sync.Mutex
	count int
	next  time.Time
}

// strangeEvery bounds the events about messages that aren't used.
const strangeEvery = 10 * time.Second

func (s *strange) due(now time.Time) (count int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if now.Before(s.next) {
		return 0, false
	}
	count, s.count, s.next = s.count, 0, now.Add(strangeEvery)
	return count, true
}

func (s *service) refuseRecord(r bus.Record, bad error) {
	s.refuse(fmt.Sprintf("message %d of DELTA, on %s,", r.Sequence, r.Subject), bad)
}

// refuse counts a message whose seal isn't good, or that is an old one, and tells of it.
func (s *service) refuse(where string, err error) {
	s.metrics.unsealed.Inc()
	if count, due := s.unsealed.due(time.Now()); due {
		kind := "unsealed_message"
		if errors.Is(err, errPutBack) {
			kind = "replayed_fact"
		}
		s.tell(&schemas.Event{
			Severity: schemas.Severity_SEVERITY_ERROR, Service: "compiler", Kind: kind, Happened: now(),
			Text: fmt.Sprintf("%s isn't used: %v (%d messages since the last time this was said)", where, err, count),
		})
	}
}
