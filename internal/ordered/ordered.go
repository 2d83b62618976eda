// SPDX-License-Identifier: Apache-2.0

// Package ordered works on many things at the same time and hands them on one after the other, in the order in which they
// came: such as checking signatures while a stream is read.
//
// It promises that order, that a bounded number is under way, and that no goroutine outlives Close. The first error ends
// it: what came after is dropped.
package ordered

import (
	"runtime"
	"sync"
)

// ahead is how many things are under way at most.
const ahead = 1024

// Queue takes things by Add and Do, from one goroutine.
type Queue[T any] struct {
	waiting chan *task[T] // for their turn
	work    chan *task[T]
	stop    chan struct{} // closed by the first error
	err     error         // of each; to be read once stop is closed
	workers sync.WaitGroup
	done    chan struct{}
}

type task[T any] struct {
	thing T
	ready chan struct{}
	then  func() error
}

// New returns a queue that calls prepare for each thing, of several at the same time, then each, one after the other.
func New[T any](prepare func(*T), each func(*T) error) *Queue[T] {
	q := &Queue[T]{
		waiting: make(chan *task[T], ahead), work: make(chan *task[T], ahead), stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range runtime.GOMAXPROCS(0) {
		q.workers.Go(func() {
			for t := range q.work {
				prepare(&t.thing)
				close(t.ready)
			}
		})
	}
	go func() {
		defer close(q.done)
		q.hand(each)
	}()
	return q
}

// hand hands things on until Close, or until the first error; then it drops what comes.
func (q *Queue[T]) hand(each func(*T) error) {
	for t := range q.waiting {
		if q.err != nil {
			continue
		}
		if t.then != nil {
			q.err = t.then()
		} else {
			<-t.ready
			q.err = each(&t.thing)
		}
		if q.err != nil {
			close(q.stop)
		}
	}
}

// Add takes one thing; it waits while too many are under way. It returns the error that has ended the queue.
func (q *Queue[T]) Add(thing T) error {
	t := &task[T]{thing: thing, ready: make(chan struct{})}
	if err := q.put(q.work, t); err != nil {
		return err
	}
	return q.put(q.waiting, t)
}

// Do runs f between what was added before and what is added later.
func (q *Queue[T]) Do(f func() error) error { return q.put(q.waiting, &task[T]{then: f}) }

func (q *Queue[T]) put(to chan<- *task[T], t *task[T]) error {
	select {
	case <-q.stop:
		return q.err
	default:
	}
	select {
	case to <- t:
		return nil
	case <-q.stop:
		return q.err
	}
}

// Close waits until all that was added is handed on, and returns the error that has ended it. Nothing may be added after.
func (q *Queue[T]) Close() error {
	close(q.work)
	close(q.waiting)
	q.workers.Wait()
	<-q.done
	return q.err
}
