package workers

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
)

// ByCompany is a Worker's Key: one event of a company at a time.
func ByCompany(e codat.Event[struct{}]) string { return e.Company }

// ByConnection is a Worker's Key: one event of a connection at a time, and of the company when the event is of
// none or of several connections.
func ByConnection(e codat.Event[struct{}]) string {
	if e.Connection != "" {
		return e.Connection
	}
	return e.Company
}

// waiting is a delivery that was taken while its key was busy.
type waiting struct {
	jetstream.Msg
	parkedCopy bool
}

// lanes let one delivery of a key run at a time. Those that come meanwhile wait in the key's lane, without a slot;
// the one that ran goes on with them.
type lanes struct {
	mu     sync.Mutex
	length int // of a lane; over it a delivery is given back
	busy   map[string][]waiting
}

// how a delivery was received.
type entry int

const (
	runs entry = iota // its key was free: run it, and then what leave gives
	queued
	crowded // the lane is full: give it back
)

func (l *lanes) enter(key string, w waiting) entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	lane, busy := l.busy[key]
	switch {
	case !busy:
		l.busy[key] = nil
		return runs
	case len(lane) >= l.length:
		return crowded
	}
	l.busy[key] = append(lane, w)
	return queued
}

// leave gives the next delivery of the lane, or frees the key when there is none.
func (l *lanes) leave(key string) (waiting, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lane := l.busy[key]
	if len(lane) == 0 {
		delete(l.busy, key)
		return waiting{}, false
	}
	l.busy[key] = lane[1:]
	return lane[0], true
}

// all are the deliveries that wait now.
func (l *lanes) all() []waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []waiting
	for _, lane := range l.busy {
		all = append(all, lane...)
	}
	return all
}
