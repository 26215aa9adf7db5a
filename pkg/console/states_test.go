package console_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// keeper is a worker that keeps every state.
var keeper = stream.WorkerSpec{Name: "keeper", State: []string{state.ConnectionsName, state.WritesName, state.ReadsName, plan.StateName}}

// put stores a record of a state as its worker does.
func put(t *testing.T, js jetstream.JetStream, name, key string, record any) {
	t.Helper()
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), stream.Source(source).StateBucket(name))
	if err == nil {
		_, err = kv.Put(t.Context(), key, text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lacks checks that a page has none of the texts.
func lacks(t *testing.T, name, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(body, text) {
			t.Errorf("%s has %q", name, text)
		}
	}
}

var morning = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

func TestStates_SayWhatIsMissing(t *testing.T) {
	t.Parallel()
	bare, empty := run(t, newConsole(t, streamtest.New(t).JS)), run(t, newConsole(t, streamtest.New(t, keeper).JS))
	for path, worker := range map[string]string{"/connections": "worker-connections", "/writes": "worker-writes", "/reads": "worker-reads", "/plans": "worker-writes"} {
		must(t, path, get(bare, path), 200, worker, "headgate provision")
		lacks(t, path, must(t, path, get(empty, path), 200, "yet."), "headgate provision")
		must(t, path, get(empty, path+"?company=c-1"), 200, "The filter excludes all of the 0 records")
		must(t, path, get(empty, path+"?since=soon&before=x"), 400, "The filter cannot be used", "how long ago", "before must be a number")
	}
	for path, text := range map[string]string{
		"/connections/c-1/k-1": "No such connection", "/connections/c.1/*": "No such connection", "/writes/none": "No such write", "/writes/a b": "No such write",
		"/reads/c-1/k-1/invoices": "No such read", "/reads/c-1/%3E/invoices": "No such read", "/plans/none": "No such plan", "/plans/%2A": "No such plan",
	} {
		must(t, path, get(empty, strings.ReplaceAll(path, " ", "%20")), 404, text)
		must(t, path, get(bare, strings.ReplaceAll(path, " ", "%20")), 404, text)
	}
	for _, path := range []string{"/connections?company=a.b", "/reads?company=*", "/reads?stale-since=x"} {
		must(t, path, get(empty, path), 400, "The filter cannot be used")
	}
}

func TestConnections_ListsFiltersAndShows(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	put(t, server.JS, state.ConnectionsName, "c-1.k-1", state.Connection{
		Company: "c-1", Connection: "k-1", Status: codat.Linked, Changed: morning.Add(2 * time.Hour), From: codat.Deauthorized, Suspect: true,
		Platform: "gbol", PlatformName: hostile, Type: "connection.reconnected", WebhookID: "msg_2",
		Timeline: []state.ConnectionChange{
			{At: morning, Status: codat.Linked, Type: "DataConnectionStatusChanged", WebhookID: "msg_1", Undated: true},
			{At: morning.Add(time.Hour), Status: codat.Deauthorized, From: codat.Linked, Found: true},
			{At: morning.Add(2 * time.Hour), Status: codat.ConnectionStatus(hostile), From: codat.Deauthorized, Type: hostile, WebhookID: "msg_2", Sequence: 7},
		},
	})
	put(t, server.JS, state.ConnectionsName, "c-1.k-2", state.Connection{Company: "c-1", Connection: "k-2", Status: codat.Linked, Deleted: true, DeletedAt: morning, Changed: morning})
	put(t, server.JS, state.ConnectionsName, "c-2.k-3", state.Connection{Company: "c-2", Connection: "k-3", Status: codat.Linked, Changed: morning})
	put(t, server.JS, state.ConnectionsName, "reconciliation", map[string]any{"began": morning})
	c := run(t, newConsole(t, server.JS))

	waitFor(t, c, "/connections", "Linked 1", "Suspect 1", "Deleted 1")
	body := must(t, "all", get(c, "/connections"), 200, `href="/connections/c-1/k-1"`, "Deleted", "2026-11-21 11:00:00 UTC", "headgate connections list")
	lacks(t, "all", body, "Unknown", `rel="next"`)
	for query, want := range map[string]string{
		"company=c-1": "k-1 k-2", "connection=k-3": "k-3", "status=linked": "k-3", "status=Suspect": "k-1", "suspect=1": "k-1", "status=deleted": "k-2",
		"since=2026-11-21T10:00": "k-1", "until=2026-11-21T10:00": "k-2 k-3", "company=c-1&connection=k-3": "",
	} {
		body := must(t, query, get(c, "/connections?"+query), 200)
		for _, key := range []string{"k-1", "k-2", "k-3"} {
			if got := strings.Contains(body, "/"+key+`"`); got != strings.Contains(want, key) {
				t.Errorf("%s: %s is listed: %v; want %s", query, key, got, want)
			}
		}
	}
	must(t, "command", get(c, "/connections?suspect=1&company=c-1"), 200, "headgate connections list --company c-1 --suspect")

	body = must(t, "one", get(c, "/connections/c-1/k-1"), 200, "want of authorisation", "found by reconciliation", `href="/events/7"`, "when it was received", `href="/reads?connection=k-1"`, "&lt;script&gt;alert(1)")
	if strings.Index(body, "found by reconciliation") > strings.Index(body, "when it was received") {
		t.Error("the timeline does not begin with the newest change")
	}
	must(t, "deleted", get(c, "/connections/c-1/k-2"), 200, "Linked before")
}

func TestConnections_PagesByCursor(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	for i := range 120 {
		put(t, server.JS, state.ConnectionsName, fmt.Sprintf("c.k-%03d", i), state.Connection{Company: "c", Connection: fmt.Sprintf("k-%03d", i), Status: codat.Linked, Changed: morning})
	}
	put(t, server.JS, state.ConnectionsName, "c.k-000", state.Connection{Company: "c", Connection: "k-000", Status: codat.Linked, Changed: morning})
	c := run(t, newConsole(t, server.JS))
	seen := map[string]bool{}
	path, pages := "/connections", 0
	for ; path != ""; pages++ {
		body := must(t, path, get(c, path), 200)
		for i := range 120 {
			if key := fmt.Sprintf("k-%03d", i); strings.Contains(body, "/connections/c/"+key) {
				if seen[key] {
					t.Errorf("%s is on two pages", key)
				}
				seen[key] = true
			}
		}
		_, rest, more := strings.Cut(body, `<a href="/connections?before=`)
		if path = ""; more {
			number, _, _ := strings.Cut(rest, `"`)
			path = "/connections?before=" + number
		}
	}
	if len(seen) != 120 || pages != 3 {
		t.Errorf("%d connections on %d pages; want 120 on 3", len(seen), pages)
	}
}

func TestWrites_ListsFiltersAndShows(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	put(t, server.JS, state.WritesName, "p-1", state.Write{
		PushOperationKey: "p-1", Status: codat.Failed, Company: "c-1", Connection: "k-1", DataType: "invoices", Kind: "Create", Requested: morning, Completed: morning.Add(time.Minute),
		Plan: "plan-1", Step: "bill", Reason: &state.WriteReason{Message: "Larkspur Bakery owes " + hostile, Errors: []state.WriteRemark{{Item: "lineItems", Message: "too long"}}},
		Current: &state.WriteFact{Type: "invoices.write.unsuccessful", WebhookID: "msg_1", Received: morning.Add(2 * time.Minute), Sequence: 4, Status: codat.Failed},
		Asked:   &state.WriteFact{Received: morning.Add(3 * time.Minute), Status: codat.Failed, Reason: &state.WriteReason{Message: "Larkspur Bakery"}},
	})
	put(t, server.JS, state.WritesName, "p-2", state.Write{PushOperationKey: "p-2", Status: codat.Pending, DataType: codat.DataType(hostile), Company: "c-2", Requested: morning, Overdue: morning.Add(time.Hour)})
	put(t, server.JS, state.WritesName, "p-3", state.Write{PushOperationKey: "p-3", Status: codat.Success, Company: "c-2", Requested: morning.Add(time.Hour), Record: hostile})
	c := run(t, newConsole(t, server.JS))

	waitFor(t, c, "/writes", "Failed 1", "Overdue 1", "Success 1")
	for query, want := range map[string]string{
		"": "p-1 p-2 p-3", "company=c-2": "p-2 p-3", "connection=k-1": "p-1", "data-type=Invoices": "p-1", "status=overdue": "p-2", "overdue=1": "p-2",
		"status=success": "p-3", "since=2026-11-21T10:00": "p-3",
	} {
		body := must(t, query, get(c, "/writes?"+query), 200)
		lacks(t, query, body, "Larkspur")
		for _, key := range []string{"p-1", "p-2", "p-3"} {
			if got := strings.Contains(body, `"/writes/`+key+`"`); got != strings.Contains(want, key) {
				t.Errorf("%s: %s is listed: %v; want %s", query, key, got, want)
			}
		}
	}
	must(t, "command", get(c, "/writes?overdue=1&data-type=my+type"), 200, "headgate writes list --data-type &#39;my type&#39; --overdue")

	body := must(t, "one", get(c, "/writes/p-1"), 200, "Failed", `href="/plans/plan-1"`, `href="/connections/c-1/k-1"`, `href="/events/4"`, "answered Failed", "needs the right")
	lacks(t, "one", body, "Larkspur", "too long")
	must(t, "hostile", get(c, "/writes/p-3"), 200)
	must(t, "overdue", get(c, "/writes/p-2"), 200, "an outcome was due")
}

// The texts of Codat and of the platform need the right payload, and showing them is recorded.
func TestWrite_ShowsReasonByRight(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	put(t, server.JS, state.WritesName, "p-1", state.Write{
		PushOperationKey: "p-1", Status: codat.Failed, Reason: &state.WriteReason{Message: "Larkspur " + hostile, Errors: []state.WriteRemark{{Item: "lineItems", Message: "too long"}}},
	})
	viewer := newOperating(t, server.JS, as{Name: "vic", View: true})
	lacks(t, "a viewer's page", must(t, "viewer", get(viewer, "/writes/p-1"), 200, "needs the right"), "Larkspur", "<form method")
	lacks(t, "a viewer's post", must(t, "viewer", send(viewer, "/writes/p-1/reason"), 403), "Larkspur")

	c := newOperating(t, server.JS, operatorUser)
	lacks(t, "the page", must(t, "page", get(c, "/writes/p-1"), 200, `action="/writes/p-1/reason"`), "Larkspur")
	must(t, "reason", send(c, "/writes/p-1/reason"), 200, "Larkspur", "error: lineItems: too long", "Shown to you, and recorded.")
	m, err := stream.Get(t.Context(), server.JS, stream.Source(source).OperatorStream(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var e operator.Entry
	if err := json.Unmarshal(m.Data, &e); err != nil {
		t.Fatal(err)
	}
	if e.User != "ada" || e.Command != "console show reason" || e.Chosen["write"] != "p-1" {
		t.Errorf("the record is %+v", e)
	}
}

func TestReads_ShowsFreshnessMatrix(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	read := func(company, connection string, typ codat.DataType, status codat.DatasetStatus, success time.Time) {
		put(t, server.JS, state.ReadsName, company+"."+connection+"."+string(typ), state.Read{
			Company: company, Connection: connection, DataType: typ, Status: status, LastRead: time.Now(), LastSuccess: success, WebhookID: "msg_1",
			Facts: []state.ReadFact{{Type: hostile, WebhookID: "msg_1", Received: time.Now(), Sequence: 3, Status: status, Issues: map[string]int{hostile: 2}}},
		})
	}
	now := time.Now()
	read("c-1", "k-1", "invoices", codat.DatasetComplete, now.Add(-2*time.Hour))
	read("c-1", "k-1", "bills", codat.DatasetAuthError, now.Add(-50*time.Hour))
	read("c-2", "k-2", "invoices", codat.DatasetComplete, now.Add(-80*time.Hour))
	read("c-2", "k-2", "items", codat.DatasetStatus(hostile), time.Time{})
	stale := state.Expected{Kind: state.StaleRead, Company: "c-2", Connection: "k-2", DataType: "invoices", Due: now.Add(-time.Hour)}
	key, err := stale.Key()
	if err != nil {
		t.Fatal(err)
	}
	put(t, server.JS, stream.ExpectedState, key, stale)
	c := run(t, newConsole(t, server.JS))

	body := waitFor(t, c, "/reads", `class="state wait" href="/reads/c-2/k-2/invoices"`)
	must(t, "all", get(c, "/reads"), 200,
		`class="state ok" href="/reads/c-1/k-1/invoices" title="invoices: Complete, last success `, `</svg>2 h</a>`, `class="state bad" href="/reads/c-1/k-1/bills"`, `</svg>2 d</a>`, `</svg>never</a>`)
	if strings.Index(body, "/connections/c-2/k-2") > strings.Index(body, "/connections/c-1/k-1") {
		t.Error("the connection that changed last is not first")
	}
	for query, want := range map[string]string{
		"company=c-1": "c-1/k-1/invoices c-1/k-1/bills", "connection=k-2": "c-2/k-2/invoices c-2/k-2/items", "data-type=invoices": "c-1/k-1/invoices c-2/k-2/invoices",
		"status=error": "c-1/k-1/bills", "stale-since=36h": "c-1/k-1/bills c-2/k-2/invoices c-2/k-2/items", "until=1h": "",
	} {
		body := must(t, query, get(c, "/reads?"+query), 200)
		for _, key := range []string{"c-1/k-1/invoices", "c-1/k-1/bills", "c-2/k-2/invoices", "c-2/k-2/items"} {
			if got := strings.Contains(body, `"/reads/`+key+`"`); got != strings.Contains(want, key) {
				t.Errorf("%s: %s is listed: %v; want %s", query, key, got, want)
			}
		}
	}
	must(t, "one", get(c, "/reads/c-2/k-2/invoices"), 200, "stale: a success was due at", "&lt;script&gt;", `href="/events/3"`, "headgate reads show c-2 k-2 invoices")
	must(t, "never", get(c, "/reads/c-2/k-2/items"), 200, "<dd>never</dd>")
}

func TestReads_PagesConnectionsOnce(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	for _, typ := range []codat.DataType{"invoices", "bills"} { // the reads of one connection are far apart
		for i := range 60 {
			connection := fmt.Sprintf("k-%02d", i)
			put(t, server.JS, state.ReadsName, "c."+connection+"."+string(typ), state.Read{Company: "c", Connection: connection, DataType: typ, Status: codat.DatasetComplete, LastRead: morning, LastSuccess: morning})
		}
	}
	c := run(t, newConsole(t, server.JS))
	seen, pages := map[string]bool{}, 0
	for path := "/reads"; path != ""; pages++ {
		body := must(t, path, get(c, path), 200)
		for i := range 60 {
			if key := fmt.Sprintf("k-%02d", i); strings.Contains(body, "/connections/c/"+key) {
				if seen[key] {
					t.Errorf("%s is on two pages", key)
				}
				seen[key] = true
			}
		}
		_, rest, more := strings.Cut(body, `<a href="/reads?before=`)
		if path = ""; more {
			number, _, _ := strings.Cut(rest, `"`)
			path = "/reads?before=" + number
		}
	}
	if len(seen) != 60 {
		t.Errorf("%d connections on %d pages; want 60", len(seen), pages)
	}
}

func TestPlans_ListsAndDraws(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, keeper)
	p := plan.Plan{ID: "plan-1", Company: "c-1", Connection: "k-1", Steps: []plan.Step{
		{Name: "supplier", Kind: plan.Create, DataType: "suppliers", Body: json.RawMessage(`{"name":"Larkspur"}`)},
		{Name: "account", Kind: plan.Create, DataType: "accounts", Body: json.RawMessage(`{"name":"Larkspur"}`)},
		{Name: "bill", Kind: plan.Create, DataType: "bills", After: []string{"supplier", "account"}, Body: json.RawMessage(`{"name":"Larkspur"}`)},
	}}
	r, err := plan.NewRecord(p, morning)
	if err != nil {
		t.Fatal(err)
	}
	r.Status = plan.StatusHeld
	r.Steps[0].State, r.Steps[0].PushOperationKey, r.Steps[0].Record = plan.Done, "p-1", hostile
	r.Steps[1].State, r.Steps[1].Evidence, r.Steps[1].Reason = plan.Failed, hostile, &state.WriteReason{Message: "Larkspur"}
	r.Actions = []plan.Action{{Kind: plan.Resume, By: "eve@" + hostile, At: morning}, {Kind: plan.Retry, Step: "account", By: "ada@host", At: morning.Add(time.Hour)}}
	put(t, server.JS, plan.StateName, "plan-1", r)
	put(t, server.JS, plan.StateName, "open.plan-1", map[string]any{})
	other, err := plan.NewRecord(plan.Plan{ID: "plan-2", Company: "c-2", Connection: "k-2", Steps: p.Steps[:1]}, morning.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	put(t, server.JS, plan.StateName, "plan-2", other)
	c := run(t, newConsole(t, server.JS))

	waitFor(t, c, "/plans", "held 1", "running 1")
	lacks(t, "list", must(t, "list", get(c, "/plans"), 200, "1 done, 1 waiting, 1 failed"), "Larkspur")
	for query, want := range map[string]string{"company=c-1": "plan-1", "connection=k-2": "plan-2", "status=held": "plan-1", "since=2026-11-21T10:00": "plan-2"} {
		body := must(t, query, get(c, "/plans?"+query), 200)
		for _, key := range []string{"plan-1", "plan-2"} {
			if got := strings.Contains(body, `"/plans/`+key+`"`); got != (key == want) {
				t.Errorf("%s: %s is listed: %v; want %s", query, key, got, want)
			}
		}
	}
	body := must(t, "one", get(c, "/plans/plan-1"), 200, `<svg class="graph"`, `href="#step-bill"`, `id="step-bill"`, "failed     create accounts", `href="/writes/p-1"`,
		"headgate plans retry plan-1 STEP", "no further step starts", "by ada@host", "A reason is known")
	lacks(t, "one", body, "Larkspur")
	if strings.Index(body, "by ada@host") > strings.Index(body, "by eve@") {
		t.Error("the newest action is not first")
	}
	lacks(t, "a plan that runs", must(t, "running", get(c, "/plans/plan-2"), 200, "headgate plans cancel plan-2"), "plans retry")
}
