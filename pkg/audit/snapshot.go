package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// snapshot is the state of one worker at one time.
type snapshot struct {
	Worker
	found []finding
	// outstanding has the claims whose messages must be among the consumer's pending acks: their revisions by their keys.
	outstanding map[string]uint64
	acks        int // number of the consumer's pending acks
}

// finding is an exception that can disappear in a second snapshot.
type finding struct {
	Exception
	key      string // of the claim
	revision uint64 // of the claim, 0 without one
	judged   bool   // the event has no other state
}

// suspicious reports whether a second snapshot is needed.
func (s snapshot) suspicious() bool { return len(s.found) > 0 || len(s.outstanding) > s.acks }

// reconfirm keeps, of a second snapshot, the findings that the first one has too and whose claims were not written in
// between. These held at one time, between the two, although each snapshot reads its parts at different times.
func (s *snapshot) reconfirm(first snapshot) {
	type same struct {
		kind     Kind
		key      string
		revision uint64
	}
	before := map[same]bool{}
	for _, f := range first.found {
		before[same{f.Kind, f.key, f.revision}] = true
	}
	s.found = slices.DeleteFunc(s.found, func(f finding) bool {
		changed := !before[same{f.Kind, f.key, f.revision}]
		if changed && f.judged {
			s.Waiting++
		}
		return changed
	})

	unchanged := 0
	for key, revision := range s.outstanding {
		if was, ok := first.outstanding[key]; ok && was == revision {
			unchanged++
		}
	}
	if lost := unchanged - s.acks; lost > 0 {
		s.found = append(s.found, finding{Exception: Exception{
			Kind: Acknowledged, Worker: s.Name,
			Detail: fmt.Sprintf("%d delivered events are not settled, and the worker's consumer waits for %d acks: %d were acknowledged without being settled", unchanged, s.acks, lost),
		}})
	}
}

// snapshot reads one worker. The order matters: a claim is written before its message is acknowledged, so the consumer is
// read before the claims; a message is stored before its claim is written, so the events are read last, and no claim is
// of an event that was not read.
func (a *Audit) snapshot(ctx context.Context, log *eventLog, name string) (snapshot, error) {
	info, err := a.info(ctx, a.Source.Stream())
	if err != nil {
		return snapshot{}, err
	}
	consumer, err := a.consumer(ctx, name)
	if err != nil {
		return snapshot{}, err
	}
	c, err := a.readClaims(ctx, name)
	if err != nil {
		return snapshot{}, err
	}
	copies, err := a.parkedCopies(ctx, name)
	if err != nil {
		return snapshot{}, err
	}
	letters, err := a.deadLetters(ctx, name)
	if err != nil {
		return snapshot{}, err
	}
	bucket, err := a.bucketCreated(ctx, name)
	if err != nil {
		return snapshot{}, err
	}
	if err := a.readEvents(ctx, log); err != nil {
		return snapshot{}, err
	}
	as := assessment{
		bucket: bucket,
		log:    log, consumer: consumer, claims: c, copies: copies, letters: letters, expect: a.Expect.effectsOf(name),
		takes: make([]bool, len(log.types)), last: info.State.LastSeq, first: info.State.FirstSeq, maxAge: info.Config.MaxAge,
		snapshot: snapshot{Worker: Worker{Name: name}, outstanding: map[string]uint64{}, acks: consumer.NumAckPending},
	}
	for i, typ := range log.types {
		as.takes[i] = stream.Takes(consumer.Config, a.Source.EventFilter(codat.Pattern(typ)))
	}
	as.assess()
	return as.snapshot, nil
}

// bucketCreated returns when a worker's bucket of claims was made, and zero without one.
func (a *Audit) bucketCreated(ctx context.Context, worker string) (time.Time, error) {
	info, err := a.info(ctx, bucketPrefix+a.Source.ClaimsBucket(worker))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.Created, nil
}

func (a *Audit) consumer(ctx context.Context, name string) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, err := a.JS.Consumer(ctx, a.Source.Stream(), name)
	if err != nil {
		return nil, fmt.Errorf("consumer %s on %s: %w", name, a.Source.Stream(), err)
	}
	return c.CachedInfo(), nil
}
