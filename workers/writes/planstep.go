package writes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

const (
	// maxRefusals is how many times in a row a create is pushed anew after a 5xx, when nothing was made.
	maxRefusals = 5
	// maxCalls is how many times an update or a delete is repeated without an answer that tells what happened.
	maxCalls = 10
	// leaseMargin is how long before the end of its lease a call ends.
	leaseMargin = 10 * time.Second
)

// start records the intent to push a step, and then pushes it.
func (p *plans) start(ctx context.Context, r plan.Record, i int) error {
	id, name := r.Plan.ID, r.Steps[i].Name
	until, err := p.paused(ctx, r.Plan.Company)
	if err != nil {
		return err
	}
	if until.After(time.Now()) {
		return p.changeStep(ctx, id, i, func(r plan.Record, s *plan.StepRecord) bool {
			if !ready(r, i) {
				return false
			}
			// The quota can be raised before it is renewed.
			wait(s, earlier(until, time.Now().Add(p.pace.maxPause)), "Codat wants no calls until "+until.UTC().Format(time.RFC3339))
			return true
		})
	}
	step, err := r.Resolved(i)
	if err != nil {
		return p.changeStep(ctx, id, i, func(r plan.Record, s *plan.StepRecord) bool {
			if !ready(r, i) {
				return false
			}
			failWith(s, err.Error(), time.Now())
			return true
		})
	}
	intent := plan.Push{Hash: hash(step), By: nonce()}
	stored, _, err := p.change(ctx, id, func(r *plan.Record) bool {
		s := &r.Steps[i]
		if !ready(*r, i) {
			return false
		}
		now := time.Now().UTC()
		enter(s, plan.Pushing, now)
		s.Try++
		push := intent
		push.Key = idempotencyKey(id, name, s.Try)
		push.Began, push.Called, push.Calls, push.Lease = now, now, 1, now.Add(p.pace.lease)
		s.Push, s.PushOperationKey, s.Evidence, s.Reason = &push, "", "", nil
		return true
	})
	if err != nil || !leased(stored, i, intent.By) {
		return err
	}
	return p.call(ctx, stored, i, step)
}

// leased reports whether a step is leased under a nonce.
func leased(r plan.Record, i int, by string) bool {
	s := r.Steps[i]
	return s.State == plan.Pushing && s.Push.By == by
}

// idempotencyKey is the GUID under which a try of a step is pushed.
func idempotencyKey(plan, step string, try int) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "headgate:plan:%s:step:%s:try:%d", plan, step, try)).String()
}

// hash identifies what a step sends.
func hash(s plan.Step) string {
	h := sha256.New()
	h.Write(s.Body) // it returns no error
	if s.File != nil {
		h.Write(s.File.Content)
	}
	h.Write([]byte(s.Record))
	return hex.EncodeToString(h.Sum(nil))
}

// changeStep changes one step of a plan.
func (p *plans) changeStep(ctx context.Context, id string, i int, f func(plan.Record, *plan.StepRecord) bool) error {
	var before plan.State
	stored, changed, err := p.change(ctx, id, func(r *plan.Record) bool {
		before = r.Steps[i].State
		changed := f(*r, &r.Steps[i])
		if changed && before == plan.Unknown && r.Steps[i].State != before {
			r.Generation++ // the plan may go on, as after an action
		}
		return changed
	})
	if err != nil || !changed {
		return err
	}
	if s := stored.Steps[i]; s.State != before {
		p.note(id, s)
	}
	return nil
}

// note counts a step that has changed its state, and logs one that holds its plan.
func (p *plans) note(id string, s plan.StepRecord) {
	switch s.State {
	case plan.Failed, plan.Unknown:
		p.ends.WithLabelValues(string(s.State)).Inc()
		p.log.Warn("a write plan is held", zap.String("plan", id), zap.String("step", s.Name), zap.String("state", string(s.State)))
	case plan.Done:
		p.ends.WithLabelValues(string(s.State)).Inc()
	}
}

