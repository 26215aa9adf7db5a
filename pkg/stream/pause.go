package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// untilResumed is the end of a pause that has none: the server wants a time. A pause of that length or more has no end.
const untilResumed = 100 * 365 * 24 * time.Hour

// A Pause is the state of a consumer that an operator may pause. The zero value is that of one that is not paused.
type Pause struct {
	Paused bool
	// Until is when the server ends the pause; zero when only Resume does.
	Until time.Time
}

// PauseOf returns whether a consumer is paused now, and until when, as its server says.
func PauseOf(info *jetstream.ConsumerInfo) Pause {
	if !info.Paused {
		return Pause{}
	}
	p := Pause{Paused: true}
	// A pause without an end is set for untilResumed, of which at most half is over.
	if until := info.Config.PauseUntil; until != nil && info.PauseRemaining < untilResumed/2 {
		p.Until = until.UTC()
	}
	return p
}

// String is "not paused", "until 2026-01-31T12:00:00Z" or "until headgate resume".
func (p Pause) String() string {
	switch {
	case !p.Paused:
		return "not paused"
	case p.Until.IsZero():
		return "until headgate resume"
	}
	return "until " + p.Until.Format(time.RFC3339)
}

// PauseWorker pauses the consumers of a worker, that of its parked copies first, until a time: their servers deliver nothing before, also
// not after a restart and whatever Provision changes. The zero time is until ResumeWorker. A delivery that a process has
// received before goes on. It returns an error for a time that is not in the future, and ErrNotProvisioned for a worker
// without the consumers. When the pause holds for one of the two only, the error says so, and PauseWorker can be called again. It needs permission for CONSUMER.PAUSE of the
// two.
func PauseWorker(ctx context.Context, js jetstream.JetStream, s Source, worker string, until time.Time) error {
	switch {
	case until.IsZero():
		until = time.Now().Add(untilResumed)
	case !until.After(time.Now()):
		return fmt.Errorf("the end of a pause must be in the future (got %s)", until.UTC().Format(time.RFC3339))
	}
	return eachConsumer(s, worker, "pause", func(stream string) error {
		return request(ctx, js, stream+"."+worker, func(ctx context.Context) error {
			_, err := js.PauseConsumer(ctx, stream, worker, until)
			return err
		})
	})
}

// ResumeWorker ends the pause of both consumers of a worker. It returns nil also for one that is not paused, and errors as PauseWorker does.
func ResumeWorker(ctx context.Context, js jetstream.JetStream, s Source, worker string) error {
	return eachConsumer(s, worker, "resume", func(stream string) error {
		return request(ctx, js, stream+"."+worker, func(ctx context.Context) error {
			_, err := js.ResumeConsumer(ctx, stream, worker)
			return err
		})
	})
}

// eachConsumer does something with both consumers of a worker, also when one fails: the error then says that it is done for the other.
func eachConsumer(s Source, worker, doing string, do func(stream string) error) error {
	if err := errors.Join(s.Validate(), ValidateWorker(worker)); err != nil {
		return err
	}
	var failed []error
	done := ""
	for _, stream := range []string{s.ParkedStream(), s.Stream()} {
		err := do(stream)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			err = fmt.Errorf("%w: %s", ErrNotProvisioned, provisionWorker)
		case err == nil:
			done = stream
			continue
		}
		failed = append(failed, fmt.Errorf("%s consumer %s on %s: %w", doing, worker, stream, err))
	}
	if len(failed) > 0 && done != "" {
		failed = append(failed, fmt.Errorf("%s holds for its consumer on %s only: run headgate %[1]s again", doing, done))
	}
	return errors.Join(failed...)
}
