// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func TestEachHasItsOwnShare(t *testing.T) {
	l, now := New(rate.Every(time.Second), 2), time.Now()
	for i, test := range []struct {
		who   string
		after time.Duration
		want  bool
	}{
		{"a", 0, true}, {"a", 0, true}, {"a", 0, false}, {"b", 0, true}, {"a", time.Second, true}, {"a", time.Second, false},
	} {
		if got := l.Allow(test.who, now.Add(test.after)); got != test.want {
			t.Errorf("%d: %s may %v, want %v", i, test.who, got, test.want)
		}
	}
}

func TestHoweverManyAskMemoryIsBounded(t *testing.T) {
	l, now := New(rate.Every(time.Second), 1), time.Now()
	for i := range 2 * most {
		l.Allow(fmt.Sprint(i), now)
	}
	if len(l.each) > most+1 {
		t.Errorf("%d are told apart, want at most %d", len(l.each), most)
	}
	if now = now.Add(time.Minute); !l.Allow("new", now) || len(l.each) != 1 {
		t.Errorf("%d are remembered that have long asked for nothing", len(l.each)-1)
	}
}