// recover goes on with a step whose answer is not known: after a crash, after a call without an answer, and after a 5xx.
func (p *plans) recover(ctx context.Context, r plan.Record, i int) error {
	step, err := r.Resolved(i)
	if err != nil {
		return err // it was resolved before
	}
	keyed := step.Kind == plan.Create || step.Kind == plan.Attachment
	by := nonce()
	var search, ended bool
	stored, _, err := p.change(ctx, r.Plan.ID, func(r *plan.Record) bool {
		s, now := &r.Steps[i], time.Now().UTC()
		if s.State != plan.Pushing || s.Push.By != by && (s.Push.Lease.After(now) || s.NotBefore.After(now)) {
			return false
		}
		search = p.searches(*s, step.Kind, now)
		switch {
		case search:
		case !keyed && s.Push.Calls >= maxCalls:
			ended = true
			doubt(s, fmt.Sprintf("none of %d calls had an answer that tells what happened", s.Push.Calls), now)
			return true
		case s.Push.By != by:
			s.Push.Called = now
			s.Push.Calls++
		}
		s.Push.By, s.Push.Lease = by, now.Add(p.pace.lease)
		return true
	})
	if err == nil && ended {
		p.note(r.Plan.ID, stored.Steps[i])
	}
	switch {
	case err != nil || !leased(stored, i, by):
		return err
	case search:
		return p.search(ctx, stored, i)
	case stored.Steps[i].Push.Hash != hash(step):
		return p.answered(ctx, stored, i, func(s *plan.StepRecord) { doubt(s, "what the step sends has changed since its first call", time.Now()) })
	}
	return p.call(ctx, stored, i, step)
}

// answered changes a step that is leased as it is in r, and does nothing when the lease is another's now.
func (p *plans) answered(ctx context.Context, r plan.Record, i int, f func(*plan.StepRecord)) error {
	by := r.Steps[i].Push.By
	return p.changeStep(ctx, r.Plan.ID, i, func(now plan.Record, s *plan.StepRecord) bool {
		if !leased(now, i, by) {
			return false
		}
		f(s)
		return true
	})
}

// call pushes a step that is leased, and records what the answer says.
func (p *plans) call(ctx context.Context, r plan.Record, i int, step plan.Step) error {
	push := *r.Steps[i].Push
	margin := min(leaseMargin, p.pace.lease/6)
	limited, cancel := context.WithDeadline(ctx, push.Lease.Add(-margin))
	defer cancel()
	to := api.Target{Company: r.Plan.Company, Connection: r.Plan.Connection, DataType: step.DataType, TimeoutMinutes: step.TimeoutMinutes}
	var op api.PushOperation
	var err error
	switch step.Kind {
	case plan.Create:
		op, err = p.api.Create(limited, to, push.Key, step.Body)
	case plan.Update:
		op, err = p.api.Update(limited, to, step.Record, step.Body)
	case plan.Delete:
		op, err = p.api.Delete(limited, to, step.Record)
	case plan.Attachment:
		op, err = p.api.UploadAttachment(limited, to, step.Record, push.Key, api.Attachment{Name: step.File.Name, ContentType: step.File.ContentType, Content: step.File.Content})
	}
	if err != nil {
		return p.answered(ctx, r, i, func(s *plan.StepRecord) { p.judge(s, step.Kind, err, time.Now()) })
	}
	return p.made(ctx, r, i, op, "")
}

// made records the push operation of a step. One without a key is of an attachment, and no event follows.
func (p *plans) made(ctx context.Context, r plan.Record, i int, op api.PushOperation, evidence string) error {
	if op.PushOperationKey != "" {
		if _, err := p.claim(ctx, op, r.Plan.ID, r.Steps[i].Name, true); err != nil {
			return err
		}
	}
	return p.answered(ctx, r, i, func(s *plan.StepRecord) {
		s.PushOperationKey, s.Evidence = op.PushOperationKey, evidence
		if op.PushOperationKey == "" {
			enter(s, plan.Done, time.Now())
			return
		}
		enter(s, plan.Pending, time.Now())
		s.Refusals = 0
	})
}

// claim notes in the record of a write which step has made it. Without force it leaves a write that another step has made.
func (p *plans) claim(ctx context.Context, op api.PushOperation, id, step string, force bool) (mine bool, err error) {
	key, err := state.WriteKey(op.PushOperationKey)
	if err != nil {
		return false, err
	}
	said := answer(op, time.Now())
	err = workers.UpdateRecord(ctx, p.store.writes, key, func(w state.Write) state.Write {
		mine = force || w.Plan == "" || w.Plan == id && w.Step == step
		if !mine {
			return w
		}
		w.PushOperationKey, w.Plan, w.Step = key, id, step
		return withAnswer(w, said)
	})
	return mine, err
}

