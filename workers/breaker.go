package workers

import (
	"context"
	"sync"
	"time"
)

const (
	// breakAfter is how many different events in a row must be unavailable before the worker pauses.
	breakAfter = 3
	// probeMin and probeMax bound the pause before the next probe, which doubles while probes fail.
	probeMin = time.Second
	probeMax = 30 * time.Second
	// probeLook bounds how many events that were unavailable a probe passes over to find another one.
	probeLook = 100
	// remembered bounds the events whose unavailability is remembered; over it the oldest knowledge goes.
	remembered = 10_000
)

// breaker pauses a worker while something that all of its events need is down. Closed, events flow. After
// breakAfter different unavailable events in a row it is open: nothing is taken but one probe at a time,
// until one ends in any other way. It knows this process only; every replica finds out for itself.
type breaker struct {
	mu        sync.Mutex
	streak    map[Key]bool      // the different events of the unbroken run
	successes map[string]uint64 // of each handler, ever
	seen      map[Key]uint64    // successes of its handler when an event was last unavailable
	wait      time.Duration     // before the next probe; zero while closed
	since     time.Time         // when it opened
	now       func() time.Time
	closed    chan struct{} // closed while the breaker is closed
	opened    chan struct{} // closed while the breaker is open
}

func newBreaker(now func() time.Time) *breaker {
	b := &breaker{streak: map[Key]bool{}, successes: map[string]uint64{}, seen: map[Key]uint64{}, now: now, closed: make(chan struct{}), opened: make(chan struct{})}
	close(b.closed)
	return b
}

// unavailable notes that an event met something that is down, and reports whether it is alone in that: its handler
// succeeded with others since it met it last. Another handler may need other things.
func (b *breaker) unavailable(key Key, handler string) (alone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, again := b.seen[key]
	alone = again && b.successes[handler] > before
	if len(b.seen) >= remembered && !again {
		clear(b.seen)
	}
	b.seen[key] = b.successes[handler]
	if alone {
		return true
	}
	b.streak[key] = true
	switch {
	case b.wait > 0:
		b.wait = min(2*b.wait, probeMax)
	case len(b.streak) >= breakAfter:
		b.wait, b.since, b.closed = probeMin, b.now(), make(chan struct{})
		close(b.opened)
	}
	return false
}

// met reports whether an event is one of the unbroken run of unavailable ones.
func (b *breaker) met(key Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streak[key]
}

// answered notes that an attempt ended in any other way: what it needed was there.
func (b *breaker) answered(key Key, handler string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.seen, key)
	if err == nil {
		b.successes[handler]++
	}
	clear(b.streak)
	if b.wait > 0 {
		b.wait, b.since, b.opened = 0, time.Time{}, make(chan struct{})
		close(b.closed)
	}
}

// paused says since when the breaker is open; the zero time means that it is closed.
func (b *breaker) paused() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since
}

// open is closed once the breaker is open.
func (b *breaker) open() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// probe waits until the next probe is due and reports true, or returns false when the breaker is closed or
// ctx ends.
func (b *breaker) probe(ctx context.Context) bool {
	b.mu.Lock()
	wait, closed := b.wait, b.closed
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
