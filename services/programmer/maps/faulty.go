// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// ErrInjected is a failure that Faulty was asked for.
var ErrInjected = errors.New("injected failure")

// Faulty wraps maps and fails on demand. An operation is one entry written, one grace or one epoch begun: the
// points at which a programmer can be killed or the kernel can refuse.
type Faulty struct {
	Maps
	// FailAt is the operation that fails, counted from 1; 0 is none.
	FailAt int
	// Probability is the chance of each operation to fail, from 0 to 1; Random must be set with it.
	Probability float64
	Random      *rand.Rand
	// Before, if set, is called before each operation that doesn't fail.
	Before func(operation int)

	operations int
}

// Operations counts the operations so far, the failed ones too.
func (f *Faulty) Operations() int { return f.operations }

// Write implements Maps: what comes before the failing entry is written.
func (f *Faulty) Write(writes []Write) error {
	for i := range writes {
		if err := f.operation(); err != nil {
			return fmt.Errorf("writing an entry of map %s: %w", writes[i].Map, err)
		}
		if err := f.Maps.Write(writes[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// Grace implements Maps.
func (f *Faulty) Grace() error {
	if err := f.operation(); err != nil {
		return fmt.Errorf("waiting for running programs: %w", err)
	}
	return f.Maps.Grace()
}

// Judge implements Maps.
func (f *Faulty) Judge(policed bool) error {
	if err := f.operation(); err != nil {
		return fmt.Errorf("having connections judged again: %w", err)
	}
	return f.Maps.Judge(policed)
}

func (f *Faulty) operation() error {
	f.operations++
	if f.operations == f.FailAt || f.Probability > 0 && f.Random.Float64() < f.Probability {
		return fmt.Errorf("operation %d: %w", f.operations, ErrInjected)
	}
	if f.Before != nil {
		f.Before(f.operations)
	}
	return nil
}
