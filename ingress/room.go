package ingress

import (
	"fmt"
	"sync/atomic"
)

// A room bounds the memory of the bodies in flight. What is not proven has half of it, so that nobody without a key
// can keep out who has one; of that half, bodies that are large have three quarters, so that they never keep out
// small ones, which nearly all events are.
type room struct {
	most     int64
	all      atomic.Int64
	unproven atomic.Int64
}

func newRoom(most int64) *room { return &room{most: most} }

// forUnproven is the room for buffers of n bytes and all others of bodies that are not proven.
func (r *room) forUnproven(n int) int64 {
	most := r.most / 2
	if n > trusted {
		most = most / 4 * 3
	}
	return most
}

// roomFor is the least room in which bytes that are not proven have a place, the last of them in a buffer of n.
func roomFor(bytes int64, n int) int64 {
	if n > trusted {
		return (bytes + 2) / 3 * 8
	}
	return 2 * bytes
}

// take makes place for a buffer of n bytes of a body that is not proven yet. It returns ErrNoRoom.
func (r *room) take(n int) error {
	most := r.forUnproven(n)
	if r.unproven.Add(int64(n)) > most {
		r.unproven.Add(-int64(n))
		return fmt.Errorf("%w: of %d bytes for bodies that are not proven", ErrNoRoom, most)
	}
	if r.all.Add(int64(n)) > r.most {
		r.give(n, false)
		return fmt.Errorf("%w: of %d bytes for bodies", ErrNoRoom, r.most)
	}
	return nil
}

// prove takes a body from those that are not proven.
func (r *room) prove(n int) { r.unproven.Add(-int64(n)) }

// give gives the place of a buffer back.
func (r *room) give(n int, proven bool) {
	r.all.Add(-int64(n))
	if !proven {
		r.unproven.Add(-int64(n))
	}
}
