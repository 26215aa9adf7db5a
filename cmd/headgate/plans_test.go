package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// examplePlan is the plan that README and docs/plans.md show.
const examplePlan = "../../docs/plan.json"

// newBrokerWithPlans returns a server with the bucket of plans, and without a worker.
func newBrokerWithPlans(t testing.TB) *broker {
	return newBroker(t, stream.WorkerSpec{Name: "writes", State: []string{plan.StateName}})
}

// step returns a step that creates a customer after others.
func step(name string, after ...string) plan.Step {
	return plan.Step{Name: name, Kind: plan.Create, DataType: "customers", Body: json.RawMessage(`{"customerName":"Larkspur"}`), After: after}
}

// planned stores the record of a plan as the worker does, with the states of its steps.
func (r *broker) planned(id, company string, status plan.Status, steps []plan.Step, change func(*plan.Record)) {
	r.Helper()
	record, err := plan.NewRecord(plan.Plan{ID: id, Company: company, Connection: "k-1", Steps: steps}, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	record.Status = status
	if change != nil {
		change(&record)
	}
	text, err := json.Marshal(record)
	if err != nil {
		r.Fatal(err)
	}
	kv, err := r.JS.KeyValue(r.Context(), source.StateBucket(plan.StateName))
	if err != nil {
		r.Fatal(err)
	}
	if _, err := kv.Put(r.Context(), id, text); err != nil {
		r.Fatal(err)
	}
}

// answering answers every request about plans with a reply, and returns the requests in a channel.
func (r *broker) answering(reply plan.Reply) <-chan *nats.Msg {
	r.Helper()
	requests := make(chan *nats.Msg, 16)
	body, err := json.Marshal(reply)
	if err != nil {
		r.Fatal(err)
	}
	_, err = r.NC.Subscribe(source.PlansSubject("*"), func(m *nats.Msg) {
		requests <- m
		_ = m.Respond(body)
	})
	if err == nil {
		err = r.NC.Flush()
	}
	if err != nil {
		r.Fatal(err)
	}
	return requests
}

// plansOf runs headgate plans with the server of a headgate dev that has a stand-in for Codat.
func plansOf(t *testing.T) (plans func(want int, args ...string) string, becomes func(id string, words ...string)) {
	t.Helper()
	c := startDev(t, t.TempDir(), "--no-examples", "--with-codat", "--codat-listen", "127.0.0.1:0")
	c.out.says(t, "Next")
	server := at(t, c.out.String(), "NATS")
	plans = func(want int, args ...string) string {
		t.Helper()
		return headgate(t, want, append(append([]string{"plans"}, args...), "--nats-url", server)...).out.String()
	}
	becomes = func(id string, words ...string) {
		t.Helper()
		streamtest.Wait(t, func() bool {
			text := plans(0, "show", id)
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
		}, strings.Join(words, ", "))
	}
	t.Cleanup(func() {
		c.stop()
		c.exit(0)
	})
	return plans, becomes
}

func TestPlans_AreSubmittedAndShown(t *testing.T) {
	t.Parallel()
	plans, becomes := plansOf(t)
	if got := plans(0, "submit", examplePlan); got != "submitted expense-4711: 2 steps\n" {
		t.Errorf("plans submit prints %q", got)
	}
	becomes("expense-4711", "status          done", "●  cost     done  create directCosts, after account", "push operation")
	contains(t, plans(0, "submit", examplePlan), "expense-4711 was submitted before: it is done")
}

// The account fails at the platform, and the cost, which is given a record in its place, is refused by Codat's API.
func TestPlans_AreActedOn(t *testing.T) {
	t.Parallel()
	plans, becomes := plansOf(t)
	file := filepath.Join(t.TempDir(), "fails.json")
	text := strings.NewReplacer("expense-4711", "fails", `"Travel"`, `"codattest:failed"`, `"Train"`, `"codattest:400"`).Replace(string(readExample(t)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plans(0, "submit", file)
	becomes("fails", "status          held", "✗  account  failed", "reason: ", "○  cost     held")
	plans(1, "skip", "fails", "account") // cost needs its record
	if got := plans(0, "skip", "fails", "account", "--record", "77"); !strings.Contains(got, "skip of fails accepted") {
		t.Errorf("plans skip prints %q", got)
	}
	becomes("fails", "status          held", "●  account  skipped", "record 77", "skip account record 77 by ", "✗  cost     failed")
	plans(0, "skip", "fails", "cost")
	becomes("fails", "status          done", "●  cost     skipped")
}

func readExample(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(examplePlan)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// docs/plans.md shows the plan that is submitted here, and the code that pkg/plan's example has.
func TestPlans_PageShowsWhatWorks(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/plans.md")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(page), "```json\n"+string(readExample(t))+"```")
	example, err := os.ReadFile("../../pkg/plan/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(page), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	contains(t, strings.ReplaceAll(string(example), "\n\t\t", "\n"), code)
}

func TestPlansSubmit_ListsFaultsAndSubmitsNothing(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	requests := r.answering(plan.Reply{Status: plan.StatusRunning, New: true})
	text := `{"id":"p","company":"c","connection":"k","steps":[{"name":"a","kind":"create","dataType":"customers","after":["b"]}]}`
	c := begin(t, text, "plans", "submit", "-", "--nats-url", r.URL).exit(1)
	contains(t, c.err.String(), "nothing was submitted", `step "a": body: it is missing`, `step "a": after[0]: the plan has no step "b"`)
	contains(t, begin(t, "{", "plans", "submit", "-", "--nats-url", r.URL).exit(1).err.String(), "nothing was submitted", "cut off")
	r.headgate(2, "plans", "submit", filepath.Join(t.TempDir(), "nothing.json"))
	r.headgate(2, "plans", "submit", examplePlan, "--check-options")
	if len(requests) != 0 || len(r.records()) != 0 {
		t.Errorf("%d requests and the records %+v; want neither", len(requests), r.records())
	}
}

func TestPlansSubmit_IsRecordedAndPrintsJSON(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	requests := r.answering(plan.Reply{Status: plan.StatusRunning, New: true})
	c := r.headgate(0, "plans", "submit", examplePlan, "--json")
	if got := decode[submittedPlan](t, c.out.lines()); len(got) != 1 || got[0] != (submittedPlan{"expense-4711", 2, true, plan.StatusRunning}) {
		t.Errorf("it prints %s", &c.out)
	}
	if m := <-requests; m.Subject != source.PlansSubject("submit") {
		t.Errorf("it asks %s", m.Subject)
	}
	for i, e := range r.records() {
		step := []string{operator.StepBegin, operator.StepEnd}[i]
		if e.Command != "plans submit" || e.Step != step || e.Count != 2 || e.Given != 2*i || e.Chosen["plan"] != "expense-4711" || len(e.Chosen) != 2 {
			t.Errorf("record %d = %+v", i+1, e)
		}
	}
}

func TestPlansSubmit_SaysThatNoWorkerAnswers(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	c := r.headgate(1, "plans", "submit", examplePlan)
	contains(t, c.err.String(), "no worker carries out plans", "--codat-key-file")
	if got := r.records(); len(got) != 2 || got[1].Error == "" || got[1].Given != 0 {
		t.Errorf("the records are %+v; want one before and one with the error", got)
	}
}

func TestPlans_ActionsAskTheWorker(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	requests := r.answering(plan.Reply{Status: plan.StatusRunning})
	for _, tt := range []struct {
		args string
		want plan.Action
	}{
		{"resume p", plan.Action{Kind: plan.Resume, Plan: "p"}},
		{"resume p a --operation key-1", plan.Action{Kind: plan.Resume, Plan: "p", Step: "a", Operation: "key-1"}},
		{"retry p a", plan.Action{Kind: plan.Retry, Plan: "p", Step: "a"}},
		{"skip p a --record 7", plan.Action{Kind: plan.Skip, Plan: "p", Step: "a", Record: "7"}},
		{"cancel p", plan.Action{Kind: plan.Cancel, Plan: "p"}},
	} {
		c := r.headgate(0, append([]string{"plans"}, strings.Fields(tt.args)...)...)
		contains(t, c.out.String(), string(tt.want.Kind)+" of p accepted: the plan is running")
		m := <-requests
		var got plan.Action
		if err := json.Unmarshal(m.Data, &got); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got.By, "@") {
			t.Errorf("plans %s is by %q; want a user and a host", tt.args, got.By)
		}
		got.By = ""
		if got != tt.want || m.Subject != source.PlansSubject(string(tt.want.Kind)) {
			t.Errorf("plans %s asks %s %+v; want %+v", tt.args, m.Subject, got, tt.want)
		}
	}
	records := r.records()
	if e := records[len(records)-3]; len(records) != 10 || e.Command != "plans skip" || e.Step != operator.StepEnd ||
		e.Chosen["plan"] != "p" || e.Chosen["step"] != "a" || e.Chosen["record"] != "7" {
		t.Errorf("%d records, of which the eighth is %+v", len(records), e)
	}
	r.headgate(2, "plans", "resume", "p", "--operation", "key-1")
	r.headgate(2, "plans", "retry", "p")
}

func TestPlans_ActionOnNoPlanNamesTheList(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	r.answering(plan.Reply{Code: "not_found", Error: "no such plan: p"})
	contains(t, r.headgate(1, "plans", "cancel", "p").err.String(), "no such plan: p: headgate plans list lists them")
}

func TestPlansList_FiltersPlans(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	r.planned("one", "c-1", plan.StatusDone, []plan.Step{step("a"), step("b")}, func(p *plan.Record) {
		p.Steps[0].State, p.Steps[1].State = plan.Done, plan.Skipped
	})
	r.planned("two", "c-2", plan.StatusHeld, []plan.Step{step("a"), step("b"), step("c")}, func(p *plan.Record) {
		p.Steps[0].State, p.Steps[1].State, p.Steps[2].State = plan.Unknown, plan.Held, plan.Held
	})
	r.planned("three", "c-1", plan.StatusRunning, []plan.Step{step("a")}, nil)
	for args, want := range map[string]string{
		"":                                "one two three",
		"--status held":                   "two",
		"--connection nobody":             "",
		"--until 1d":                      "",
		"--since 1d --limit 2":            "one two",
		"--company c-1":                   "one three",
		"--company c-1 --status done":     "one",
		"--company nobody":                "",
		"--status cancelled --company c1": "",
	} {
		var got []string
		c := r.headgate(0, append([]string{"plans", "list", "--json"}, strings.Fields(args)...)...)
		for _, p := range decode[listedPlan](t, c.out.lines()) {
			got = append(got, p.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("plans list %s = %q; want %q", args, got, want)
		}
	}
	c := r.headgate(0, "plans", "list")
	contains(t, c.out.lines()[1], "two\theld\t", "\tc-2\t1 unknown, 2 held")
	contains(t, c.err.String(), "3 plans")
	contains(t, r.headgate(2, "plans", "list", "--status", "failed").err.String(), `no plan is "failed": use running, held, done or cancelled`)
	contains(t, r.headgate(0, "plans", "show", "two").out.String(), "No further step starts until headgate plans retry")
	if c := r.headgate(0, "plans", "show", "one"); strings.Contains(c.out.String(), "No further step") {
		t.Errorf("a plan that is done waits for nobody:\n%s", c.out.String())
	}
}

func TestPlansShow_PrintsPayloadOnRequest(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	r.planned("p", "c-1", plan.StatusHeld, []plan.Step{step("a"), step("b", "a")}, func(p *plan.Record) {
		p.Steps[0].State, p.Steps[0].Reason = plan.Failed, &state.WriteReason{
			Message: "refused\x1b[31m", Errors: []state.WriteRemark{{Item: "name", Message: "it is taken"}},
		}
		p.Steps[1].State, p.Steps[1].Evidence = plan.Unknown, "two operations fit"
	})
	c := r.headgate(0, "plans", "show", "p")
	contains(t, c.out.String(), "c-1", "k-1", "✗  a  failed", `reason: refused\x1b[31m`, "error: name: it is taken", "?  b  unknown", "two operations fit")
	if strings.Contains(c.out.String(), "Larkspur") {
		t.Errorf("it prints a body: %s", &c.out)
	}
	contains(t, r.headgate(0, "plans", "show", "p", "--payload").out.String(), `"customerName": "Larkspur"`)
	if text := r.headgate(0, "plans", "show", "p", "--json").out.String(); strings.Contains(text, "Larkspur") || !strings.Contains(text, `"evidence":"two operations fit"`) {
		t.Errorf("plans show --json prints %s", text)
	}
	contains(t, r.headgate(0, "plans", "show", "p", "--json", "--payload").out.String(), "Larkspur")
	contains(t, r.headgate(1, "plans", "show", "nope").err.String(), "headgate plans list")
}

// The graph has each step below those that it waits for, and one line from each of them.
func TestPlanGraph_Draws(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		steps []plan.Step
		want  string
	}{
		{"a chain", []plan.Step{step("c", "b"), step("b", "a"), step("a")}, `
○ a
│
○ b
│
○ c

`},
		{"two before one", []plan.Step{step("a"), step("b"), step("c", "a", "b"), step("d")}, `
○   a
│
│ ○ b
│ │
○─╯ c

○   d

`},
		{"one before three", []plan.Step{step("a"), step("b", "a"), step("c", "a", "b"), step("d", "a", "c")}, `
○   a
│
├─○ b
│ │
├─○ c
│ │
○─╯ d

`},
		{"a line that others cross", []plan.Step{step("a"), step("b"), step("c"), step("d", "a", "c"), step("e", "b", "d")}, `
○     a
│
│ ○   b
│ │
│ │ ○ c
│ │ │
○─│─╯ d
│ │
○─╯   e

`},
		{"all that meets", []plan.Step{step("a"), step("b"), step("c"), step("d", "a", "b", "c"), step("e", "b", "d")}, `
○     a
│
│ ○   b
│ │
│ │ ○ c
│ │ │
○─┼─╯ d
│ │
○─╯   e

`},
	} {
		r, err := plan.NewRecord(plan.Plan{Steps: tt.steps}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got := "\n"
		for _, row := range newPlanGraph(r).rows() {
			got += row.first + r.Steps[row.step].Name + "\n" + strings.TrimRight(row.below, " ") + "\n"
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// What the platform requires is asked once for each data type, and nothing is submitted without it.
func TestPlansSubmit_ChecksOptions(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	requests := r.answering(plan.Reply{Status: plan.StatusRunning, New: true})
	asked := map[string]int{}
	codat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked[req.URL.Path]++ // one request at a time
		fmt.Fprint(w, `{"type":"Object","properties":{"name":{"type":"String","required":true},"reference":{"type":"String","required":true},
			"lineItems":{"type":"Array","properties":{"taxRateRef":{"type":"Object","required":true,"properties":{"id":{"required":true}}}}}}}`)
	}))
	defer codat.Close()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("key-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"plans", "submit", "-", "--nats-url", r.URL, "--check-options", "--codat-key-file", key, "--codat-url", codat.URL}
	c := begin(t, string(readExample(t)), args...).exit(1)
	contains(t, c.err.String(), "nothing was submitted",
		`step "account": body.reference: it is missing, and the platform requires it`,
		`step "cost": body.name: it is missing`, `step "cost": body.lineItems[0].taxRateRef: it is missing`)
	if len(requests) != 0 || len(asked) != 2 {
		t.Errorf("%d requests, and Codat was asked %v; want none, and each data type once", len(requests), asked)
	}
	complete := strings.NewReplacer(`"isBankAccount"`, `"reference": "7400", "isBankAccount"`, `"currency": "GBP", "subTotal"`, `"name": "x", "subTotal"`,
		`"quantity"`, `"taxRateRef": {"id": "1"}, "quantity"`).Replace(string(readExample(t)))
	contains(t, begin(t, complete, args...).exit(0).out.String(), "submitted expense-4711: 2 steps")
}
