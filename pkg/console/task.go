package console

import (
	"context"
	"sync"
	"time"
)

// A task runs in the background, one at a time, and keeps its last result. Viewers share it.
type task[T any] struct {
	mu      sync.Mutex // guards what follows
	running bool
	what    string // is read now
	done    uint64
	total   uint64
	began   time.Time
	last    taskResult[T]
}

// A taskResult is how a task ended. At is zero before the first one has.
type taskResult[T any] struct {
	At    time.Time // the end
	Took  time.Duration
	By    string
	Value T
	Err   error
}

// A taskView is a task as a page shows it.
type taskView[T any] struct {
	Running     bool
	What        string
	Done, Total uint64
	Began       time.Time
	Last        taskResult[T]
}

// progress says what a task does.
type progress func(what string, done, total uint64)

// start runs f unless the task runs already, until it ends, limit is over or stopped is closed. It does not wait for the end.
func (t *task[T]) start(by string, limit time.Duration, stopped <-chan struct{}, f func(context.Context, progress) (T, error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		return
	}
	began := time.Now()
	t.running, t.began, t.what, t.done, t.total = true, began, "", 0, 0
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	ended := make(chan struct{})
	go func() {
		select {
		case <-stopped:
		case <-ended:
		}
		cancel()
	}()
	go func() {
		defer close(ended)
		value, err := f(ctx, func(what string, done, total uint64) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.what, t.done, t.total = what, done, total
		})
		t.mu.Lock()
		defer t.mu.Unlock()
		t.running = false
		t.last = taskResult[T]{time.Now(), time.Since(began), by, value, err}
	}()
}

// view returns the task as it is now.
func (t *task[T]) view() taskView[T] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return taskView[T]{t.running, t.what, t.done, t.total, t.began, t.last}
}
