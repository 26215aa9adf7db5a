package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
)

// planStates are the states of steps in the order in which a line counts them.
var planStates = []plan.State{plan.Done, plan.Skipped, plan.Pending, plan.Pushing, plan.Waiting, plan.Failed, plan.Unknown, plan.Held, plan.Cancelled}

var planStatuses = []string{string(plan.StatusRunning), string(plan.StatusHeld), string(plan.StatusDone), string(plan.StatusCancelled)}

// A planRow is a line of the list of plans. It has nothing of what the steps write.
type planRow struct {
	Link, Company, Connection idLink
	Status                    stateWord
	Submitted                 time.Time
	Steps                     int
	Counts                    string // of steps by state
}

func newPlanRow(r plan.Record) planRow {
	row := planRow{
		Link: planLink(r.Plan.ID), Company: companyLink(r.Plan.Company), Connection: connectionLink(r.Plan.Company, r.Plan.Connection),
		Status: stateWord{string(r.Status), planLevel(string(r.Status))}, Submitted: r.Submitted, Steps: len(r.Steps),
	}
	var counts []string
	for _, s := range planStates {
		n := 0
		for _, step := range r.Steps {
			if step.State == s {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	row.Counts = strings.Join(counts, ", ")
	return row
}

// planLevel is how the status of a plan is shown.
func planLevel(status string) level {
	switch plan.Status(status) {
	case plan.StatusDone:
		return good
	case plan.StatusRunning:
		return waiting
	case plan.StatusHeld:
		return alarm
	}
	return neutral
}

// stepLevel is how the state of a step is shown.
func stepLevel(s plan.State) level {
	switch s {
	case plan.Done:
		return good
	case plan.Failed, plan.Unknown:
		return alarm
	case plan.Pending, plan.Pushing, plan.Held:
		return waiting
	}
	return neutral
}

// servePlans lists the plans.
func (c *Console) servePlans(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate plans list", "company", "connection", "status")
	if !ok {
		return
	}
	bucket := c.Source.StateBucket(plan.StateName)
	b := backward{stream: "KV_" + bucket, filter: "$KV." + bucket + ".*", before: q.Before, limit: pageRows}
	page, err := newestRecords(r.Context(), c.JS, b, func(m *jetstream.RawStreamMsg) (planRow, bool) {
		var one plan.Record
		if json.Unmarshal(m.Data, &one) != nil {
			return planRow{}, false // a later version wrote it
		}
		return newPlanRow(one), q.holds("company", one.Plan.Company) && q.holds("connection", one.Plan.Connection) &&
			q.holds("status", string(one.Status)) && q.within(one.Submitted)
	})
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	counts := c.hub.facts(r.Context()).survey.states.plans
	c.render(w, r, "plans", listView[planRow]{Query: q, Page: page, Chips: q.chips(counts, planLevel), Choices: planStatuses})
}

// A stepRow is a step of a plan with what became of it. It has nothing of what the step writes.
type stepRow struct {
	Name      string
	Kind      plan.Kind
	DataType  codat.DataType
	State     stateWord
	Since     time.Time
	After     []string
	Write     idLink
	Record    string
	Try       int
	Wait      string
	NotBefore time.Time
	Evidence  string
	HasReason bool
}

// A planView is what the page of a plan shows.
type planView struct {
	planRow
	Held    bool
	Graph   template.HTML
	Rows    []stepRow
	Actions []plan.Action // newest first
	Buttons []button
}

// servePlan shows one plan.
func (c *Console) servePlan(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	record, err := plan.Get(r.Context(), c.JS, c.Source, id)
	if err != nil {
		_, badKey := state.WriteKey(id) // ids have the characters and the length of keys
		if errors.Is(err, plan.ErrNotFound) {
			badKey = err
		}
		c.noRecord(w, r, err, badKey, missing{"No such plan", "No plan was submitted under this id.", "Plans lists those that were: headgate plans submit hands one to worker-writes."})
		return
	}
	v := planView{planRow: newPlanRow(record), Held: record.Status == plan.StatusHeld, Graph: drawPlan(record)}
	for _, row := range record.Plan.Graph() {
		v.Rows = append(v.Rows, newStepRow(record, row.Step))
	}
	for _, a := range slices.Backward(record.Actions) {
		v.Actions = append(v.Actions, a)
	}
	v.Buttons = c.planButtons(userOf(r), record)
	c.render(w, r, "plan", v)
}

func newStepRow(r plan.Record, i int) stepRow {
	p, s := r.Plan.Steps[i], r.Steps[i]
	row := stepRow{
		Name: p.Name, Kind: p.Kind, DataType: p.DataType, State: stateWord{string(s.State), stepLevel(s.State)}, Since: s.Since,
		Write: writeLink(s.PushOperationKey), Record: s.Record + s.Attachment, Try: s.Try, Wait: s.Wait, NotBefore: s.NotBefore,
		Evidence: s.Evidence, HasReason: s.Reason != nil,
	}
	for _, before := range r.Plan.Before(i) {
		row.After = append(row.After, r.Plan.Steps[before].Name)
	}
	return row
}
