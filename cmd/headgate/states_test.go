package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// put stores a record of a state as its worker does.
func (r *broker) put(name, key string, record any) {
	r.Helper()
	text, err := json.Marshal(record)
	if err != nil {
		r.Fatal(err)
	}
	kv, err := r.JS.KeyValue(r.Context(), source.StateBucket(name))
	if err == nil {
		_, err = kv.Put(r.Context(), key, text)
	}
	if err != nil {
		r.Fatal(err)
	}
}

var (
	morning = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	// linkedAgain is a connection that was found disconnected, and linked again.
	linkedAgain = state.Connection{
		Company: "c-1", Connection: "k-1", Status: codat.Linked, Changed: morning.Add(2 * time.Hour), From: codat.Deauthorized, Suspect: true,
		Platform: "gbol", PlatformName: "Sandbox\x1b[31m", LastRead: morning.Add(time.Hour), Reconciled: morning.Add(3 * time.Hour),
		Timeline: []state.ConnectionChange{
			{At: morning, Status: codat.Linked, Type: "DataConnectionStatusChanged", WebhookID: "msg_1", Undated: true},
			{At: morning.Add(time.Hour), Status: codat.Deauthorized, From: codat.Linked, Found: true},
			{At: morning.Add(2 * time.Hour), Status: codat.Linked, From: codat.Deauthorized, Type: "connection.reconnected", WebhookID: "msg_2"},
		},
	}
)

func newBrokerWithConnections(t *testing.T) *broker {
	t.Helper()
	r := newBroker(t, stream.WorkerSpec{Name: "connections", State: []string{state.ConnectionsName}})
	r.put(state.ConnectionsName, "c-1.k-1", linkedAgain)
	r.put(state.ConnectionsName, "c-1.k-2", state.Connection{Company: "c-1", Connection: "k-2", Status: codat.Linked, Deleted: true, Changed: morning})
	r.put(state.ConnectionsName, "c-2.k-3", state.Connection{Company: "c-2", Connection: "k-3", Status: codat.Deauthorized, Changed: morning})
	r.put(state.ConnectionsName, "reconciliation", map[string]any{"began": morning})
	return r
}

func TestConnectionsList_FiltersConnections(t *testing.T) {
	t.Parallel()
	r := newBrokerWithConnections(t)
	for args, want := range map[string]string{
		"":                             "k-1 k-2 k-3",
		"list":                         "k-1 k-2 k-3",
		"--company c-1":                "k-1 k-2",
		"list --status linked":         "k-1",
		"--since 2026-11-21T10:00:00Z": "k-1",
		"--until 2026-11-21T11:00:00Z": "k-2 k-3",
		"--limit 1":                    "k-1",
		"--status deleted":             "k-2",
		"--status Deauthorized":        "k-3",
		"list --suspect":               "k-1",
		"--suspect --company c-2":      "",
		"--connection k-1":             "k-1",
		"--connection k-9":             "",
		"--status Linked --suspect":    "k-1",
		"list --company c-3 --status":  "",
	} {
		words := strings.Fields(args)
		if strings.HasSuffix(args, "--status") {
			words = append(words, "Novel")
		}
		c := r.headgate(0, append(append([]string{"connections"}, words...), "--json")...)
		var got []string
		for _, l := range decode[listedConnection](t, c.out.lines()) {
			got = append(got, l.Connection)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("connections %s = %q; want %q", args, got, want)
		}
	}
	c := r.headgate(0, "connections")
	contains(t, c.out.lines()[0], "c-1\tk-1\tLinked\t2026-11-21T11:00:00Z\tsuspect\tgbol")
	contains(t, c.out.lines()[1], "k-2", "deleted")
	contains(t, c.err.String(), "3 connections")
	contains(t, r.headgate(1, "connections", "--company", "*").err.String(), "letters, digits")
}

func TestConnectionsShow_PrintsTheTimeline(t *testing.T) {
	t.Parallel()
	r := newBrokerWithConnections(t)
	c := r.headgate(0, "connections", "show", "c-1", "k-1")
	contains(t, c.out.String(), "status          Linked\n", "since           2026-11-21T11:00:00Z\n", "by              connection.reconnected msg_2\n",
		"suspect         yes: ", "last read       2026-11-21T10:00:00Z\n", "reconciled      2026-11-21T12:00:00Z\n", `platform        gbol Sandbox\x1b[31m`,
		"2026-11-21T09:00:00Z  Linked        from -             DataConnectionStatusChanged msg_1, when it was received\n",
		"2026-11-21T10:00:00Z  Deauthorized  from Linked        found by reconciliation\n",
		"2026-11-21T11:00:00Z  Linked        from Deauthorized  connection.reconnected msg_2\n")
	contains(t, r.headgate(0, "connections", "show", "c-1", "k-1", "--json").out.String(), `"timeline":[{"at":`, `"found":true`)
	contains(t, r.headgate(0, "connections", "show", "c-2", "k-3").out.String(), "suspect         no\n", "by              -\n")
	contains(t, r.headgate(1, "connections", "show", "c-1", "k-9").err.String(), "no event has named the connection k-9", "headgate connections list")
	r.headgate(2, "connections", "show", "c-1")
}

