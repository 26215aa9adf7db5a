package writes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/workers"
)

const (
	// requestTimeout bounds the answer to one request.
	requestTimeout = 10 * time.Second
	// requestsAtOnce bounds the requests that one process answers at once.
	requestsAtOnce = 16
	// keptActions is how many actions a record has.
	keptActions = 20
)

// serve answers the requests about plans until stopping is closed. The processes of the worker share them.
func (p *plans) serve(ctx context.Context, stopping <-chan struct{}, nc *nats.Conn) error {
	var answering sync.WaitGroup
	slots := make(chan struct{}, requestsAtOnce)
	answer := func(handle func(context.Context, []byte) (plan.Reply, error)) nats.MsgHandler {
		return func(m *nats.Msg) {
			slots <- struct{}{}
			answering.Go(func() {
				defer func() { <-slots }()
				limited, cancel := context.WithTimeout(ctx, requestTimeout)
				defer cancel()
				p.respond(m, func() (plan.Reply, error) { return handle(limited, m.Data) })
			})
		}
	}
	handlers := map[string]nats.MsgHandler{"submit": answer(p.submit)}
	for _, kind := range []plan.ActionKind{plan.Resume, plan.Retry, plan.Skip, plan.Cancel} {
		handlers[string(kind)] = answer(func(ctx context.Context, body []byte) (plan.Reply, error) { return p.act(ctx, kind, body) })
	}
	var subscriptions []*nats.Subscription
	defer answering.Wait()
	defer func() {
		for _, s := range subscriptions {
			_ = s.Unsubscribe() // the connection ends after this
		}
	}()
	for name, handler := range handlers {
		s, err := nc.QueueSubscribe(p.source.PlansSubject(name), Name, handler)
		if err != nil {
			return fmt.Errorf("requests about write plans: %w", err)
		}
		subscriptions = append(subscriptions, s)
	}
	<-stopping
	return nil
}

func (p *plans) respond(m *nats.Msg, handle func() (plan.Reply, error)) {
	reply, err := handle()
	if err != nil {
		reply = plan.ReplyError(err)
	}
	body, err := json.Marshal(reply)
	if err == nil {
		err = m.Respond(body)
	}
	if err != nil {
		p.log.Warn("a request about write plans has no answer", zap.String("subject", m.Subject), zap.Error(err))
	}
}

// submit stores a plan. The same plan again changes nothing.
func (p *plans) submit(ctx context.Context, body []byte) (plan.Reply, error) {
	submitted, err := plan.Parse(body)
	if err != nil {
		return plan.Reply{}, fmt.Errorf("%w: %w", plan.ErrRefused, err)
	}
	record, err := plan.NewRecord(submitted, time.Now())
	if err != nil {
		return plan.Reply{}, err
	}
	var stored plan.Record
	fresh := false
	err = workers.UpdateRecord(ctx, p.bucket, submitted.ID, func(r plan.Record) plan.Record {
		fresh = fresh || r.Hash == ""
		if r.Hash == "" {
			r = record
		}
		stored = r
		return r
	})
	switch {
	case err != nil:
		return plan.Reply{}, err
	case stored.Hash != record.Hash:
		return plan.Reply{}, fmt.Errorf("%w: %s: headgate plans show --payload prints it; give this one another id", plan.ErrConflict, submitted.ID)
	case stored.Status == plan.StatusRunning: // also when an earlier submission ended in between
		if err := p.open(ctx, stored); err != nil {
			return plan.Reply{}, err
		}
		p.wake(submitted.ID)
	}
	return plan.Reply{Status: stored.Status, New: fresh}, nil
}

// act carries out an action.
func (p *plans) act(ctx context.Context, kind plan.ActionKind, body []byte) (plan.Reply, error) {
	var a plan.Action
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return plan.Reply{}, fmt.Errorf("%w: the action is not JSON as documented", plan.ErrRefused)
	}
	a.Kind, a.At = kind, time.Now().UTC().Round(0)
	if kind == plan.Resume && a.Operation != "" {
		return p.takeOperation(ctx, a)
	}
	return p.record(ctx, a, func(r *plan.Record) error { return apply(r, a) })
}

// record changes a plan by an action, notes the action and opens the plan.
func (p *plans) record(ctx context.Context, a plan.Action, f func(*plan.Record) error) (plan.Reply, error) {
	var refused error
	stored, _, err := p.change(ctx, a.Plan, func(r *plan.Record) bool {
		if slices.Contains(r.Actions, a) { // the answer to the first try was lost
			refused = nil
			return false
		}
		if refused = f(r); refused != nil {
			return false
		}
		r.Generation++
		r.Actions = append(r.Actions, a)
		r.Actions = r.Actions[max(0, len(r.Actions)-keptActions):]
		return true
	})
	if err == nil && (refused == nil || !closed(stored, time.Now())) { // refused also when an earlier try has changed the plan only
		err = p.open(ctx, stored)
	}
	if err == nil {
		err = refused
	}
	if err != nil {
		return plan.Reply{}, err
	}
	p.wake(a.Plan)
	return plan.Reply{Status: stored.Status}, nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", plan.ErrRefused, fmt.Sprintf(format, args...))
}

