package workers

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

const (
	// breakAfter is how many different events in a row must be unavailable before the worker pauses.
	breakAfter = 3
	// probeMin and probeMax bound the pause before the next probe, which doubles while probes fail.
	probeMin = time.Second
	probeMax = 30 * time.Second
	// maxProbeSkips bounds how many unavailable events a probe skips to find another one, and how many deliveries it takes
	// to find one whose handler runs.
	maxProbeSkips = 100
	// maxRemembered bounds the events whose unavailability is remembered; above it all of them are forgotten.
	maxRemembered = 10_000
)

// breaker pauses a worker while something that all of its events need is unavailable. After breakAfter different
// unavailable events in a row it opens: the worker takes only one probe at a time, until an attempt ends in any other way.
// Then it closes. Each process has a breaker of its own.
type breaker struct {
	mu          sync.Mutex
	streak      map[claims.Key]bool   // the different events that were unavailable in a row
	successes   map[string]uint64     // of each handler, ever
	successesAt map[claims.Key]uint64 // successes of its handler when an event was last unavailable
	firstPause  time.Duration         // before the first probe
	probePause  time.Duration         // before the next probe; zero while closed
	since       time.Time             // when it opened
	now         func() time.Time
	closed      chan struct{} // closed while the breaker is closed
	opened      chan struct{} // closed while the breaker is open
}

func newBreaker(now func() time.Time) *breaker {
	b := &breaker{
		streak: map[claims.Key]bool{}, successes: map[string]uint64{}, successesAt: map[claims.Key]uint64{},
		firstPause: probeMin, now: now, closed: make(chan struct{}), opened: make(chan struct{}),
	}
	close(b.closed)
	return b
}

// recordUnavailable records that an event was unavailable. It reports whether the event is isolated: its handler succeeded
// with other events since the event was unavailable last. Another handler may need other things, and does not count. Only
// probes lengthen the pause: the handlers that ran when it began may fail together.
func (b *breaker) recordUnavailable(key claims.Key, handler string, probe bool) (isolated bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, again := b.successesAt[key]
	isolated = again && b.successes[handler] > before
	if len(b.successesAt) >= maxRemembered && !again {
		clear(b.successesAt)
	}
	b.successesAt[key] = b.successes[handler]
	if isolated {
		return true
	}
	b.streak[key] = true
	switch {
	case b.probePause > 0 && !probe:
	case b.probePause > 0:
		b.probePause = min(2*b.probePause, probeMax)
	case len(b.streak) >= breakAfter:
		b.probePause, b.since, b.closed = b.firstPause, b.now(), make(chan struct{})
		close(b.opened)
	}
	return false
}

// inStreak reports whether an event is one of those that were unavailable in a row.
func (b *breaker) inStreak(key claims.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streak[key]
}

// recordAnswer records that an attempt ended in another way than unavailable: what it needed was available.
func (b *breaker) recordAnswer(key claims.Key, handler string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.successesAt, key)
	if err == nil {
		b.successes[handler]++
	}
	clear(b.streak)
	if b.probePause > 0 {
		b.probePause, b.since, b.opened = 0, time.Time{}, make(chan struct{})
		close(b.closed)
	}
}

// pausedSince returns when the breaker opened, and the zero time while it is closed.
func (b *breaker) pausedSince() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since
}

// openChan returns a channel that is closed once the breaker is open.
func (b *breaker) openChan() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// waitForProbe waits until the next probe is due and returns true. It returns false when the breaker is closed or ctx ends.
func (b *breaker) waitForProbe(ctx context.Context) bool {
	b.mu.Lock()
	wait, closed := b.probePause, b.closed
	b.mu.Unlock()
	if wait == 0 {
		return false
	}
	select {
	case <-closed:
		return false
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}