// failed is a write whose reason has what a customer wrote.
var failed = state.Write{
	PushOperationKey: "push-1", Status: codat.Failed, Company: "c-1", Connection: "k-1", DataType: codat.DataInvoices, Kind: codat.WriteCreate,
	Requested: morning, Completed: morning.Add(time.Minute), Plan: "expense-1", Step: "cost",
	Reason:  &state.WriteReason{Message: "Larkspur is\x1b[31m locked", Errors: []state.WriteRemark{{Item: "name", Message: "Larkspur is taken"}}},
	Current: &state.WriteFact{Type: "invoices.write.unsuccessful", WebhookID: "msg_1", Received: morning.Add(time.Minute), Status: codat.Failed},
	Legacy:  &state.WriteFact{Type: "PushOperationStatusChanged", WebhookID: "msg_0", Received: morning, Status: codat.Pending},
	Asked: &state.WriteFact{
		Received: morning.Add(2 * time.Minute), Status: codat.Failed, Reason: &state.WriteReason{Message: "Larkspur is\x1b[31m locked"},
	},
}

func newBrokerWithWrites(t *testing.T) *broker {
	t.Helper()
	r := newBroker(t, stream.WorkerSpec{Name: "writes", State: []string{state.WritesName}})
	r.put(state.WritesName, "push-1", failed)
	r.put(state.WritesName, "push-2", state.Write{PushOperationKey: "push-2", Status: codat.Pending, Company: "c-1", Connection: "k-2", DataType: codat.DataBills, Overdue: morning})
	r.put(state.WritesName, "push-3", state.Write{PushOperationKey: "push-3", Status: codat.Success, Company: "c-2", Connection: "k-3", DataType: codat.DataInvoices})
	return r
}

func TestWritesList_FiltersWrites(t *testing.T) {
	t.Parallel()
	r := newBrokerWithWrites(t)
	for args, want := range map[string]string{
		"":                                   "push-1 push-2 push-3",
		"list --company c-1":                 "push-1 push-2",
		"--since 2026-11-21T09:00:00Z":       "push-1",
		"--until 2026-11-21T09:00:00Z":       "",
		"--limit 2":                          "push-1 push-2",
		"--connection k-3":                   "push-3",
		"--data-type invoices":               "push-1 push-3",
		"--data-type invoices --company c-2": "push-3",
		"list --status pending":              "push-2",
		"--overdue":                          "push-2",
		"--overdue --status Failed":          "",
		"--status Success --connection k-3":  "push-3",
	} {
		c := r.headgate(0, append(append([]string{"writes"}, strings.Fields(args)...), "--json")...)
		var got []string
		for _, l := range decode[listedWrite](t, c.out.lines()) {
			got = append(got, l.PushOperationKey)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("writes %s = %q; want %q", args, got, want)
		}
		if strings.Contains(c.out.String(), "Larkspur") {
			t.Errorf("writes %s prints a reason: %s", args, &c.out)
		}
	}
	c := r.headgate(0, "writes")
	contains(t, c.out.lines()[0], "push-1\tFailed\t2026-11-21T09:00:00Z\tCreate\tinvoices\tc-1\t-")
	contains(t, c.out.lines()[1], "Pending", "\tc-1\t2026-11-21T09:00:00Z")
	contains(t, c.err.String(), "3 writes")
}

// The texts of a reason can be a customer's: they are printed on request only, and escaped.
func TestWritesShow_PrintsTheReasonOnRequest(t *testing.T) {
	t.Parallel()
	r := newBrokerWithWrites(t)
	c := r.headgate(0, "writes", "show", "push-1")
	contains(t, c.out.String(), "status          Failed\n", "data type       invoices\n", "plan            expense-1\n", "reason          known: --payload prints it\n",
		"2026-11-21T09:00:00Z  Pending   PushOperationStatusChanged msg_0\n", "2026-11-21T09:01:00Z  Failed    invoices.write.unsuccessful msg_1\n",
		"2026-11-21T09:02:00Z  Failed    answered by Codat's API\n")
	if strings.Contains(c.out.String(), "Larkspur") {
		t.Errorf("it prints the reason: %s", &c.out)
	}
	contains(t, r.headgate(0, "writes", "show", "push-1", "--payload").out.String(), `reason: Larkspur is\x1b[31m locked`, "error: name: Larkspur is taken")
	if text := r.headgate(0, "writes", "show", "push-1", "--json").out.String(); strings.Contains(text, "Larkspur") || !strings.Contains(text, `"asked":`) {
		t.Errorf("writes show --json prints %s", text)
	}
	contains(t, r.headgate(0, "writes", "show", "push-1", "--json", "--payload").out.String(), "Larkspur")
	contains(t, r.headgate(0, "writes", "show", "push-2").out.String(), "overdue since   2026-11-21T09:00:00Z\n")
	contains(t, r.headgate(1, "writes", "show", "push-9").err.String(), "push-9", "headgate writes list")
}

func TestStates_NameTheCureWithoutTheirBuckets(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	for _, args := range []string{"connections", "writes", "connections show c k", "writes show key"} {
		contains(t, r.headgate(1, strings.Fields(args)...).err.String(), "provision")
	}
}
