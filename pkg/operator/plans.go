package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/headgate/headgate/pkg/plan"
)

// planTimeout bounds a request about a write plan. The worker answers within a third of it.
const planTimeout = 30 * time.Second

// SubmitPlan hands a write plan to the worker writes. Its errors are those of plan.Submit, and that of a record.
func (o *Operator) SubmitPlan(ctx context.Context, p plan.Plan) (plan.Reply, error) {
	e := Entry{Command: "plans submit", Count: len(p.Steps), Chosen: map[string]any{"plan": p.ID, "company": p.Company}}
	return o.aboutPlan(ctx, e, func(ctx context.Context) (plan.Reply, error) { return plan.Submit(ctx, o.js.Conn(), o.source, p) })
}

// ActOnPlan has the worker writes carry out an action on a write plan. It sets a.By. Its errors are those of plan.Do, and that
// of a record.
func (o *Operator) ActOnPlan(ctx context.Context, a plan.Action) (plan.Reply, error) {
	host, _ := os.Hostname() // "" when unknown
	a.By = o.user + "@" + host
	e := Entry{Command: "plans " + string(a.Kind), Count: 1, Chosen: map[string]any{"plan": a.Plan}}
	for name, value := range map[string]string{"step": a.Step, "record": a.Record, "operation": a.Operation} {
		if value != "" {
			e.Chosen[name] = value
		}
	}
	return o.aboutPlan(ctx, e, func(ctx context.Context) (plan.Reply, error) { return plan.Do(ctx, o.js.Conn(), o.source, a) })
}

// aboutPlan makes a request between its two records. The end of ctx does not cut the second one off.
func (o *Operator) aboutPlan(ctx context.Context, e Entry, ask func(context.Context) (plan.Reply, error)) (plan.Reply, error) {
	e.Step = StepBegin
	if err := o.Record(ctx, e); err != nil {
		return plan.Reply{}, err
	}
	limited, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	reply, err := ask(limited)
	e.Step, e.Given = StepEnd, e.Count
	if err != nil {
		e.Given, e.Error = 0, err.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: whether it was done is not known; headgate plans show tells", err)
	}
	return reply, errors.Join(err, o.Record(ctx, e))
}