// judge says what an error of a call means for a step.
func (p *plans) judge(s *plan.StepRecord, kind plan.Kind, err error, now time.Time) {
	first := s.Push.Calls == 1
	keyed := kind == plan.Create || kind == plan.Attachment
	refusal, _ := errors.AsType[*api.Error](err)
	again := now.Add(max(p.pace.pause(s.Push.Calls), api.RetryAfter(err)))
	switch {
	case !errors.Is(err, api.ErrOutcomeUnknown) && (errors.Is(err, api.ErrAccount) || errors.Is(err, api.ErrUnavailable)):
		// This call has made nothing.
		if first {
			again = now.Add(max(p.pace.pause(s.Try), api.RetryAfter(err)))
			enter(s, plan.Waiting, now)
		}
		wait(s, again, err.Error())
	case errors.Is(err, api.ErrInProgress) && now.Sub(s.Push.Began) < p.pace.ask:
		wait(s, again, err.Error())
	case refusal != nil && keyed && (refusal.Status >= 500 || errors.Is(err, api.ErrInProgress)):
		s.Push.Refused = refusal.Status
		wait(s, now.Add(p.pace.settle), err.Error())
	case refusal == nil, errors.Is(err, api.ErrOutcomeUnknown):
		wait(s, again, err.Error())
	case kind == plan.Delete && refusal.Status == http.StatusNotFound && !first:
		enter(s, plan.Done, now)
		s.Evidence = "the record was gone when the delete was repeated"
	case errors.Is(err, api.ErrKeyReused) && !first:
		doubt(s, "Codat says that the idempotency key was used with another body", now)
	default:
		reason := &state.WriteReason{
			Message: limited(refusal.Message, maxText), Errors: remarks(refusal.Validation.Errors), Warnings: remarks(refusal.Validation.Warnings),
		}
		if reason.Message == "" {
			reason.Message = err.Error()
		}
		fail(s, reason, now)
	}
}

// follow records the outcome of a step's push operation, when it is known, and marks a write that has none overdue.
func (p *plans) follow(ctx context.Context, r plan.Record, i int) error {
	s := r.Steps[i]
	w, _, err := workers.ReadRecord[state.Write](ctx, p.store.writes, s.PushOperationKey)
	if err != nil {
		return err
	}
	forgotten := false
	if p.mustAsk(w, s, time.Now()) {
		op, err := p.api.Push(ctx, r.Plan.Company, s.PushOperationKey)
		switch {
		case errors.Is(err, api.ErrNotFound):
			forgotten = true
		case err != nil:
			return err
		default:
			if _, err := p.claim(ctx, op, r.Plan.ID, s.Name, true); err != nil {
				return err
			}
			if w, _, err = workers.ReadRecord[state.Write](ctx, p.store.writes, s.PushOperationKey); err != nil {
				return err
			}
		}
	}
	if w.Status != "" && w.Overdue.IsZero() && !ended(w.Status) && !time.Now().Before(p.store.due(w)) {
		if err := p.store.markOverdue(ctx, w); err != nil {
			return err
		}
	}
	if s.State == plan.Unknown && w.Status.IsSettled() { // the plan may go on, and may not be among the open ones
		r.Generation++ // as the change does
		if err := p.open(ctx, r); err != nil {
			return err
		}
	}
	return p.changeStep(ctx, r.Plan.ID, i, func(_ plan.Record, now *plan.StepRecord) bool {
		if now.PushOperationKey != s.PushOperationKey || now.State != plan.Pending && now.State != plan.Unknown {
			return false
		}
		if forgotten && now.State == plan.Pending && !w.Status.IsSettled() {
			doubt(now, "Codat does not know the push operation any more", time.Now())
			return true
		}
		return outcome(now, w, time.Now())
	})
}

// mustAsk reports whether Codat must be asked for a write: for the record of a success or the reason of a failure that no
// event had, and from time to time for an outcome that does not come.
func (p *plans) mustAsk(w state.Write, s plan.StepRecord, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := w.Asked != nil && rank(w.Asked.Status) >= rank(w.Status)
	switch {
	case w.Status.IsSettled():
		delete(p.asked, s.PushOperationKey)
		return !known && (w.Status == codat.Failed && w.Reason == nil || w.Status == codat.Success && w.Record == "")
	case s.State == plan.Pending && w.Status == codat.TimedOut:
		return true
	case s.State != plan.Pending || now.Sub(later(p.asked[s.PushOperationKey], s.Since)) < max(p.pace.ask, now.Sub(s.Since)/4):
		return false
	}
	p.asked[s.PushOperationKey] = now
	return true
}

// outcome puts a step into the state that follows from the record of its write, and reports whether that changed it.
func outcome(s *plan.StepRecord, w state.Write, now time.Time) bool {
	switch w.Status {
	case codat.Success:
		enter(s, plan.Done, now)
		s.Record, s.Attachment, s.Evidence = w.Record, w.Attachment, ""
	case codat.Failed:
		fail(s, w.Reason, now)
	case codat.TimedOut:
		if s.State == plan.Unknown {
			return false
		}
		doubt(s, "Codat says TimedOut: the platform may have written it, or may do so later", now)
	default:
		return false
	}
	return true
}
