package workers

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// keyQueues let one delivery of a key run at a time. A delivery whose key is busy waits in the key's queue and takes no
// slot; the slot that runs the key goes on with it.
type keyQueues struct {
	mu     sync.Mutex
	length int                        // of one queue
	total  int                        // deliveries in all queues
	busy   map[string][]jetstream.Msg // the queue of each key of which a delivery runs
}

// newKeyQueues returns queues that each hold up to length deliveries, and all together up to maxWaits.
func newKeyQueues(length int) keyQueues {
	return keyQueues{length: length, busy: map[string][]jetstream.Msg{}}
}

// admission says what enter did with a delivery.
type admission int

const (
	admitted  admission = iota // the key was free: run the delivery, and then those that leave returns
	queued                     // the delivery waits in the queue of its key
	queueFull                  // the queue is full: put the delivery off
)

func (q *keyQueues) enter(key string, m jetstream.Msg) admission {
	q.mu.Lock()
	defer q.mu.Unlock()
	queue, busy := q.busy[key]
	switch {
	case !busy:
		q.busy[key] = nil
		return admitted
	case len(queue) >= q.length, q.total >= maxWaits:
		return queueFull
	}
	q.busy[key] = append(queue, m)
	q.total++
	return queued
}

// leave returns the next delivery of the key's queue. When the queue is empty it frees the key and returns false.
func (q *keyQueues) leave(key string) (jetstream.Msg, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	queue := q.busy[key]
	if len(queue) == 0 {
		delete(q.busy, key)
		return nil, false
	}
	q.busy[key] = queue[1:]
	q.total--
	return queue[0], true
}

// queued returns the deliveries that wait now, of all keys.
func (q *keyQueues) queued() []jetstream.Msg {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []jetstream.Msg
	for _, queue := range q.busy {
		all = append(all, queue...)
	}
	return all
}
