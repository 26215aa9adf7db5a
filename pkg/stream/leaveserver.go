package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// A server that has lost its peers answers a client, and stores nothing for it: the other servers elect the leaders. A
// connection leaves such a server when requests have failed for longer than an election takes.
const (
	// electionTime is longer than servers take to elect a leader: 4.5 s after one was killed, as measured.
	electionTime = 5 * time.Second
	// outageGap is the longest time between two failures of one outage.
	outageGap = 30 * time.Second
	// leavePauseMin and leavePauseMax bound the time before a connection leaves the next server, which doubles: when no
	// server answers, connecting to others does not help.
	leavePauseMin = 20 * time.Second
	leavePauseMax = 5 * time.Minute
	// peerSilence is how long a leader has not heard of a peer that it has lost. Peers answer every second.
	peerSilence = 3 * time.Second
)

// A leaver connects one connection to other servers. Each connection that Connect makes has one.
type leaver struct {
	log      *zap.Logger
	requests outage // of requests to JetStream, other than publishes and pulls
	streams  outage // of streams that answered, and stored nothing

	mu    sync.Mutex
	left  time.Time     // when the connection left a server last
	pause time.Duration // from then until it may leave the next
}

// leaverOf is nil for a connection that Connect did not make.
func leaverOf(nc *nats.Conn) *leaver {
	if d, ok := nc.Opts.CustomDialer.(*coalescingDialer); ok {
		return d.leaver
	}
	return nil
}

// LeaveServer connects to another server when the connection, which Connect made, knows one, and has not left one
// shortly before. It returns whether the connection leaves. Connected waits until it has another server.
func LeaveServer(nc *nats.Conn, why error) bool {
	l := leaverOf(nc)
	if l == nil || !nc.IsConnected() || len(nc.Servers()) < 2 || !l.due(time.Now()) {
		return false
	}
	l.log.Warn("leaving a server that does not answer for JetStream: connecting to another", zap.String("server", nc.ConnectedUrlRedacted()), zap.Error(why))
	return nc.ForceReconnect() == nil
}

// due reports whether the connection may leave a server now, and then counts on it.
func (l *leaver) due(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch since := now.Sub(l.left); {
	case since < l.pause:
		return false
	case since > 2*leavePauseMax:
		l.pause = leavePauseMin
	default:
		l.pause = min(2*l.pause, leavePauseMax)
	}
	l.left = now
	return true
}

// An outage measures for how long one kind of request has failed without an answer between. The zero value is ready for
// use, from any goroutine.
type outage struct {
	now atomic.Bool // so that an answer costs nothing without one

	mu          sync.Mutex
	since, last time.Time
}

// failed records that a request which began at a time was not answered, and leaves the server when that lasts.
func (o *outage) failed(nc *nats.Conn, began time.Time, err error) {
	if lasted, long := o.add(began, time.Now()); long && LeaveServer(nc, fmt.Errorf("no answer for %v: %w", lasted.Round(time.Second), err)) {
		o.answered()
	}
}

// add returns for how long requests have failed, and whether that is longer than an election.
func (o *outage) add(began, now time.Time) (lasted time.Duration, long bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.now.Load() || now.Sub(o.last) > outageGap {
		o.now.Store(true)
		o.since = began
	}
	o.last = now
	lasted = now.Sub(o.since)
	return lasted, lasted >= electionTime
}

// answered ends the outage.
func (o *outage) answered() {
	if o.now.Load() { // a write would take the cache line from the other processors
		o.now.Store(false)
	}
}

// unanswered reports whether an error says that no server could do what was asked.
func unanswered(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || // what nats.go makes of no responders
		errors.As(err, &api) && api.ErrorCode == codeClusterNotAvailable
}

// Why nothing can be stored at the leader of a stream or consumer.
var (
	errNoLeader   = errors.New("no leader now")
	errLostQuorum = errors.New("its leader does not hear of most of its peers")
)

// leads returns why a stream or consumer that answered stores nothing now. A leader that has lost its peers leads on for
// some 20 s, and a server without peers answers that there is no leader.
func leads(c *jetstream.ClusterInfo) error {
	if c == nil || c.Name == "" {
		return nil
	}
	if c.Leader == "" {
		return errNoLeader
	}
	active := 1 // itself
	for _, peer := range c.Replicas {
		if peer.Active < peerSilence {
			active++
		}
	}
	if 2*active <= len(c.Replicas)+1 {
		return errLostQuorum
	}
	return nil
}
