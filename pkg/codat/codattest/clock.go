package codattest

import (
	"slices"
	"sync"
	"time"
)

// A schedule is a clock that calls functions later.
type schedule interface {
	Now() time.Time
	after(d time.Duration, f func())
	stop()
}

// A Clock stands still until Advance. It is safe for concurrent use, but for Advance from what Advance calls.
type Clock struct {
	mu      sync.Mutex
	now     time.Time
	stopped bool
	due     []timer // by time; of the same time in the order in which they were set
}

type timer struct {
	at time.Time
	f  func()
}

// NewClock returns a clock that shows a time.
func NewClock(now time.Time) *Clock { return &Clock{now: now} }

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock, and does on the way, one after the other, what is due: pushes end, and webhooks are attempted.
// All of it has ended when Advance returns. Advance(0) does what is due now.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	target := c.now.Add(d)
	for len(c.due) > 0 && !c.due[0].at.After(target) && !c.stopped {
		next := c.due[0]
		c.due = c.due[1:]
		c.now = next.at
		c.mu.Unlock()
		next.f()
		c.mu.Lock()
	}
	c.now = target
	c.mu.Unlock()
}

func (c *Clock) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := timer{c.now.Add(max(d, 0)), f}
	i, _ := slices.BinarySearchFunc(c.due, t, func(a, b timer) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1 // also of the same time: t comes behind it
	})
	c.due = slices.Insert(c.due, i, t)
}

func (c *Clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.due = true, nil
}

// realTime is the time of the machine.
type realTime struct {
	mu      sync.Mutex
	stopped bool
	timers  map[*time.Timer]bool
	running sync.WaitGroup
}

func newRealTime() *realTime { return &realTime{timers: map[*time.Timer]bool{}} }

func (r *realTime) Now() time.Time { return time.Now() }

func (r *realTime) after(d time.Duration, f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.running.Add(1)
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		defer r.running.Done()
		r.mu.Lock()
		delete(r.timers, t)
		r.mu.Unlock()
		f()
	})
	r.timers[t] = true
}

// stop waits for the functions that run, and calls no other.
func (r *realTime) stop() {
	r.mu.Lock()
	r.stopped = true
	for t := range r.timers {
		if t.Stop() {
			r.running.Done()
		}
	}
	r.mu.Unlock()
	r.running.Wait()
}
