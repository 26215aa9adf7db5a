package ingress

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A budget limits the memory of the request bodies in flight. Unverified bodies have half of it, so that
// unauthenticated clients cannot keep out authenticated ones. Of this half, bodies larger than the first buffer have three
// quarters, so that they never keep out small ones, as nearly all events are: with the default limits, all connections
// can have a first buffer. It is safe for concurrent use.
type budget struct {
	limit      int64
	total      atomic.Int64
	unverified atomic.Int64

	// drop closes the connection of the slowest unverified body. It returns false when it finds no such body. It may be nil.
	drop     func() bool
	waiting  atomic.Int64  // bodies that found no room
	first    sync.Mutex    // held by the one of them that gets room next
	released chan struct{} // tells it that there may be room
}

func newBudget(limit int64) *budget { return &budget{limit: limit, released: make(chan struct{}, 1)} }

// unverifiedLimit returns the limit for all unverified bodies, the last of them in a buffer of n bytes.
func (b *budget) unverifiedLimit(n int) int64 {
	limit := b.limit / 2
	if n > firstBuffer {
		limit = limit / 4 * 3
	}
	return limit
}

// required returns the smallest budget with room for that many unverified bytes, the last of them in a buffer of n bytes.
func required(bytes int64, n int) int64 {
	if n > firstBuffer {
		return (bytes + 2) / 3 * 8
	}
	return 2 * bytes
}

// reserve adds a buffer of n bytes of an unverified body. It returns errBodyMemory.
func (b *budget) reserve(n int) error {
	limit := b.unverifiedLimit(n)
	if b.unverified.Add(int64(n)) > limit {
		b.unverified.Add(-int64(n))
		return fmt.Errorf("%w: the limit of unverified bodies is %d bytes", errBodyMemory, limit)
	}
	if b.total.Add(int64(n)) > b.limit {
		b.release(n, false)
		return fmt.Errorf("%w: the limit is %d bytes", errBodyMemory, b.limit)
	}
	return nil
}

// reserveOrDrop is reserve; where there is no room, it closes the connections of the slowest unverified bodies, one after
// the other, and takes their place. Bodies that wait for room get it in the order in which they began to wait, so that many
// small ones do not keep out a large one.
func (b *budget) reserveOrDrop(n int) error {
	// For one buffer: a body of 1 MiB takes the place of 256 that have a first buffer. A handler that lost its connection
	// releases its buffer at once.
	const maxDrops, releaseTime = 512, 100 * time.Millisecond
	if n <= firstBuffer || b.waiting.Load() == 0 {
		if err := b.reserve(n); err == nil || b.drop == nil {
			return err
		}
	}
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	b.first.Lock()
	defer b.first.Unlock()
	err := b.reserve(n)
	for drops := 0; err != nil && drops < maxDrops && b.drop(); drops++ {
		select {
		case <-b.released:
		case <-time.After(releaseTime):
		}
		err = b.reserve(n)
	}
	return err
}

// verified records that a body in a buffer of n bytes was verified.
func (b *budget) verified(n int) { b.unverified.Add(-int64(n)) }

// release removes a buffer of n bytes.
func (b *budget) release(n int, verified bool) {
	b.total.Add(-int64(n))
	if !verified {
		b.unverified.Add(-int64(n))
	}
	if b.waiting.Load() > 0 {
		select {
		case b.released <- struct{}{}:
		default:
		}
	}
}
