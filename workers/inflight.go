package workers

import (
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// inFlightPause is how long a delivery waits while this process still handles an earlier delivery of the same event.
const inFlightPause = time.Second

// inFlight are the deliveries that this process handles now, by event. A process that cannot reach its claims keeps the result
// of an attempt in memory, and a second delivery of the event must not run meanwhile, whatever its claim says.
type inFlight struct {
	mu         sync.Mutex
	deliveries map[claims.Key]*delivery
	owners     map[claims.Key]string // of the claims that were requested and not answered
	ended      map[claims.Key]claims.Record
	order      []claims.Key // of ended, a ring
	oldest     int          // in order, once it is full
}

// end remembers the final record of an event, for the last maxRemembered events: claims can be lost.
func (h *inFlight) end(k claims.Key, r claims.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended = map[claims.Key]claims.Record{}
	}
	if _, known := h.ended[k]; !known {
		if len(h.order) < maxRemembered {
			h.order = append(h.order, k)
		} else {
			delete(h.ended, h.order[h.oldest])
			h.order[h.oldest] = k
			h.oldest = (h.oldest + 1) % maxRemembered
		}
	}
	h.ended[k] = r
}

// endOf returns the final record of an event that this process has done or buried.
func (h *inFlight) endOf(k claims.Key) (r claims.Record, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok = h.ended[k]
	return r, ok
}

// enter reports whether no other delivery of the event is in flight, and then keeps d.
func (h *inFlight) enter(d *delivery) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deliveries[d.key] != nil {
		return false
	}
	if h.deliveries == nil {
		h.deliveries, h.owners = map[claims.Key]*delivery{}, map[claims.Key]string{}
	}
	h.deliveries[d.key] = d
	return true
}

// leave ends what enter began. A second call does nothing.
func (h *inFlight) leave(d *delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deliveries[d.key] == d {
		delete(h.deliveries, d.key)
	}
}

// owner returns the owner under which the event's claim was requested without an answer, and otherwise fresh.
func (h *inFlight) owner(k claims.Key, fresh string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o, ok := h.owners[k]; ok {
		return o
	}
	return fresh
}

// answered records whether the request for the event's claim was answered.
func (h *inFlight) answered(k claims.Key, owner string, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case answered:
		delete(h.owners, k)
	case len(h.owners) < maxRemembered:
		h.owners[k] = owner
	}
}
