// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaseName is the Lease that the leading watcher holds.
const LeaseName = "deltaplane-watcher"

// The times of the Lease. They bound how long nobody leads after a crash, and are about half of what Kubernetes' own
// controllers have: that two lead at once for a moment is harmless here, since STATE's epoch lets only one write.
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = time.Second
)

// Elector chooses one of several watchers by a Lease.
type Elector struct {
	Client    kubernetes.Interface
	Namespace string
	Name      string // of this watcher, for people
	Log       *slog.Logger
	// Times of the Lease; zero are the defaults.
	Duration, Renew, Retry time.Duration
}

// Run calls lead whenever this watcher holds the Lease, until ctx ends. lead's context ends when the Lease is lost;
// the Lease is given up when lead returns.
func (e Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	if e.Duration == 0 {
		e.Duration, e.Renew, e.Retry = leaseDuration, renewDeadline, retryPeriod
	}
	for ctx.Err() == nil {
		e.Log.Info("standing by until the Lease is free", "lease", e.Namespace+"/"+LeaseName)
		c := &candidacy{lead: lead, outer: ctx}
		if err := c.run(e); err != nil {
			return err
		}
		if c.err != nil {
			e.Log.Warn("gave up the Lease", "lease", e.Namespace+"/"+LeaseName, "error", c.err)
		}
		select {
		case <-time.After(e.Retry):
		case <-ctx.Done():
		}
	}
	return nil
}

// candidacy is one time of waiting for the Lease and, if it comes to that, leading.
type candidacy struct {
	lead  func(context.Context) error
	outer context.Context

	release context.CancelFunc // gives the Lease up, or ends the waiting for it

	mu      sync.Mutex
	leading chan struct{} // closed when lead has returned; nil if it was never called
	over    bool          // ctx ended before lead was called
	err     error         // what lead returned
}

func (c *candidacy) run(e Elector) error {
	// The Lease outlives the outer context: it is given up only after lead has returned.
	held, release := context.WithCancel(context.WithoutCancel(c.outer))
	defer release()
	c.release = release
	defer context.AfterFunc(c.outer, c.abandon)()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: LeaseName},
			Client:     e.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.Name + "_" + rand.Text()},
		},
		LeaseDuration: e.Duration, RenewDeadline: e.Renew, RetryPeriod: e.Retry,
		ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: c.started, OnStoppedLeading: func() {}},
	})
	if err != nil {
		return fmt.Errorf("elect a leader by Lease %s/%s: %w", e.Namespace, LeaseName, err)
	}
	elector.Run(held)
	release()
	c.mu.Lock()
	leading := c.leading
	c.over = true
	c.mu.Unlock()
	if leading != nil {
		<-leading
	}
	return nil
}

// abandon ends the waiting for the Lease; one who leads is ended by the outer context itself.
func (c *candidacy) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leading == nil {
		c.over = true
		c.release()
	}
}

// started leads until the Lease is lost, the outer context ends or lead returns.
func (c *candidacy) started(held context.Context) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.leading = make(chan struct{})
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(held)
	defer cancel()
	defer context.AfterFunc(c.outer, cancel)()
	c.err = c.lead(ctx)
	close(c.leading)
	c.release()
}
