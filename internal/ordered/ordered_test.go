// SPDX-License-Identifier: Apache-2.0

package ordered

import (
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type number struct{ n, square int }

func TestThingsComeOutInTheOrderInWhichTheyWentIn(t *testing.T) {
	var got []int
	q := New(func(x *number) { x.square = x.n * x.n }, func(x *number) error {
		got = append(got, x.square)
		return nil
	})
	var want []int
	for i := range 5 * ahead {
		if i%1000 == 7 {
			if err := q.Do(func() error { got = append(got, -i); return nil }); err != nil {
				t.Fatal(err)
			}
			want = append(want, -i)
		}
		if err := q.Add(number{n: i}); err != nil {
			t.Fatal(err)
		}
		want = append(want, i*i)
	}
	if err := q.Close(); err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d things came out (%v), want %d in order", len(got), err, len(want))
	}
}

func TestTheFirstErrorEndsIt(t *testing.T) {
	bad := errors.New("bad")
	handed := 0
	q := New(func(*number) {}, func(x *number) error {
		if handed++; x.n == 10 {
			return bad
		}
		return nil
	})
	var err error
	for i := 0; err == nil; i++ {
		err = q.Add(number{n: i}) // fails at the latest when what is under way has filled
	}
	if !errors.Is(err, bad) {
		t.Errorf("adding fails with %v, want %v", err, bad)
	}
	if err := q.Close(); !errors.Is(err, bad) || handed != 11 {
		t.Errorf("it ended with %v after %d things, want %v after 11", err, handed, bad)
	}
}
