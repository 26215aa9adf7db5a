package writes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

const (
	// searchPage and maxSearchPages bound a search of Codat's history.
	searchPage     = 100
	maxSearchPages = 10
)

// errTooMany means that the history has more push operations than a search reads.
var errTooMany = errors.New("search of the history: too many push operations")

// A window is the time in which the push operation of a step was made, if one was.
type window struct{ from, to time.Time }

func (p *plans) window(push plan.Push) window {
	return window{push.Began.Add(-p.pace.skew), push.Called.Add(p.pace.lease + p.pace.skew)}
}

func (w window) has(t time.Time) bool { return !t.Before(w.from) && !t.After(w.to) }

// search looks in Codat's history for the push operation of a step that is leased: another call with the same idempotency key
// cannot tell what happened. Exactly one candidate is the step's. Without any, the step is pushed anew after a 5xx, and is
// unknown otherwise; with several it is unknown.
func (p *plans) search(ctx context.Context, r plan.Record, i int) error {
	s := r.Steps[i]
	if settled := s.Push.Called.Add(p.pace.settle); time.Now().Before(settled) {
		return p.answered(ctx, r, i, func(s *plan.StepRecord) { wait(s, settled, "its push operation may not be in Codat's history yet") })
	}
	candidates, err := p.candidates(ctx, r, i)
	if _, refused := errors.AsType[*api.Error](err); errors.Is(err, errTooMany) || refused && !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrAccount) {
		return p.answered(ctx, r, i, func(s *plan.StepRecord) { doubt(s, err.Error(), time.Now()) })
	}
	if err != nil {
		return errors.Join(err, p.answered(ctx, r, i, func(s *plan.StepRecord) {
			wait(s, time.Now().Add(max(p.pace.pause(3), api.RetryAfter(err))), err.Error())
		}))
	}
	rivals, calling, err := p.rivals(ctx, r, i, candidates)
	switch {
	case err != nil:
		return err
	case calling:
		return p.answered(ctx, r, i, func(s *plan.StepRecord) {
			wait(s, time.Now().Add(p.pace.pause(5)), "another step is being pushed to the same data type")
		})
	case len(candidates) == 1 && rivals == 0:
		return p.adopt(ctx, r, i, candidates[0])
	}
	return p.answered(ctx, r, i, func(s *plan.StepRecord) { p.notFound(s, candidates, rivals, time.Now()) })
}

// adopt takes a push operation from the history as the step's, unless another step has taken it since.
func (p *plans) adopt(ctx context.Context, r plan.Record, i int, op api.PushOperation) error {
	mine, err := p.claim(ctx, op, r.Plan.ID, r.Steps[i].Name, false)
	if err != nil {
		return err
	}
	if !mine {
		return p.answered(ctx, r, i, func(s *plan.StepRecord) { wait(s, time.Now(), "its candidate was another step's") })
	}
	return p.made(ctx, r, i, op, "found in Codat's history: the only push operation that it can be")
}

// notFound says what becomes of a step whose push operation the history does not tell.
func (p *plans) notFound(s *plan.StepRecord, candidates []api.PushOperation, rivals int, now time.Time) {
	refused := ""
	if s.Push.Refused != 0 {
		refused = fmt.Sprintf("Codat answered %d; ", s.Push.Refused)
	}
	switch {
	case len(candidates) > 0:
		doubt(s, fmt.Sprintf("%spush operations in Codat's history that can be its own: %s; other steps that can have made one of them: %d", refused, keysOf(candidates), rivals), now)
	case s.Push.Refused < 500:
		doubt(s, refused+"its answer did not come, and Codat's history has no push operation that it can be", now)
	case s.Refusals+1 >= maxRefusals:
		s.Refusals++
		failWith(s, fmt.Sprintf("Codat answered %d to each of %d tries, and its history has no push operation of them", s.Push.Refused, s.Refusals), now)
	default:
		s.Refusals++
		enter(s, plan.Waiting, now)
		wait(s, now.Add(p.pace.pause(s.Refusals)), fmt.Sprintf("Codat answered %d and made nothing", s.Push.Refused))
	}
}

