package writes

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

// refusing is a bucket that refuses to write one key.
type refusing struct {
	jetstream.KeyValue
	key string
}

func (b refusing) Update(ctx context.Context, key string, value []byte, last uint64) (uint64, error) {
	if key == b.key {
		return 0, errors.New("the bucket refuses")
	}
	return b.KeyValue.Update(ctx, key, value, last)
}

// An action whose answer was lost can be made again, although it has nothing to change any more: the plan goes on.
func TestPlans_GoOnAfterAnActionThatWasRecordedOnly(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.Succeed(time.Millisecond) })
	w.stop()
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	storeUnknown(t, p, "one", time.Now())
	body, err := json.Marshal(plan.Action{Kind: plan.Retry, Plan: "one", Step: "step-0"})
	if err != nil {
		t.Fatal(err)
	}
	// The plan is not among the open ones, as when it was held for long.
	r, _, err := workers.ReadRecord[plan.Record](t.Context(), w.plans, "one")
	if err == nil {
		err = p.forget(t.Context(), r)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.bucket = refusing{w.plans, openKey(shardOf("one"))}
	if _, err := p.act(t.Context(), plan.Retry, body); err == nil {
		t.Fatal("the action has succeeded")
	}
	p.bucket = w.plans
	_, err = p.act(t.Context(), plan.Retry, body)
	if open, listErr := p.openPlans(t.Context()); listErr != nil || len(open) != 1 {
		t.Errorf("after the same action again (%v), the open plans are %v, %v; want the plan", err, open, listErr)
	}
}

// A process that has read the record before a late outcome does not take the plan from the open ones after it.
func TestPlans_StayOpenAfterALateOutcome(t *testing.T) {
	w := newPlanWorld(t, 1, 0, nil)
	w.stop()
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	storeUnknown(t, p, "one", time.Now())
	const operation = "9a5500e0-0000-4000-8000-000000000005"
	var before plan.Record
	err := workers.UpdateRecord(t.Context(), w.plans, "one", func(r plan.Record) plan.Record {
		r.Steps[0].PushOperationKey = operation
		before = r
		return r
	})
	if err == nil {
		err = workers.UpdateRecord(t.Context(), w.store.writes, operation, func(r state.Write) state.Write {
			return state.Write{PushOperationKey: operation, Status: codat.Success, Record: "1000"}
		})
	}
	if err == nil {
		err = p.follow(t.Context(), before, 0)
	}
	if err == nil {
		err = p.forget(t.Context(), before) // by the other process
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.Get(t.Context(), w.srv.JS, source, "one")
	if err != nil || r.Steps[0].State != plan.Done {
		t.Fatalf("the step is %+v, %v; want it done", r.Steps, err)
	}
	if open, err := p.openPlans(t.Context()); err != nil || len(open) != 1 {
		t.Errorf("the open plans are %v, %v; want the plan", open, err)
	}
}
