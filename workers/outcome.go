package workers

import (
	"errors"
	"time"
)

// permanent, retryAfter and unavailable are the marks that a handler's error can carry.
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

// Permanent marks an error that no further attempt can mend: the event becomes a dead letter now.
func Permanent(err error) error { return permanent{orUnnamed(err)} }

// RetryAfter marks an error whose next attempt should come in d and not at the worker's own pace. It counts
// as an attempt. A d below zero is zero, and above MaxPause it is MaxPause.
func RetryAfter(d time.Duration, err error) error {
	return retryAfter{orUnnamed(err), min(max(d, 0), MaxPause)}
}

// Unavailable marks an error that is not the event's: something that every event needs is down. No attempt
// is counted, and after three different events in a row the worker pauses until a probe succeeds. Only when
// the same event is unavailable again although its handler succeeded with others since does it count attempts.
func Unavailable(err error) error { return unavailable{orUnnamed(err)} }

// orUnnamed keeps a mark on nil an error: a handler that says Permanent(nil) has not succeeded.
func orUnnamed(err error) error {
	if err == nil {
		return errors.New("the handler gave no reason")
	}
	return err
}
