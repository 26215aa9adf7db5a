package writes_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/writes"
)

// startPlans runs the worker beside a stand-in that delivers its webhooks into the stream.
func startPlans(t *testing.T, o codattest.Options, with ...func(*writes.Settings)) (*streamtest.Server, *codattest.Server) {
	t.Helper()
	platform, err := codattest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	platform.AddCompany(codattest.Company{ID: "company-1", Name: "A Company", Connections: []string{"connection-1"}})
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	srv, _ := start(t, append(with, func(s *writes.Settings) {
		s.Codat = api.Settings{CodatKeyFile: key, CodatURL: platform.URL(), CodatTimeout: 30 * time.Second, CodatConcurrency: 4}
	})...)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		post(t, srv, r.Header.Get("webhook-id"), string(body))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(endpoint.Close)
	platform.AddEndpoint(codattest.Endpoint{URL: endpoint.URL})
	return srv, platform
}

// expense is a plan of an account and a direct cost that uses it.
func expense(t *testing.T, id, accountBody string) plan.Plan {
	t.Helper()
	p, err := plan.Parse(fmt.Appendf(nil, `{"id":%q,"company":"company-1","connection":"connection-1","steps":[
		{"name":"account","kind":"create","dataType":"chartOfAccounts","body":%s},
		{"name":"cost","kind":"create","dataType":"directCosts","body":{"lineItems":[{"accountRef":{"id":"${steps.account.record.id}"}}]}}]}`, id, accountBody))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// submit submits a plan once the worker answers.
func submit(t *testing.T, srv *streamtest.Server, p plan.Plan) plan.Reply {
	t.Helper()
	var reply plan.Reply
	streamtest.Wait(t, func() bool {
		var err error
		reply, err = plan.Submit(t.Context(), srv.NC, source, p)
		if err != nil && !errors.Is(err, plan.ErrNoWorker) {
			t.Fatal(err)
		}
		return err == nil
	}, "the worker to take a plan")
	return reply
}

func await(t *testing.T, srv *streamtest.Server, id string) (r plan.Record) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		var err error
		if r, err = plan.Get(t.Context(), srv.JS, source, id); err != nil {
			t.Fatal(err)
		}
		return r.Status != plan.StatusRunning
	}, "plan "+id+" to end or to be held")
	return r
}

func do(t *testing.T, srv *streamtest.Server, a plan.Action) {
	t.Helper()
	if _, err := plan.Do(t.Context(), srv.NC, source, a); err != nil {
		t.Fatalf("%s: %v", a.Kind, err)
	}
}

var soon = map[codat.DataType]codattest.Outcome{
	codat.DataChartOfAccounts: codattest.Succeed(time.Millisecond), codat.DataDirectCosts: codattest.Succeed(time.Millisecond),
}

