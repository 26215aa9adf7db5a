package ingress

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/stream"
)

// storeHealth remembers the last failed publish of an event: only a publish shows whether the stream accepts events, and
// readiness depends on it. It is safe for concurrent use. Its zero value is healthy.
type storeHealth struct {
	stored  atomic.Uint64 // events stored so far
	failure atomic.Pointer[publishFailure]
}

type publishFailure struct {
	err    error
	at     time.Time
	stored uint64 // events stored when the publish began
}

// failureTTL is how long a failure makes the ingress unready. After it, a request tries again.
const failureTTL = 30 * time.Second

// check returns the error of the last failed publish while it counts: for failureTTL, and until an event is stored.
func (s *storeHealth) check(now time.Time) error {
	if f := s.failure.Load(); f != nil && f.stored == s.stored.Load() && now.Sub(f.at) < failureTTL {
		return f.err
	}
	return nil
}

// recordPublish records the outcome of a publish, and how many events were stored when it began. An error counts only
// when it says that the stream does not accept events.
func (s *storeHealth) recordPublish(err error, stored uint64) {
	switch {
	case err == nil:
		s.stored.Add(1)
	case s.stored.Load() != stored: // an event was stored since: the failure may be older
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, context.Canceled): // says nothing about the stream
	case errors.Is(err, stream.ErrFull), errors.Is(err, stream.ErrUnavailable):
		s.failure.Store(&publishFailure{err, time.Now(), stored})
	}
}
