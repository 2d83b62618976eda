// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// leader is an Elector that runs and says on began when it leads; what comes on end is what leading ends with.
type leader struct {
	began chan context.Context
	end   chan error
	done  chan error
	stop  context.CancelFunc
}

func elect(t *testing.T, client *fake.Clientset, name string) *leader {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &leader{make(chan context.Context, 1), make(chan error), make(chan error, 1), stop}
	e := Elector{
		Client: client, Namespace: "deltaplane-system", Name: name, Log: slog.New(slog.DiscardHandler),
		Duration: 3 * time.Second, Renew: time.Second, Retry: 20 * time.Millisecond,
	}
	go func() {
		l.done <- e.Run(ctx, func(ctx context.Context) error {
			l.began <- ctx
			select {
			case err := <-l.end:
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		<-l.done
	})
	return l
}

func holder(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	lease, err := client.CoordinationV1().Leases("deltaplane-system").Get(t.Context(), LeaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

func TestOnlyTheHolderOfTheLeaseLeads(t *testing.T) {
	client := fake.NewClientset()
	first := elect(t, client, "first")
	<-first.began
	second := elect(t, client, "second")
	select {
	case <-second.began:
		t.Fatal("the second leads while the first holds the Lease")
	case <-time.After(200 * time.Millisecond):
	}
	first.stop()
	<-second.began // at once: the Lease was given up, not left to run out
	if got := holder(t, client); got[:len("second_")] != "second_" {
		t.Errorf("the Lease is held by %q", got)
	}
}

func TestWhoStopsLeadingGivesTheLeaseUpAndStandsAgain(t *testing.T) {
	l := elect(t, fake.NewClientset(), "only")
	<-l.began
	l.end <- errors.New("deposed")
	<-l.began
}

func TestALostLeaseEndsLeading(t *testing.T) {
	client := fake.NewClientset()
	var away atomic.Bool
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return away.Load(), nil, errors.New("the API server is away")
	})
	l := elect(t, client, "first")
	leading := <-l.began
	away.Store(true)
	<-leading.Done()
}

func TestAnElectorThatIsStoppedWhileStandingByEnds(t *testing.T) {
	client := fake.NewClientset()
	first := elect(t, client, "first")
	<-first.began
	second := elect(t, client, "second")
	second.stop()
	if err := <-second.done; err != nil {
		t.Error(err)
	}
	second.done <- nil
}
