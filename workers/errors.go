package workers

import (
	"errors"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// permanent, unavailable, retryAfter and detailed mark errors of handlers.
type (
	permanent   struct{ error }
	unavailable struct{ error }
	retryAfter  struct {
		error
		pause time.Duration
	}
	detailed struct {
		error
		detail string
	}
)

func (e permanent) Unwrap() error   { return e.error }
func (e unavailable) Unwrap() error { return e.error }
func (e retryAfter) Unwrap() error  { return e.error }
func (e detailed) Unwrap() error    { return e.error }

// ErrSkip is what a handler returns for an event that it has nothing to do with: the event is done. Other than a success, it does
// not say that what the handler needs is available, so it ends no pause and lets no other event count attempts.
var ErrSkip = errors.New("the handler has nothing to do with the event")

// Permanent marks an error that no further attempt can cure: the event becomes a dead letter at once.
func Permanent(err error) error { return permanent{notNil(err)} }

// RetryAfter marks an error after which the next attempt follows after d, instead of the worker's backoff. The attempt is
// counted. A d below zero is zero, and above claims.MaxPause it is MaxPause.
func RetryAfter(d time.Duration, err error) error {
	return retryAfter{notNil(err), min(max(d, 0), claims.MaxPause)}
}

// Unavailable marks an error that does not concern the event: something that every event needs is down. The attempt is not
// counted, and after three different events in a row the worker pauses until a probe succeeds. Attempts are counted only
// when the same event is unavailable again although its handler has succeeded with other events since. The event waits for its
// backoff, and with Unavailable(RetryAfter(d, err)) for d at least.
func Unavailable(err error) error { return unavailable{notNil(err)} }

// WithDetail adds to an error what can hold data of customers, such as the answer of a service. No log line and no claim has the
// detail. The dead letter has it, one line of at most 1 KiB, and `headgate dead show --payload` prints it.
func WithDetail(err error, detail string) error {
	return detailed{notNil(err), oneLine(detail, maxErrorText)}
}

// detailOf returns the detail of an error, and "" without one.
func detailOf(err error) string {
	var d detailed
	errors.As(err, &d)
	return d.detail
}

// notNil replaces a nil error: a handler that returns Permanent(nil) has not succeeded.
func notNil(err error) error {
	if err == nil {
		return errors.New("the handler returned a marked error without a cause")
	}
	return err
}
