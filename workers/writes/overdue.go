package writes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

const (
	// limitMargin is how long after Codat's own limit (timeoutInMinutes) an event may come that says TimedOut.
	limitMargin = 5 * time.Minute
	// firstWait is for how long an event waits at least, also when the outcome was due before it came: in a replay the event of
	// the outcome comes soon.
	firstWait = time.Minute

	minOverdueAfter, maxOverdueAfter = time.Minute, 24 * time.Hour
	// minAttempts are used by a write that stays Pending: when its event comes, when its outcome is due, and after Codat's own
	// limit when that is later.
	minAttempts = 3
)

// follow lets the event of a write without an outcome come again when the outcome is due: it waits as an event does whose
// handler has failed. When it has come again and there is still no outcome, Codat's API is asked once, where there is an API
// key, and the record is marked overdue unless the API says the outcome or a later limit. An API that fails counts an
// attempt, as for a reason.
func (s Store) follow(ctx context.Context, r state.Write, attempt int) error {
	if ended(r.Status) || !r.Overdue.IsZero() && (s.pushes == nil || r.Asked != nil) {
		return nil
	}
	wait := time.Until(s.due(r))
	if attempt <= 1 {
		wait = max(wait, min(firstWait, s.overdueAfter))
	}
	if wait > 0 {
		return stillPending(wait)
	}
	r, err := s.askOutcome(ctx, r)
	if err == nil && ended(r.Status) {
		return nil
	}
	if wait := time.Until(s.due(r)); err == nil && wait > 0 {
		return stillPending(wait)
	}
	return errors.Join(s.markOverdue(ctx, r), err)
}

func stillPending(wait time.Duration) error {
	return workers.RetryAfter(wait, fmt.Errorf("the write is pending: its outcome is due in %v", wait.Round(time.Second)))
}

// askOutcome adds to a record what Codat's API says of a write. It adds nothing without an API key, and for an operation that
// the API does not know.
func (s Store) askOutcome(ctx context.Context, r state.Write) (state.Write, error) {
	if s.pushes == nil || r.Company == "" {
		return r, nil
	}
	operation, err := s.pushes.Push(ctx, r.Company, r.PushOperationKey)
	switch {
	case errors.Is(err, api.ErrNotFound):
		return r, nil
	case err != nil:
		return r, fmt.Errorf("outcome of the write: %w", err)
	}
	key, said := r.PushOperationKey, answer(operation, time.Now())
	err = workers.UpdateRecord(ctx, s.writes, key, func(now state.Write) state.Write {
		now.PushOperationKey = key
		r = withAnswer(now, said)
		return r
	})
	return r, err
}

// markOverdue marks the record of a write that has no outcome.
func (s Store) markOverdue(ctx context.Context, r state.Write) error {
	due, marked := s.due(r), false
	err := workers.UpdateRecord(ctx, s.writes, r.PushOperationKey, func(now state.Write) state.Write {
		before := now.Overdue
		now.PushOperationKey = r.PushOperationKey
		now = withOverdue(now, due)
		marked = before.IsZero() && !now.Overdue.IsZero()
		return now
	})
	if err == nil && marked {
		s.overdue.Inc()
	}
	return err
}

// due returns when the outcome of a write is due: after Codat's own limit when the API has said it, and otherwise after
// --overdue-after. It follows from the record alone.
func (s Store) due(r state.Write) time.Time {
	if a := r.Asked; a != nil && a.TimeoutMinutes > 0 && !a.Requested.IsZero() {
		return a.Requested.Add(time.Duration(a.TimeoutMinutes)*time.Minute + limitMargin)
	}
	since := r.Requested
	for _, f := range []*state.WriteFact{r.Current, r.Legacy, r.Asked} {
		if f != nil {
			since = orElse(since, orElse(f.Generated, f.Received))
		}
	}
	return since.Add(s.overdueAfter)
}

// withOverdue returns the record with the mark that its outcome was due at a time. The earliest mark stays, and none stays
// with an outcome.
func withOverdue(r state.Write, due time.Time) state.Write {
	switch {
	case ended(r.Status):
		r.Overdue = time.Time{}
	case r.Overdue.IsZero() || due.Before(r.Overdue):
		r.Overdue = due
	}
	return r
}

// ended reports whether a status is an outcome. TimedOut is one, although Success or Failed may follow.
func ended(s codat.PushStatus) bool { return rank(s) >= rank(codat.TimedOut) }
