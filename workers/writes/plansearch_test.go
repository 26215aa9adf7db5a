package writes

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/workers"
)

// A push operation that two steps can have made is taken for neither, however late an operator looks again, and also when the
// other step was skipped because it had happened.
func TestPromise9_ALateSearchTakesNoPushOperationThatAnotherStepCanHaveMade(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first *plan.Action
	}{
		{"hours later", nil},
		{"the other is skipped", &plan.Action{Kind: plan.Skip, Plan: "one", Step: "step-0", Record: "1000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
			w.stop()
			w.quit = func() {}
			w.mu.Lock()
			w.byID["one"] = plan.Plan{ID: "one", Steps: []plan.Step{{Name: "step-0"}}}
			w.mu.Unlock()
			to := api.Target{Company: "company-0", Connection: "connection", DataType: codat.DataCustomers}
			if _, err := w.calls.Create(t.Context(), to, idempotencyKey("one", "step-0", 1), []byte(`{"ref":"one/step-0"}`)); err != nil {
				t.Fatal(err)
			}
			pace := testPace
			pace.skew = 4 * time.Hour // so that the push operation is in the window of both
			p := newPlans(w.plans, w.store, w.calls, newStepEnds(), pace)
			for _, id := range []string{"one", "two"} {
				storeUnknown(t, p, id, time.Now().Add(-3*time.Hour))
				if _, err := p.advance(t.Context(), nil, id); err != nil {
					t.Fatal(err)
				}
			}
			resume := plan.Action{Kind: plan.Resume, Plan: "two"}
			for _, a := range []*plan.Action{tt.first, &resume} {
				if a == nil {
					continue
				}
				body, err := json.Marshal(a)
				if err == nil {
					_, err = p.act(t.Context(), a.Kind, body)
				}
				if err == nil {
					_, err = p.advance(t.Context(), nil, a.Plan)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			r, err := plan.Get(t.Context(), w.srv.JS, source, "two")
			if err != nil || r.Steps[0].State != plan.Unknown || r.Steps[0].PushOperationKey != "" {
				t.Errorf("the step of the other plan is %+v, %v; want it unknown", r.Steps, err)
			}
		})
	}
}

// A step whose history Codat refuses to show is unknown: an operator can act on it.
func TestPlans_AStepIsUnknownWhenCodatRefusesToShowTheHistory(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
	w.stop()
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	storeUnknown(t, p, "one", time.Now().Add(-time.Hour))
	err := workers.UpdateRecord(t.Context(), w.plans, "one", func(r plan.Record) plan.Record { r.Plan.Company = "gone"; return r })
	if err == nil {
		_, err = p.act(t.Context(), plan.Resume, []byte(`{"plan":"one"}`))
	}
	if err == nil {
		_, err = p.advance(t.Context(), nil, "one")
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.Get(t.Context(), w.srv.JS, source, "one")
	if err != nil || r.Steps[0].State != plan.Unknown || !strings.Contains(r.Steps[0].Evidence, "404") {
		t.Errorf("the step is %+v, %v; want it unknown for the answer 404", r.Steps, err)
	}
}

// An update that is repeated in vain counts as unknown: the alert follows from the count.
func TestPlans_CountAnUpdateThatIsGivenUp(t *testing.T) {
	w := newPlanWorld(t, 1, 0, nil)
	w.stop()
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	storeUnknown(t, p, "one", time.Now())
	err := workers.UpdateRecord(t.Context(), w.plans, "one", func(r plan.Record) plan.Record {
		r.Plan.Steps[0].Kind, r.Plan.Steps[0].Record = plan.Update, "1"
		r.Steps[0].State, r.Steps[0].Push.Calls = plan.Pushing, maxCalls
		return r
	})
	if err == nil {
		_, err = p.advance(t.Context(), nil, "one")
	}
	if err != nil {
		t.Fatal(err)
	}
	var counted dto.Metric
	if err := p.ends.WithLabelValues(string(plan.Unknown)).Write(&counted); err != nil || counted.GetCounter().GetValue() != 1 {
		t.Errorf("%v unknown steps are counted, %v; want 1", counted.GetCounter().GetValue(), err)
	}
}

// storeUnknown stores an open plan whose only step is unknown since its last call.
func storeUnknown(t *testing.T, p *plans, id string, called time.Time) {
	t.Helper()
	submitted := plan.Plan{ID: id, Company: "company-0", Connection: "connection", Steps: []plan.Step{{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{}`)}}}
	r, err := plan.NewRecord(submitted, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.Status = plan.StatusHeld
	r.Steps[0].State, r.Steps[0].Evidence = plan.Unknown, "one of 1"
	r.Steps[0].Push = &plan.Push{Began: called, Called: called, Calls: 1}
	if err := workers.UpdateRecord(t.Context(), p.bucket, id, func(plan.Record) plan.Record { return r }); err != nil {
		t.Fatal(err)
	}
	if err := p.open(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// A cancelled plan is running until what was pushed has an outcome.
func TestApply_RefusesToCancelTwice(t *testing.T) {
	t.Parallel()
	r := &plan.Record{Status: plan.StatusRunning, Cancelled: true}
	if err := apply(r, plan.Action{Kind: plan.Cancel}); !errors.Is(err, plan.ErrRefused) || !strings.Contains(err.Error(), "what was pushed before goes on") {
		t.Errorf("a second cancel: %v; want that it is refused, and what goes on", err)
	}
}