func keysOf(ops []api.PushOperation) string {
	text := ""
	for i, op := range ops {
		if i == 5 {
			return text + ", …"
		}
		if i > 0 {
			text += ", "
		}
		text += op.PushOperationKey
	}
	return text
}

// candidates returns the push operations in Codat's history that a step can have made and that no other step has.
func (p *plans) candidates(ctx context.Context, r plan.Record, i int) (found []api.PushOperation, err error) {
	step, made := r.Plan.Steps[i], p.window(*r.Steps[i].Push)
	page := api.Page{
		Size: searchPage, OrderBy: "-requestedOnUtc",
		Query: fmt.Sprintf("dataType=%s&&requestedOnUtc>=%s", step.DataType, made.from.UTC().Format(time.RFC3339)),
	}
	for page.Number = 1; ; page.Number++ {
		if page.Number > maxSearchPages {
			return nil, fmt.Errorf("%w: more than %d since %s", errTooMany, maxSearchPages*searchPage, made.from.Format(time.RFC3339))
		}
		list, err := p.api.Pushes(ctx, r.Plan.Company, page)
		if err != nil {
			return nil, fmt.Errorf("search of the history: %w", err)
		}
		for _, op := range list.Results {
			if !made.has(op.Requested.Time) || op.Connection != r.Plan.Connection || op.DataType != step.DataType || !canBe(op, step.Kind) {
				continue
			}
			w, _, err := workers.ReadRecord[state.Write](ctx, p.store.writes, op.PushOperationKey)
			if err != nil {
				return nil, err
			}
			if w.Plan == "" || w.Plan == r.Plan.ID && w.Step == step.Name {
				found = append(found, op)
			}
		}
		if page.Number*searchPage >= list.Total {
			return found, nil
		}
	}
}

// canBe reports whether a push operation can be of a step of a kind. One that has changed nothing yet can be of any.
func canBe(op api.PushOperation, kind plan.Kind) bool {
	made := map[plan.Kind]api.ChangeType{plan.Create: api.ChangeCreated, plan.Attachment: api.ChangeAttachmentUploaded}[kind]
	return len(op.Changes) == 0 || slices.ContainsFunc(op.Changes, func(c api.Change) bool { return c.Type == made || c.Type == api.ChangeUnknown })
}

// rivals counts the other steps of all plans that can have made one of the candidates: those whose own push operation is not
// known. It reports whether one of them is being called for, so that its answer will tell.
func (p *plans) rivals(ctx context.Context, r plan.Record, i int, candidates []api.PushOperation) (count int, calling bool, err error) {
	if len(candidates) == 0 {
		return 0, false, nil
	}
	ids, err := p.openPlans(ctx)
	if err != nil {
		return 0, false, err
	}
	for _, id := range ids {
		other, _, err := workers.ReadRecord[plan.Record](ctx, p.bucket, id)
		if err != nil {
			return 0, false, err
		}
		if other.Plan.Company != r.Plan.Company || other.Plan.Connection != r.Plan.Connection {
			continue
		}
		for j, s := range other.Steps {
			if id == r.Plan.ID && j == i || other.Plan.Steps[j].DataType != r.Plan.Steps[i].DataType || !p.mayHaveMade(s, candidates) {
				continue
			}
			count++
			calling = calling || s.State == plan.Pushing && !p.searches(s, other.Plan.Steps[j].Kind, time.Now())
		}
	}
	return count, calling, nil
}

// searches reports whether a step that is pushing looks in Codat's history, because another call cannot tell what happened.
func (p *plans) searches(s plan.StepRecord, kind plan.Kind, now time.Time) bool {
	keyed := kind == plan.Create || kind == plan.Attachment
	return keyed && (s.Push.Refused != 0 || now.Sub(s.Push.Began) > p.pace.memory)
}

// mayHaveMade reports whether one of the push operations can be that of a step.
func (p *plans) mayHaveMade(s plan.StepRecord, candidates []api.PushOperation) bool {
	if s.State != plan.Pushing && !untold(s) || s.Push == nil {
		return false
	}
	made := p.window(*s.Push)
	return slices.ContainsFunc(candidates, func(op api.PushOperation) bool { return made.has(op.Requested.Time) })
}