// apply changes a record as an action says. The error is ErrRefused with the reason.
func apply(r *plan.Record, a plan.Action) error {
	switch a.Kind {
	case plan.Cancel:
		switch {
		case r.Cancelled:
			return refuse("the plan is cancelled; what was pushed before goes on")
		case r.Status == plan.StatusDone:
			return refuse("the plan is done")
		}
		r.Cancelled = true
		return nil
	case plan.Resume:
		return lookAgain(r, a)
	}
	i := slices.IndexFunc(r.Steps, func(s plan.StepRecord) bool { return s.Name == a.Step })
	if i < 0 {
		return refuse("the plan has no step %q", a.Step)
	}
	s := &r.Steps[i]
	switch {
	case r.Cancelled:
		return refuse("the plan is cancelled: submit what is left under another id")
	case a.Kind == plan.Retry && s.State != plan.Failed && s.State != plan.Unknown:
		return refuse("step %q is %s: only a failed or unknown step can be retried", s.Name, s.State)
	case a.Kind == plan.Retry:
		enter(s, plan.Waiting, a.At)
		s.PushOperationKey, s.Reason, s.Evidence, s.Refusals = "", nil, "", 0
		return nil
	}
	if s.State != plan.Failed && s.State != plan.Unknown && s.State != plan.Waiting && s.State != plan.Held {
		return refuse("step %q is %s: it cannot be skipped", s.Name, s.State)
	}
	if by, what := r.NeededBy(s.Name); by != "" && a.Record == "" {
		return refuse("step %q refers to the %s of %q: give its id with --record", by, what, s.Name)
	}
	enter(s, plan.Skipped, a.At)
	if s.Record, s.Attachment = a.Record, ""; r.Plan.Steps[i].Kind == plan.Attachment {
		s.Record, s.Attachment = "", a.Record
	}
	return nil
}

// lookAgain makes the unknown steps of a plan, or the one that the action names, search again.
func lookAgain(r *plan.Record, a plan.Action) error {
	found := false
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.State != plan.Unknown || a.Step != "" && a.Step != s.Name {
			continue
		}
		found = true
		if s.PushOperationKey != "" {
			enter(s, plan.Pending, a.At)
			continue
		}
		enter(s, plan.Pushing, a.At)
		if s.Push.Refused == 0 {
			s.Push.Refused = 409
		}
		s.Push.Calls = 1
	}
	if !found {
		return refuse("no step is unknown: retry or skip a failed one")
	}
	return nil
}

// takeOperation takes a push operation as that of an unknown step: an operator has found it.
func (p *plans) takeOperation(ctx context.Context, a plan.Action) (plan.Reply, error) {
	r, _, err := workers.ReadRecord[plan.Record](ctx, p.bucket, a.Plan)
	if err != nil {
		return plan.Reply{}, err
	}
	i := slices.IndexFunc(r.Steps, func(s plan.StepRecord) bool { return s.Name == a.Step })
	switch {
	case r.Hash == "":
		return plan.Reply{}, fmt.Errorf("%w: %s", plan.ErrNotFound, a.Plan)
	case i < 0 || r.Steps[i].State != plan.Unknown:
		return plan.Reply{}, refuse("step %q is not unknown: a push operation can be given to an unknown step only", a.Step)
	}
	op, err := p.api.Push(ctx, r.Plan.Company, a.Operation)
	switch {
	case errors.Is(err, api.ErrNotFound):
		return plan.Reply{}, refuse("Codat knows no push operation %q of this company", a.Operation)
	case err != nil:
		return plan.Reply{}, err
	case op.Connection != r.Plan.Connection || op.DataType != r.Plan.Steps[i].DataType:
		return plan.Reply{}, refuse("push operation %q is of another connection or data type", a.Operation)
	}
	mine, err := p.claim(ctx, op, a.Plan, a.Step, false)
	switch {
	case err != nil:
		return plan.Reply{}, err
	case !mine:
		return plan.Reply{}, refuse("push operation %q is that of another step", a.Operation)
	}
	return p.record(ctx, a, func(r *plan.Record) error {
		s := &r.Steps[i]
		if s.State != plan.Unknown {
			return refuse("step %q is not unknown any more", a.Step)
		}
		enter(s, plan.Pending, a.At)
		s.PushOperationKey, s.Evidence = op.PushOperationKey, "an operator named the push operation"
		return nil
	})
}
