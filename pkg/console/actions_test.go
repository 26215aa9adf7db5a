package console_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// people are the access of tests with several users, whom a header names.
type people map[string]console.User

func (p people) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := p[r.Header.Get("User")]
		u.Name = r.Header.Get("User")
		next.ServeHTTP(w, r.WithContext(console.WithUser(r.Context(), u)))
	})
}

// An office is a console with two operators, ada and bob, and the viewer eve.
type office struct {
	*testing.T
	*streamtest.Server
	*console.Console
	later atomic.Int64 // by how much its clock is ahead
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{T: t, Server: streamtest.New(t, writes, keeper)}
	op, err := operator.New(o.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Close)
	all := console.User{View: true, Payload: true, Operate: true}
	o.Console, err = console.New(console.Options{
		JS: o.JS, Source: source, Log: zaptest.NewLogger(t), Operator: op, Access: people{"ada": all, "bob": all, "eve": {View: true}},
		Now: func() time.Time { return time.Now().Add(time.Duration(o.later.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, o.Console)
	return o
}

// form posts a form as a user.
func (o *office) form(user, path string, fields ...string) *httptest.ResponseRecorder {
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Add(fields[i], fields[i+1])
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User", user)
	return serve(o.Console, r)
}

// page returns a page as a user.
func (o *office) page(user, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("User", user)
	return serve(o.Console, r)
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// preview returns the token of a preview, whose page has the texts.
func (o *office) preview(user string, fields []string, texts ...string) (token string) {
	o.Helper()
	body := must(o.T, "preview", o.form(user, "/actions/preview", fields...), http.StatusOK, texts...)
	found := tokenField.FindStringSubmatch(body)
	if found == nil {
		o.Fatalf("the preview has no token:\n%s", body)
	}
	return found[1]
}

// confirm confirms a preview, and returns where it leads.
func (o *office) confirm(user, token string, fields ...string) string {
	o.Helper()
	w := o.form(user, "/actions/confirm", append(fields, "token", token)...)
	if w.Code != http.StatusSeeOther {
		o.Fatalf("confirm: status %d; want 303:\n%s", w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

// records returns the operators' records.
func (o *office) records() (all []operator.Entry) {
	o.Helper()
	_, err := stream.Read(o.Context(), o.JS, stream.Source(source).OperatorStream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		var e operator.Entry
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		o.Fatal(err)
	}
	return all
}

// events stores events that the worker writes takes.
func (o *office) events(n int) {
	o.Helper()
	for i := range n {
		store(o.T, o.JS, stream.Stored{ID: fmt.Sprint("msg_", i), Head: codat.Head{Type: "invoices.write.successful", Company: "acme"}}, `{"memo":"SECRET"}`)
	}
}

func TestActions_GiveWhatWasPreviewedAndRecordTheUser(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(2)
	replay := []string{"kind", "replay", "worker", "writes", "company", "acme"}
	token := o.preview("ada", replay, "Gives to writes again 2 events: 2 invoices.write.successful.", "headgate replay --worker writes --company acme --until")
	store(t, o.JS, stream.Stored{ID: "later", Head: codat.Head{Type: "invoices.write.successful", Company: "acme"}}, `{}`)
	if len(o.records()) > 0 {
		t.Error("a preview is recorded")
	}
	job := o.confirm("ada", token, replay...)
	streamtest.Wait(t, func() bool { return strings.Contains(o.page("eve", job).Body.String(), "2 of 2 given again") }, "the action is done")
	must(t, "job", o.page("eve", job), 200, "Confirmed by ada", "done")
	must(t, "jobs", o.page("eve", "/jobs"), 200, job, "2 of 2")
	records := o.records()
	if len(records) != 2 || records[1].User != "ada" || records[1].Command != "replay" || records[1].Given != 2 {
		t.Errorf("records %+v; want the begin and the end of ada's replay of 2", records)
	}
	if w := o.form("ada", "/actions/confirm", append(replay, "token", token)...); w.Code != http.StatusConflict {
		t.Errorf("a second confirmation: status %d; want 409", w.Code)
	}
}

func TestActions_AreNotAViewers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(1)
	replay := []string{"kind", "replay", "worker", "writes"}
	token := o.preview("ada", replay)
	for _, path := range []string{"/actions/preview", "/actions/confirm", "/jobs/1/cancel", "/events/1/body"} {
		for _, user := range []string{"eve", "nobody"} {
			if w := o.form(user, path, append(replay, "token", token)...); w.Code != http.StatusForbidden {
				t.Errorf("POST %s as %s: status %d; want 403", path, user, w.Code)
			}
		}
	}
	reading, err := console.New(console.Options{JS: o.JS, Source: source, Log: zaptest.NewLogger(t), Access: people{"ada": {View: true, Payload: true, Operate: true}}})
	if err != nil {
		t.Fatal(err)
	}
	reads := &office{T: t, Server: o.Server, Console: reading}
	for _, path := range []string{"/actions/preview", "/actions/confirm", "/jobs/1/cancel", "/events/1/body"} {
		if w := reads.form("ada", path, append(replay, "token", token)...); w.Code != http.StatusForbidden {
			t.Errorf("POST %s to a console that only reads: status %d; want 403", path, w.Code)
		}
	}
	if len(o.records()) > 0 {
		t.Errorf("records %+v; want none", o.records())
	}
	if body := o.page("eve", "/events/1").Body.String(); strings.Contains(body, "/actions/preview") {
		t.Error("a viewer's page has a button")
	}
	if body := o.page("eve", "/jobs").Body.String(); strings.Contains(body, "/actions/preview") {
		t.Error("a viewer's page of actions has a button")
	}
	must(t, "operator's actions", o.page("ada", "/jobs"), 200, "<option>writes</option>", "Release from the quarantine", "headgate pause WORKER")
	must(t, "operator's page", o.page("ada", "/events/1"), 200, `action="/actions/preview"`, "Give to writes again", "headgate replay --worker writes --id msg_0")
}

func TestActions_RefuseATokenThatIsNotTheirs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(1)
	replay := []string{"kind", "replay", "worker", "writes", "company", "acme"}
	for name, try := range map[string]func(token string) *httptest.ResponseRecorder{
		"of another user": func(token string) *httptest.ResponseRecorder {
			return o.form("bob", "/actions/confirm", append(replay, "token", token)...)
		},
		"of another choice": func(token string) *httptest.ResponseRecorder {
			return o.form("ada", "/actions/confirm", "kind", "replay", "worker", "writes", "token", token)
		},
		"of another kind": func(token string) *httptest.ResponseRecorder {
			return o.form("ada", "/actions/confirm", "kind", "pause", "worker", "writes", "token", token)
		},
		"that nobody has": func(string) *httptest.ResponseRecorder {
			return o.form("ada", "/actions/confirm", append(replay, "token", "x")...)
		},
		"that is missing": func(string) *httptest.ResponseRecorder { return o.form("ada", "/actions/confirm", replay...) },
	} {
		if w := try(o.preview("ada", replay)); w.Code != http.StatusConflict {
			t.Errorf("a token %s: status %d; want 409", name, w.Code)
		}
	}
	token := o.preview("ada", replay)
	o.later.Store(int64(5 * time.Minute))
	if w := o.form("ada", "/actions/confirm", append(replay, "token", token)...); w.Code != http.StatusConflict {
		t.Errorf("a token of 5 minutes ago: status %d; want 409", w.Code)
	}
	if len(o.records()) > 0 {
		t.Errorf("records %+v; want none", o.records())
	}
}

// Over 1,000 items the number is typed; and what a job that is cancelled has given is what its record says.
func TestActions_OfManyAreTypedAndCancelled(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(1001)
	replay := []string{"kind", "replay", "worker", "writes"}
	token := o.preview("ada", replay, "1,001", `name="typed"`)
	for _, typed := range []string{"", "1000", "yes"} {
		w := o.form("ada", "/actions/confirm", append(replay, "token", token, "typed", typed)...)
		must(t, "typed "+typed, w, http.StatusUnprocessableEntity, "Another number was typed", token)
	}
	job := o.confirm("ada", token, append(replay, "typed", "1,001")...)
	must(t, "running", o.page("ada", job), 200, "running", "Cancel", "ends with the process")
	if w := o.form("eve", job+"/cancel"); w.Code != http.StatusForbidden {
		t.Errorf("a viewer cancels: status %d; want 403", w.Code)
	}
	streamtest.Wait(t, func() bool { return !strings.Contains(o.page("ada", job).Body.String(), "> 0 of 1,001") }, "some are given")
	o.form("bob", job+"/cancel")
	streamtest.Wait(t, func() bool { return strings.Contains(o.page("ada", job).Body.String(), "given again") }, "the action has ended")
	body := must(t, "cancelled", o.page("ada", job), 200, "cancelled", "--redrive-id")
	records := o.records()
	end := records[len(records)-1]
	if end.Step != operator.StepEnd || end.Given == 0 || end.Given == 1001 || !strings.Contains(body, fmt.Sprintf("%d of 1001 given again", end.Given)) {
		t.Errorf("the record %+v, and the page\n%s\nwant the same number, of some", end, body)
	}
}

func TestActions_OfEachKind(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(1)
	bury(t, o.JS, deadletter.Letter{Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_0", Sequence: 1, Cause: "permanent", Attempts: 1, LastAttempt: time.Now()})
	quarantined := store(t, o.JS, stream.Stored{ID: "msg_q", Quarantine: "no_type"}, `{"a":1}`)
	for _, tt := range []struct {
		fields []string
		texts  []string
		record string
		lands  string
	}{
		{[]string{"kind", "pause", "worker", "writes", "for", "1h"}, []string{"Pauses writes until", "headgate pause writes --until"}, "pause", "/workers/writes"},
		{[]string{"kind", "resume", "worker", "writes"}, []string{"Ends the pause", "headgate resume writes"}, "resume", "/workers/writes"},
		{[]string{"kind", "release", "number", fmt.Sprint(quarantined), "type", "invoices.write.successful"}, []string{"Stores message 2", "headgate quarantine release 2 --type invoices.write.successful"}, "quarantine release", "/events/3"},
		{[]string{"kind", "dead-replay", "number", "1"}, []string{"again 1 dead letter", "headgate dead replay 1"}, "dead replay", "/dead/1"},
		{[]string{"kind", "dead-replay", "worker", "writes", "cause", "permanent", "again", "1"}, []string{"dead letter", "headgate dead replay --again --worker writes --cause permanent --until"}, "dead replay", "/dead?all=yes&cause=permanent&worker=writes"},
	} {
		job := o.confirm("ada", o.preview("ada", tt.fields, tt.texts...), tt.fields...)
		streamtest.Wait(t, func() bool {
			records := o.records()
			return len(records) > 0 && records[len(records)-1].Command == tt.record && records[len(records)-1].Step == operator.StepEnd
		}, tt.record+" is recorded, "+job)
		records := o.records()
		if end := records[len(records)-1]; end.User != "ada" || end.Error != "" {
			t.Errorf("%s: record %+v; want ada's, without an error", tt.record, end)
		}
		if job != tt.lands { // it took long, and led to its page
			streamtest.Wait(t, func() bool {
				return strings.Contains(o.page("ada", job).Body.String(), `href="`+html.EscapeString(tt.lands)+`"`)
			}, job+" leads to "+tt.lands)
		}
	}
	for _, fields := range [][]string{
		{"kind", "erase"},
		{"kind", "pause", "worker", "a b"},
		{"kind", "replay", "worker", "nobody"},
		{"kind", "dead-replay", "number", "x"},
		{"kind", "release", "number", "1", "type", "x"},
		{"kind", "replay", "worker", "writes", "since", "soon"},
		{"kind", "plan-cancel", "plan", "none"},
	} {
		if w := o.form("ada", "/actions/preview", fields...); w.Code != http.StatusBadRequest && w.Code != http.StatusUnprocessableEntity {
			t.Errorf("preview of %v: status %d; want 400 or 422:\n%s", fields, w.Code, w.Body)
		}
	}
}

// A plan is acted on by the worker writes, under the user's name; the action lands on the plan.
func TestActions_OnPlans(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := plan.Plan{ID: "plan-1", Company: "c-1", Connection: "k-1", Steps: []plan.Step{{Name: "bill", Kind: plan.Create, DataType: "bills", Body: json.RawMessage(`{}`)}}}
	r, err := plan.NewRecord(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.Status, r.Steps[0].State = plan.StatusHeld, plan.Unknown
	put(t, o.JS, plan.StateName, "plan-1", r)
	asked := make(chan plan.Action, 10)
	_, err = o.NC.Subscribe("codat.plans.*", func(m *nats.Msg) {
		var a plan.Action
		if json.Unmarshal(m.Data, &a) == nil {
			asked <- a
		}
		_ = m.Respond([]byte(`{"status":"running"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	must(t, "plan", o.page("ada", "/plans/plan-1"), 200, "Look again for unknown steps", "<option>bill</option>", "headgate plans retry plan-1 STEP", "Cancel the plan")
	if body := o.page("eve", "/plans/plan-1").Body.String(); strings.Contains(body, "/actions/preview") {
		t.Error("a viewer's page has a button")
	}
	for _, tt := range []struct {
		fields []string
		text   string
	}{
		{[]string{"kind", "plan-resume", "plan", "plan-1"}, "headgate plans resume plan-1"},
		{[]string{"kind", "plan-skip", "plan", "plan-1", "step", "bill", "record", "7"}, "headgate plans skip plan-1 bill --record 7"},
		{[]string{"kind", "plan-retry", "plan", "plan-1", "step", "bill"}, "If it has happened, it happens twice"},
		{[]string{"kind", "plan-cancel", "plan", "plan-1"}, "Starts no further step"},
	} {
		to := o.confirm("ada", o.preview("ada", tt.fields, tt.text), tt.fields...)
		if a := <-asked; a.Plan != "plan-1" || !strings.HasPrefix(a.By, "ada@") || string(a.Kind) != strings.TrimPrefix(tt.fields[1], "plan-") {
			t.Errorf("%v asks for %+v", tt.fields, a)
		}
		if to != "/plans/plan-1" && !strings.HasPrefix(to, "/jobs/") { // on a machine that is busy it may take longer
			t.Errorf("%v leads to %s; want the plan", tt.fields, to)
		}
	}
}

var link = regexp.MustCompile(`(?:href|action)="(/[^"]*)"`)

// No answer to a user without the right payload has a body, on any path that a page leads to, by GET and by POST.
func TestConsole_ShowsNoBodyWithoutTheRight(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.events(2)
	store(t, o.JS, stream.Stored{ID: "msg_q", Quarantine: "no_type"}, `{"memo":"SECRET"}`)
	bury(t, o.JS, deadletter.Letter{Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_0", Sequence: 1, Company: "acme", Body: []byte(`{"memo":"SECRET"}`), LastAttempt: time.Now()})
	left, seen := []string{"/", "/events", "/events/1", "/dead", "/dead/1", "/quarantine", "/quarantine/3", "/companies/acme", "/workers", "/workers/writes", "/operator", "/doctor", "/missing", "/live"}, map[string]bool{}
	for len(left) > 0 && len(seen) < 500 {
		path := strings.ReplaceAll(left[0], "&amp;", "&")
		left = left[1:]
		if seen[path] || strings.HasPrefix(path, "/live") {
			continue
		}
		seen[path] = true
		for _, w := range []*httptest.ResponseRecorder{o.page("eve", path), o.form("eve", path)} {
			if strings.Contains(w.Body.String(), "SECRET") {
				t.Errorf("%s shows a body to a viewer:\n%s", path, w.Body)
			}
			for _, found := range link.FindAllStringSubmatch(w.Body.String(), -1) {
				left = append(left, found[1])
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d paths were seen", len(seen))
	}
}
