// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/schemas"
)

// EnsureStreams makes the streams as described, or changes those that are there in place, keeping what is stored.
// What the server can't change in place is an error that says so. replicas is 1, 3 or 5.
// Servers that are just starting, or still busy removing a stream of the same name, are waited for.
func (c *Conn) EnsureStreams(ctx context.Context, replicas int, streams ...schemas.Stream) error {
	end := time.Now().Add(startingTime)
	for _, s := range streams {
		err := c.ensureStream(ctx, replicas, s)
		for try := 0; passing(err) && time.Now().Before(end) && wait(ctx, backoff(try)) == nil; try++ {
			c.log.Info("the bus isn't ready to keep a stream: trying again", "stream", s.Name, "error", err)
			err = c.ensureStream(ctx, replicas, s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// startingTime bounds the wait for a cluster that has no leader yet. Such a one may also swallow a question: it is asked
// again after askAgain.
const (
	startingTime = 30 * time.Second
	askAgain     = 2 * time.Second
)

// passing says whether an error may be over soon: servers that haven't found together yet say so, or nothing, and one
// that still removes the files of a stream can't make one of the same name.
func passing(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == codeNotReady || refused.ErrorCode == codeNotMade) || errors.Is(err, context.DeadlineExceeded)
}

func (c *Conn) ensureStream(ctx context.Context, replicas int, s schemas.Stream) error {
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	stored, err := c.js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = c.js.CreateStream(ctx, describe(jetstream.StreamConfig{}, s, replicas)); err != nil {
			return fmt.Errorf("create stream %s with %d replicas: %w", s.Name, replicas, c.explainStream(err))
		}
		c.log.Info("a stream was missing and is there now", "stream", s.Name, "replicas", replicas)
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", s.Name, c.explainStream(err))
	}
	was := stored.CachedInfo().Config
	if was.Retention != jetstream.LimitsPolicy || was.Storage != jetstream.FileStorage {
		return fmt.Errorf("stream %s is there with %s storage and %s retention, which can't be changed in place; it needs file storage and limits: remove it, deltaplane makes it anew from Kubernetes",
			s.Name, was.Storage, was.Retention)
	}
	wanted := describe(was, s, replicas)
	if reflect.DeepEqual(was, wanted) {
		return nil
	}
	if _, err := c.js.UpdateStream(ctx, wanted); err != nil {
		return fmt.Errorf("change stream %s in place: %w; to begin anew remove it, deltaplane fills it from Kubernetes",
			s.Name, c.explainStream(err))
	}
	return nil
}

// describe sets over a stream's configuration what deltaplane decides; what operators may add, such as placement,
// stays.
func describe(config jetstream.StreamConfig, s schemas.Stream, replicas int) jetstream.StreamConfig {
	config.Name, config.Description, config.Subjects = s.Name, s.Description, s.Subjects
	config.Storage, config.Retention = jetstream.FileStorage, jetstream.LimitsPolicy
	config.Replicas = replicas
	// One that operators made larger stays so.
	config.MaxAge, config.MaxBytes = s.MaxAge, max(s.MaxBytes, config.MaxBytes)
	config.MaxMsgSize, config.MaxMsgsPerSubject = cmp.Or(s.MaxMessage, -1), cmp.Or(s.MaxPerSubject, -1)
	config.Discard = jetstream.DiscardOld
	if s.LastPerSubject {
		// Losing an old object for a new one would be silent; refusing the new one is not.
		config.MaxMsgsPerSubject, config.Discard = 1, jetstream.DiscardNew
	}
	config.AllowAtomicPublish, config.AllowMsgTTL = s.Atomic, s.Expiring
	config.AllowDirect, config.NoAck = true, s.Silent
	return config
}

func (c *Conn) explainStream(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return ErrNoStream
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the NATS server keeps no streams: start it with JetStream (-js): %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the bus didn't answer in time: %w", err)
	}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == codeNoStorage {
		return fmt.Errorf("the server has too little storage left for the stream's reserved size: raise max_file_store or make room: %w", err)
	}
	return c.explain(err)
}