func TestPromise9_PlansPushEachStepWithWhatTheOnesBeforeItMade(t *testing.T) {
	t.Parallel()
	srv, platform := startPlans(t, codattest.Options{ByDataType: map[codat.DataType]codattest.Outcome{
		codat.DataChartOfAccounts: codattest.Succeed(500 * time.Millisecond), codat.DataDirectCosts: codattest.Succeed(time.Millisecond),
	}})
	p := expense(t, "expense-1", `{"name":"Travel"}`)
	if reply := submit(t, srv, p); !reply.New || reply.Status != plan.StatusRunning {
		t.Errorf("Submit = %+v; want a new plan that runs", reply)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := plan.Await(ctx, srv.JS, source, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	pushes := platform.Pushes()
	if r.Status != plan.StatusDone || len(pushes) != 2 {
		t.Fatalf("the plan is %s with %d pushes; want done with 2", r.Status, len(pushes))
	}
	account, cost := r.Steps[0], r.Steps[1]
	if account.Record != pushes[0].Record || account.PushOperationKey != pushes[0].Key || cost.Record != pushes[1].Record {
		t.Errorf("the steps are %+v; want the stand-in's records %q and %q", r.Steps, pushes[0].Record, pushes[1].Record)
	}
	if want := fmt.Sprintf(`{"lineItems":[{"accountRef":{"id":%q}}]}`, account.Record); string(pushes[1].Body) != want {
		t.Errorf("the cost is %s; want %s", pushes[1].Body, want)
	}
	records, err := state.OpenWrites(t.Context(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := records.Get(t.Context(), cost.PushOperationKey); err != nil || w.Plan != p.ID || w.Step != "cost" || w.Status != codat.Success {
		t.Errorf("the cost's write is %+v, %v; want it to name its plan and step", w, err)
	}

	if reply := submit(t, srv, p); reply.New || reply.Status != plan.StatusDone {
		t.Errorf("the same plan again: %+v; want the plan that is done", reply)
	}
	if _, err := plan.Submit(t.Context(), srv.NC, source, expense(t, p.ID, `{"name":"Other"}`)); !errors.Is(err, plan.ErrConflict) || !strings.Contains(err.Error(), "another id") {
		t.Errorf("another plan under the id: %v; want ErrConflict and the cure", err)
	}
	if _, err := plan.Get(t.Context(), srv.JS, source, "no-such-plan"); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("Get of no plan = %v", err)
	}
	for _, tt := range []struct {
		action plan.Action
		want   error
	}{
		{plan.Action{Kind: plan.Cancel, Plan: "no-such-plan"}, plan.ErrNotFound},
		{plan.Action{Kind: plan.Resume, Plan: "no-such-plan", Step: "a", Operation: "k"}, plan.ErrNotFound},
		{plan.Action{Kind: plan.Cancel, Plan: p.ID}, plan.ErrRefused},
		{plan.Action{Kind: plan.Resume, Plan: p.ID}, plan.ErrRefused},
		{plan.Action{Kind: plan.Retry, Plan: p.ID, Step: "account"}, plan.ErrRefused},
		{plan.Action{Kind: plan.Skip, Plan: p.ID, Step: "account"}, plan.ErrRefused},
		{plan.Action{Kind: plan.Retry, Plan: p.ID, Step: "none"}, plan.ErrRefused},
	} {
		if _, err := plan.Do(t.Context(), srv.NC, source, tt.action); !errors.Is(err, tt.want) {
			t.Errorf("Do(%+v) = %v; want %v", tt.action, err, tt.want)
		}
	}
	var listed []string
	if err := plan.List(t.Context(), srv.JS, source, func(r plan.Record) error { listed = append(listed, r.Plan.ID); return nil }); err != nil || len(listed) != 1 {
		t.Errorf("List = %v, %v; want the one plan", listed, err)
	}
}

// Behind a failed step nothing is pushed, and each action lets the plan go on.
func TestPromise9_PlansAreHeldBehindAFailedStep(t *testing.T) {
	t.Parallel()
	srv, platform := startPlans(t, codattest.Options{ByDataType: soon, Outcome: func(p codattest.Push) (codattest.Outcome, bool) {
		if bytes.Contains(p.Body, []byte("refused at first")) && p.Number > 3 {
			return codattest.Outcome{}, false
		}
		return codattest.Fail(time.Millisecond, "the account is locked"), bytes.Contains(p.Body, []byte("refused"))
	}})
	for _, id := range []string{"skipped", "cancelled", "retried"} {
		body := `{"note":"refused"}`
		if id == "retried" {
			body = `{"note":"refused at first"}`
		}
		submit(t, srv, expense(t, id, body))
		r := await(t, srv, id)
		account, cost := r.Steps[0], r.Steps[1]
		if r.Status != plan.StatusHeld || account.State != plan.Failed || account.Reason == nil || account.Reason.Message != "the account is locked" || cost.State != plan.Held {
			t.Fatalf("%s: the plan is %s: %+v; want it held for the platform's reason", id, r.Status, r.Steps)
		}
	}
	if got := platform.Records("company-1", "connection-1", codat.DataDirectCosts); got != 0 {
		t.Errorf("%d costs were made behind a failed account", got)
	}
	if _, err := plan.Do(t.Context(), srv.NC, source, plan.Action{Kind: plan.Skip, Plan: "skipped", Step: "account"}); !errors.Is(err, plan.ErrRefused) || !strings.Contains(err.Error(), "--record") {
		t.Errorf("skip without the record that another step needs: %v", err)
	}
	do(t, srv, plan.Action{Kind: plan.Skip, Plan: "skipped", Step: "account", Record: "by-hand"})
	if r := await(t, srv, "skipped"); r.Status != plan.StatusDone || r.Steps[0].State != plan.Skipped || r.Steps[0].Attachment != "" || len(r.Actions) != 1 {
		t.Errorf("after skip: %+v", r)
	}
	do(t, srv, plan.Action{Kind: plan.Cancel, Plan: "cancelled"})
	if r := await(t, srv, "cancelled"); r.Status != plan.StatusCancelled || r.Steps[1].State != plan.Cancelled {
		t.Errorf("after cancel: %+v", r)
	}
	do(t, srv, plan.Action{Kind: plan.Retry, Plan: "retried", Step: "account"})
	if r := await(t, srv, "retried"); r.Status != plan.StatusDone || r.Steps[0].Try != 2 {
		t.Errorf("after retry: %+v", r)
	}
	pushes := platform.Pushes()
	if last := pushes[len(pushes)-1]; last.DataType != codat.DataDirectCosts {
		t.Errorf("the last push is of %s", last.DataType)
	}
	used := false
	for _, p := range pushes {
		used = used || bytes.Contains(p.Body, []byte("by-hand"))
	}
	if !used {
		t.Error("no push uses the record that the action named")
	}
}

// A step that timed out is unknown, and the plan goes on by itself when the platform has written it after all.
func TestPlans_GoOnAfterALateSuccess(t *testing.T) {
	t.Parallel()
	clock := codattest.NewClock(time.Now())
	srv, platform := startPlans(t, codattest.Options{Clock: clock, ByDataType: map[codat.DataType]codattest.Outcome{
		codat.DataChartOfAccounts: codattest.SucceedLate(time.Second, time.Hour), codat.DataDirectCosts: codattest.Succeed(time.Second),
	}})
	pushed := func(n int) {
		t.Helper()
		streamtest.Wait(t, func() bool { return len(platform.Pushes()) == n }, fmt.Sprintf("%d push operations", n))
	}
	submit(t, srv, expense(t, "late", `{"name":"Travel"}`))
	pushed(1)
	clock.Advance(time.Minute)
	if r := await(t, srv, "late"); r.Status != plan.StatusHeld || r.Steps[0].State != plan.Unknown || !strings.Contains(r.Steps[0].Evidence, "TimedOut") {
		t.Fatalf("the plan is %s: %+v; want it held with its evidence", r.Status, r.Steps)
	}
	clock.Advance(time.Hour)
	pushed(2)
	clock.Advance(time.Minute)
	if r := await(t, srv, "late"); r.Status != plan.StatusDone {
		t.Errorf("the plan is %s: %+v; want it done", r.Status, r.Steps)
	}
}

// A request that is not a plan is refused with every fault, and stores nothing.
func TestPlans_RefuseWhatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	srv, platform := startPlans(t, codattest.Options{ByDataType: soon})
	submit(t, srv, expense(t, "first", `{"name":"Travel"}`))
	for _, text := range []string{"", "not JSON", `{"id":"a"}`, `{"id":"b","company":"c","connection":"k","steps":[{"name":"a","kind":"create","dataType":"customers","body":{},"after":["a"]}]}`} {
		m, err := srv.NC.Request(source.PlansSubject("submit"), []byte(text), 2*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var reply plan.Reply
		if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Code != "refused" || !strings.Contains(reply.Error, "plan: ") {
			t.Errorf("submitting %q: %s, %v; want it refused", text, m.Data, err)
		}
	}
	await(t, srv, "first")
	kv, err := srv.JS.KeyValue(t.Context(), source.StateBucket(plan.StateName))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if _, err := kv.Get(t.Context(), id); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("plan %q is stored: %v", id, err)
		}
	}
	if got := len(platform.Pushes()); got != 2 {
		t.Errorf("%d push operations; want those of the first plan", got)
	}
}

func TestPlans_NeedAWorkerWithAnAPIKey(t *testing.T) {
	t.Parallel()
	srv, _ := start(t)
	if _, err := plan.Submit(t.Context(), srv.NC, source, expense(t, "a", `{}`)); !errors.Is(err, plan.ErrNoWorker) || !strings.Contains(err.Error(), "--codat-key-file") {
		t.Errorf("Submit = %v; want ErrNoWorker and the cure", err)
	}
}
