package writes

import (
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
)

// cloned returns a record that can be changed without changing r.
func cloned(r plan.Record) plan.Record {
	r.Steps = slices.Clone(r.Steps)
	r.Actions = slices.Clone(r.Actions)
	for i, s := range r.Steps {
		if s.Push != nil {
			push := *s.Push
			r.Steps[i].Push = &push
		}
	}
	return r
}

// enter puts a step into a state.
func enter(s *plan.StepRecord, to plan.State, now time.Time) {
	if s.State != to {
		s.State, s.Since = to, now.UTC()
	}
	s.NotBefore, s.Wait = time.Time{}, ""
	if to != plan.Pushing && s.Push != nil {
		s.Push.Lease = time.Time{}
	}
}

// wait lets a step wait in its state.
func wait(s *plan.StepRecord, until time.Time, why string) {
	s.NotBefore, s.Wait = until.UTC(), why
	if s.Push != nil {
		s.Push.Lease = time.Time{}
	}
}

// settle makes a record follow from the states of its steps: behind a failed or unknown step, and after a cancellation, no
// further step starts.
func settle(r *plan.Record) {
	count := func(states ...plan.State) (n int) {
		for _, s := range r.Steps {
			if slices.Contains(states, s.State) {
				n++
			}
		}
		return n
	}
	stopped := count(plan.Failed, plan.Unknown) > 0
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.State != plan.Waiting && s.State != plan.Held {
			continue
		}
		to := plan.Waiting
		switch {
		case r.Cancelled:
			to = plan.Cancelled
		case stopped:
			to = plan.Held
		}
		if s.State != to {
			enter(s, to, time.Now())
		}
	}
	switch {
	case r.Cancelled && count(plan.Pushing, plan.Pending) == 0:
		r.Status = plan.StatusCancelled
	case r.Cancelled:
		r.Status = plan.StatusRunning
	case stopped:
		r.Status = plan.StatusHeld
	case count(plan.Done, plan.Skipped) == len(r.Steps):
		r.Status = plan.StatusDone
	default:
		r.Status = plan.StatusRunning
	}
}

// ready reports whether a step can start: every step before it is done or skipped.
func ready(r plan.Record, i int) bool {
	if r.Steps[i].State != plan.Waiting {
		return false
	}
	for _, before := range r.Plan.Before(i) {
		if s := r.Steps[before].State; s != plan.Done && s != plan.Skipped {
			return false
		}
	}
	return true
}

// untold reports whether nobody knows which push operation a step has made, if any: it is unknown, or was skipped when it was.
func untold(s plan.StepRecord) bool {
	return s.PushOperationKey == "" && s.Push != nil && s.Evidence != "" && (s.State == plan.Unknown || s.State == plan.Skipped)
}

// untoldTime is for how long after its last call such a step is compared with those of other plans that search Codat's history.
// An operator can look again as long as the records are kept, and the plan leaves the list before its record ends.
const untoldTime = keepWrites - 24*time.Hour

// closed reports whether a plan can go on only by an action or an event: nothing of it is waiting to start, is pushed or is
// needed by another plan's search.
func closed(r plan.Record, now time.Time) bool {
	for i, s := range r.Steps {
		switch {
		case s.State == plan.Pushing, s.State == plan.Pending, ready(r, i):
			return false
		case untold(s) && now.Sub(s.Push.Called) < untoldTime:
			return false
		}
	}
	return true
}

// The limits of a reason in the record of a plan, which has up to plan.MaxSteps of them. That of the write has more.
const (
	maxStepRemarks = 3
	maxStepText    = 512 // bytes of a message
	maxStepName    = 64  // bytes of an item and of a validator
)

// fail makes a step failed for a reason.
func fail(s *plan.StepRecord, reason *state.WriteReason, now time.Time) {
	enter(s, plan.Failed, now)
	if reason == nil {
		return
	}
	s.Reason = &state.WriteReason{
		Message: limited(reason.Message, maxStepText), Errors: firstRemarks(reason.Errors),
	}
}

func firstRemarks(all []state.WriteRemark) []state.WriteRemark {
	kept := slices.Clone(all[:min(len(all), maxStepRemarks)])
	for i := range kept {
		kept[i].Message = limited(kept[i].Message, maxStepText)
		kept[i].Item, kept[i].Validator = limited(kept[i].Item, maxStepName), limited(kept[i].Validator, maxStepName)
	}
	return kept
}

// failWith makes a step failed for a reason in our words.
func failWith(s *plan.StepRecord, message string, now time.Time) {
	fail(s, &state.WriteReason{Message: message}, now)
}

// doubt makes a step unknown.
func doubt(s *plan.StepRecord, evidence string, now time.Time) {
	enter(s, plan.Unknown, now)
	s.Evidence = evidence
}
