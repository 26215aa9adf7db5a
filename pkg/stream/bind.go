package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Why a worker cannot start. Waiting cures neither; the error says what an operator has to do.
var (
	ErrNotProvisioned = errors.New("not provisioned")
	ErrDrift          = errors.New("provisioned differently")
)

// provisionWorker is the cure of both.
const provisionWorker = "run headgate provision, with --spec FILE for a worker that is not built in (its own --spec prints the file), or start the worker with --provision"

// minAckWait is the shortest AckWait of a consumer that Bind accepts: a shorter one ends before it is extended.
const minAckWait = time.Second

// Bind finds the consumers of a worker and compares them with what the worker needs; it changes nothing. What two versions of
// a worker may have different is accepted, so that they can run side by side, and an older one after a newer: filters that
// match more than the worker handles, another limit of pending acks unless the worker needs 1, and another AckWait of a second
// or more, which the worker has to keep (AckWait). Another difference is ErrDrift, a missing consumer ErrNotProvisioned; both
// errors name the cure. Bind needs permission for CONSUMER.INFO of the two.
func Bind(ctx context.Context, js jetstream.JetStream, s Source, w WorkerSpec) (events, parked jetstream.Consumer, err error) {
	if err := errors.Join(s.Validate(), w.Validate()); err != nil {
		return nil, nil, err
	}
	if events, err = bind(ctx, js, w.eventConsumer(s)); err != nil {
		return nil, nil, err
	}
	if parked, err = bind(ctx, js, w.parkedConsumer(s)); err != nil {
		return nil, nil, err
	}
	return events, parked, nil
}

func bind(ctx context.Context, js jetstream.JetStream, w desiredConsumer) (jetstream.Consumer, error) {
	c, err := pullConsumer(ctx, js, w.stream, w.name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("%s: %w: %s", w.object(), ErrNotProvisioned, provisionWorker)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%s: the stream is %w: %s", w.object(), ErrNotProvisioned, provisionWorker)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", w.object(), err)
	}
	have := c.CachedInfo().Config
	want := have
	w.apply(&want)
	if missing := uncovered(filtersOf(&have), want.FilterSubjects); len(missing) > 0 {
		return nil, fmt.Errorf("%s: %w: it does not take %s, which this version handles: %s", w.object(), ErrDrift, strings.Join(missing, " "), provisionWorker)
	}
	want.FilterSubjects = filtersOf(&have)
	if want.MaxAckPending > 1 { // with 1, the order of an ordered worker depends on it
		want.MaxAckPending = have.MaxAckPending
	}
	if have.AckWait >= minAckWait {
		want.AckWait = have.AckWait
	}
	var differs []string
	for _, f := range diff(consumerSettings, &have, &want) {
		differs = append(differs, fmt.Sprintf("%s is %s, this version needs %s", f.Name, f.Have, f.Want))
	}
	if len(differs) > 0 {
		return nil, fmt.Errorf("%s: %w: %s: %s", w.object(), ErrDrift, strings.Join(differs, "; "), provisionWorker)
	}
	return c, nil
}
