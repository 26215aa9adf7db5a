package workers

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// sharePart is how many times what is free in a shared stream one worker may hold there: it alone at most four fifths, two
	// workers four ninths each. So a worker that has none yet always has room.
	sharePart = 4
	// shareInterval is how long a measurement of a stream is used, and shareTimeout how long one may take.
	shareInterval, shareTimeout = time.Second, 2 * time.Second
	// shareRetry is how long no measurement is made after one that failed.
	shareRetry = time.Minute
)

// A share bounds what the worker holds in a stream that all workers share. A stream counts the messages of a subject and not
// their bytes, so what the worker holds is estimated by the average size of what this process has stored there.
type share struct {
	worker, stream, flag string
	usage                func(context.Context) (stream.Usage, error)
	now                  func() time.Time
	part                 atomic.Uint64 // float64: what the worker holds, of what it may hold; at most 1

	mu             sync.Mutex
	next           time.Time // when the stream is measured again
	allowed        int64     // bytes that may be stored until the stream is measured again
	err            error     // why nothing may be stored
	stored, copies int64     // bytes and number of the messages that this process has stored
}

// admit returns an error that wraps stream.ErrFull when the worker holds its share of the stream. A stream that cannot be
// measured admits, because the publish says the rest.
func (s *share) admit(ctx context.Context, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allowed -= size; s.allowed < 0 || s.due() {
		s.measureLocked(ctx, size)
	}
	if s.err == nil {
		s.stored += size
		s.copies++
	}
	return s.err
}

// measure measures the stream unless it was measured lately, so that the metric is right while nothing is stored.
func (s *share) measure(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due() {
		s.measureLocked(ctx, 0)
	}
}

func (s *share) due() bool { return !s.now().Before(s.next) }

// measureLocked measures the stream for a message of a size. The caller holds mu.
func (s *share) measureLocked(ctx context.Context, size int64) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	u, err := s.usage(ctx)
	if err != nil || u.MaxBytes == 0 {
		s.next, s.allowed, s.err = s.now().Add(shareRetry), math.MaxInt64, nil
		return
	}
	held, free := s.held(u), u.MaxBytes-u.Bytes
	s.next, s.err = s.now().Add(shareInterval), nil
	// A quarter of what may come until the share is reached, because other processes of the worker store too.
	s.allowed = (sharePart*free - held) / (sharePart + 1) / 4
	part := 0.0
	if held > 0 {
		part = min(1, float64(held)/float64(max(1, sharePart*free)))
	}
	if held > 0 && held+size > sharePart*(free-size) {
		part, s.allowed = 1, math.MaxInt64
		s.err = fmt.Errorf("worker %s holds about %d of the %d bytes of %s, and the rest is kept for the other workers: raise the limit with `headgate provision %s`: %w",
			s.worker, held, u.MaxBytes, s.stream, s.flag, stream.ErrFull)
	}
	s.part.Store(math.Float64bits(part))
}

// held estimates the bytes of the worker's messages in the stream.
func (s *share) held(u stream.Usage) int64 {
	switch {
	case u.Matching == 0:
		return 0
	case s.copies > 0:
		return min(u.Bytes, int64(float64(u.Matching)*float64(s.stored)/float64(s.copies)))
	}
	return int64(float64(u.Bytes) * float64(u.Matching) / float64(u.Messages))
}

// shares are the shares of a worker by the beginning of the subjects of its messages.
type shares map[string]*share

// newShares returns the shares of the worker in the streams of parked events and of dead letters.
func (st *starter) newShares() shares {
	s, name := st.settings.Source, st.spec.Name
	of := func(stored, filter, flag string) *share {
		return &share{worker: name, stream: stored, flag: flag, now: time.Now, usage: func(ctx context.Context) (stream.Usage, error) {
			return stream.UsageOf(ctx, st.js, stored, filter)
		}}
	}
	return shares{
		s.ParkedSubject(name, ""): of(s.ParkedStream(), s.ParkedFilter(name), "--parked-max-bytes"),
		s.DeadSubject(name, ""):   of(s.DeadStream(), s.DeadFilter(name), "--dead-max-bytes"),
	}
}

// register registers a metric of each share.
func (s shares) register(reg prometheus.Registerer, worker string) error {
	for _, share := range s {
		err := reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "headgate_worker_stream_share",
			Help:        "What the worker holds of a stream that all workers share, relative to what it may hold; at 1 it stores nothing more there.",
			ConstLabels: prometheus.Labels{"worker": worker, "stream": share.stream},
		}, func() float64 { return math.Float64frombits(share.part.Load()) }))
		if err != nil {
			return err
		}
	}
	return nil
}

// measure measures every stream that was not measured lately.
func (s shares) measure(ctx context.Context) {
	for _, share := range s {
		share.measure(ctx)
	}
}

// sharedPublisher publishes what the worker's shares admit.
type sharedPublisher struct {
	deadletter.Publisher
	shares shares
}

// Publish implements deadletter.Publisher.
func (p sharedPublisher) Publish(ctx context.Context, m *nats.Msg) (stream.Receipt, error) {
	for prefix, s := range p.shares {
		if strings.HasPrefix(m.Subject, prefix) {
			if err := s.admit(ctx, int64(m.Size())); err != nil {
				return stream.Receipt{}, err
			}
		}
	}
	return p.Publisher.Publish(ctx, m)
}
