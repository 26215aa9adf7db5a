package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// newBrokerWithReads returns a server with records of reads, and without a worker.
func newBrokerWithReads(t testing.TB, records ...state.Read) *broker {
	t.Helper()
	r := newBroker(t, stream.WorkerSpec{Name: "reads", State: []string{state.ReadsName}})
	kv, err := r.JS.KeyValue(t.Context(), source.StateBucket(state.ReadsName))
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		key, err := state.ReadKey(record.Company, record.Connection, record.DataType)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(t.Context(), key, text); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestReadsList_FiltersRecords(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	read := func(company, connection string, d codat.DataType, s codat.DatasetStatus, read, success time.Duration) state.Read {
		r := state.Read{Company: company, Connection: connection, DataType: d, Status: s, LastRead: now.Add(-read), LastSuccess: now.Add(-success)}
		if success == 0 {
			r.LastSuccess = time.Time{}
		}
		return r
	}
	bills := read("c-1", "k-1", codat.DataBills, codat.DatasetComplete, time.Hour, time.Hour)
	bills.First, bills.RecordsModified, bills.Issues = true, true, map[string]int{"warning\x1b": 2}
	r := newBrokerWithReads(t, bills,
		read("c-1", "k-1", codat.DataItems, codat.DatasetAuthError, time.Hour, 72*time.Hour),
		read("c-1", "k-2", codat.DataBills, codat.DatasetRateLimitError, time.Hour, 0),
		read("c-2", "k-3", codat.DataBills, "Novel", 80*time.Hour, 80*time.Hour))
	for args, want := range map[string]string{
		"":                                   "c-1/k-1/bills c-1/k-1/items c-1/k-2/bills c-2/k-3/bills",
		"--company c-1":                      "c-1/k-1/bills c-1/k-1/items c-1/k-2/bills",
		"--connection k-1":                   "c-1/k-1/bills c-1/k-1/items",
		"--data-type bills --company c-1":    "c-1/k-1/bills c-1/k-2/bills",
		"--company nobody":                   "",
		"--since 2h":                         "c-1/k-1/bills c-1/k-1/items c-1/k-2/bills",
		"--until 2h":                         "c-2/k-3/bills",
		"--limit 1":                          "c-1/k-1/bills",
		"--status complete":                  "c-1/k-1/bills",
		"--status error":                     "c-1/k-1/items c-1/k-2/bills",
		"--status Novel":                     "c-2/k-3/bills",
		"--stale-since 36h":                  "c-1/k-1/items c-1/k-2/bills c-2/k-3/bills",
		"--stale-since 36h --status novel":   "c-2/k-3/bills",
		"--stale-since 90h":                  "c-1/k-2/bills",
		"--connection k-1 --data-type items": "c-1/k-1/items",
	} {
		var got []string
		c := r.headgate(0, append([]string{"reads", "list", "--json"}, strings.Fields(args)...)...)
		for _, one := range decode[state.Read](t, c.out.lines()) {
			got = append(got, one.Company+"/"+one.Connection+"/"+string(one.DataType))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("reads list %s = %q; want %q", args, got, want)
		}
	}
	c := r.headgate(0, "reads")
	contains(t, c.out.lines()[0], "c-1\tk-1\tbills\tComplete\t"+bills.LastRead.Format(time.RFC3339)+"\t", `first after link, records modified, 2 warning\x1b`)
	contains(t, c.out.lines()[2], "\tRateLimitError\t", "\t-\t-")
	contains(t, c.err.String(), "4 data types")
	contains(t, r.headgate(1, "reads", "list", "--company", "*").err.String(), "the company id has characters other than")
	r.headgate(2, "reads", "list", "--stale-since", "soon")
}

func TestReadsShow_PrintsWhatEventsSaid(t *testing.T) {
	t.Parallel()
	at := time.Now().UTC().Truncate(time.Second).Add(-26 * time.Hour)
	record := state.Read{
		Company: "c-1", Connection: "k-1", DataType: codat.DataBills, Status: codat.DatasetAuthError, LastRead: at, LastModified: at.Add(-48 * time.Hour), WebhookID: "msg_2",
		Facts: []state.ReadFact{
			{Type: "DatasetDataChanged", WebhookID: "msg_1", Received: at.Add(-time.Hour), Sequence: 1, Status: codat.DatasetComplete, RecordsModified: true},
			{Type: "read.completed", WebhookID: "msg_2", Generated: at, Received: at.Add(time.Minute), Sequence: 2, Status: codat.DatasetAuthError, Issues: map[string]int{"warning.validation": 3}},
		},
	}
	r := newBrokerWithReads(t, record)
	text := r.headgate(0, "reads", "show", "c-1", "k-1", "bills").out.String()
	contains(t, text, "data type       bills", "company         c-1", "connection      k-1", "status          AuthError",
		"last read       "+at.Format(time.RFC3339)+" (26h0m", "last success    never", "last modified   "+at.Add(-48*time.Hour).Format(time.RFC3339)+" (3 days ago)",
		at.Add(-time.Hour).Format(time.RFC3339)+"  DatasetDataChanged                  msg_1  Complete, records modified\n",
		at.Format(time.RFC3339)+"  read.completed                      msg_2  AuthError, 3 warning.validation\n")
	c := r.headgate(0, "reads", "show", "c-1", "k-1", "bills", "--json")
	if diff := cmp.Diff([]state.Read{record}, decode[state.Read](t, c.out.lines())); diff != "" {
		t.Errorf("reads show --json (-want +got):\n%s", diff)
	}
	contains(t, r.headgate(1, "reads", "show", "c-1", "k-1", "items").err.String(), "no event has told of a read of items", "headgate reads list")
	contains(t, r.headgate(2, "reads", "show", "c-1", "k.1", "items").err.String(), "the connection id has characters other than")
}

func TestReads_SayThatNothingIsProvisioned(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	contains(t, r.headgate(1, "reads", "list").err.String(), "reads", "headgate provision")
}
