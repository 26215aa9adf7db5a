package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
)

func TestOutcome_FollowsTheRecordOfThePlan(t *testing.T) {
	t.Parallel()
	made := plan.StepRecord{State: plan.Done, Record: "1"}
	refused := plan.StepRecord{State: plan.Failed, Reason: &state.WriteReason{Message: "no", Errors: []state.WriteRemark{{Message: "no"}, {Message: "closed"}}}}
	tests := []struct {
		name          string
		account, cost plan.StepRecord
		want          outcome
	}{
		{"it is submitted", plan.StepRecord{State: plan.Waiting}, plan.StepRecord{State: plan.Waiting}, outcome{Status: inProgress}},
		{"the cost is pushed", made, plan.StepRecord{State: plan.Pending, PushOperationKey: "k"}, outcome{Status: inProgress, AccountRecord: "1", PushOperationKey: "k"}},
		{"both are made", made, plan.StepRecord{State: plan.Done, Record: "2", PushOperationKey: "k"}, outcome{Status: complete, AccountRecord: "1", CostRecord: "2", PushOperationKey: "k"}},
		{"the account is refused", refused, plan.StepRecord{State: plan.Held}, outcome{Status: failed, Reason: "account: no; closed"}},
		{"the cost is refused for no reason", made, plan.StepRecord{State: plan.Failed}, outcome{Status: failed, AccountRecord: "1", Reason: "cost: no reason is known"}},
		{"nobody knows of the cost", made, plan.StepRecord{State: plan.Unknown, Evidence: "two candidates"}, outcome{Status: inProgress, AccountRecord: "1", Reason: "cost: two candidates"}},
		{"an operator has written the cost by hand", made, plan.StepRecord{State: plan.Skipped, Record: "2"}, outcome{Status: complete, AccountRecord: "1", CostRecord: "2"}},
		{"an operator cancels it", made, plan.StepRecord{State: plan.Cancelled}, outcome{Status: failed, AccountRecord: "1", Reason: "cost: an operator cancelled it"}},
	}
	for _, tt := range tests {
		tt.account.Name, tt.cost.Name = "account", "cost"
		got := outcomeOf(plan.Record{Steps: []plan.StepRecord{tt.account, tt.cost}})
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// What a user writes is no reference: the plan is valid, and the platform gets the text as it was written.
func TestPlan_HasTextsOfUsersLiterally(t *testing.T) {
	t.Parallel()
	const text = `$${steps.account.record.id} "${x"`
	p := pusher{company: "c", connection: "k"}.planOf(expense{ID: "1", Plan: "expense-1", Description: text, Amount: "84.50", Account: text})
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	r, err := plan.NewRecord(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.Steps[0].Record = "1001"
	var account, cost struct {
		Name, Note string
		LineItems  []struct{ AccountRef struct{ ID string } }
	}
	for i, into := range []any{&account, &cost} {
		step, err := r.Resolved(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(step.Body, into); err != nil {
			t.Fatal(err)
		}
	}
	if account.Name != text || cost.Note != text || len(cost.LineItems) != 1 || cost.LineItems[0].AccountRef.ID != "1001" {
		t.Errorf("the platform gets the account %+v and the cost %+v; want %q and a reference to 1001", account, cost, text)
	}
}
