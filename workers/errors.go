package workers

import (
	"errors"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// permanent, unavailable and retryAfter mark errors of handlers.
type (
	permanent   struct{ error }
	unavailable struct{ error }
	retryAfter  struct {
		error
		pause time.Duration
	}
)

func (e permanent) Unwrap() error   { return e.error }
func (e unavailable) Unwrap() error { return e.error }
func (e retryAfter) Unwrap() error  { return e.error }

// Permanent marks an error that no further attempt can cure: the event becomes a dead letter at once.
func Permanent(err error) error { return permanent{notNil(err)} }

// RetryAfter marks an error after which the next attempt follows after d, instead of the worker's backoff. The attempt is
// counted. A d below zero is zero, and above claims.MaxPause it is MaxPause.
func RetryAfter(d time.Duration, err error) error {
	return retryAfter{notNil(err), min(max(d, 0), claims.MaxPause)}
}

// Unavailable marks an error that does not concern the event: something that every event needs is down. The attempt is not
// counted, and after three different events in a row the worker pauses until a probe succeeds. Attempts are counted only
// when the same event is unavailable again although its handler has succeeded with other events since.
func Unavailable(err error) error { return unavailable{notNil(err)} }

// notNil replaces a nil error: a handler that returns Permanent(nil) has not succeeded.
func notNil(err error) error {
	if err == nil {
		return errors.New("the handler returned a marked error without a cause")
	}
	return err
}
