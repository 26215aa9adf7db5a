package workers

import (
	"sync"
	"time"
)

// maxWaits is how many events one process lets wait on the worker's own consumer, and how many in its queues of keys. Those
// above it are parked, so that fifty replicas leave places in maxAckPending for events that can run.
const maxWaits = maxAckPending / 50

// waits are the events that wait on the worker's own consumer because this process returned them. The zero value is ready
// to use.
type waits struct {
	mu  sync.Mutex
	due map[uint64]time.Time // by sequence
}

// enter reports whether an event may wait for d from now on. When it may not, too many others wait.
func (w *waits) enter(sequence uint64, d time.Duration, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due == nil {
		w.due = map[uint64]time.Time{}
	}
	if _, waits := w.due[sequence]; !waits && len(w.due) >= maxWaits {
		for s, until := range w.due {
			if until.Before(now) { // another replica may have it
				delete(w.due, s)
			}
		}
		if len(w.due) >= maxWaits {
			return false
		}
	}
	w.due[sequence] = now.Add(d)
	return true
}

// leave forgets an event that was delivered again.
func (w *waits) leave(sequence uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.due, sequence)
}
