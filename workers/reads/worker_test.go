package reads_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/reads"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = stream.Source("codat")

// start runs the worker against a server of its own and returns a reader of what it writes.
func start(t *testing.T) (*streamtest.Server, state.Reads) {
	t.Helper()
	srv := streamtest.New(t, reads.Worker(reads.Store{}).Spec())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &reads.Settings{Settings: workers.Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second, BackoffMin: 50 * time.Millisecond, BackoffMax: 50 * time.Millisecond}}
	go func() { ended <- reads.Run(ctx, s, process.New(reads.Name, zaptest.NewLogger(t))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	})
	records, err := state.OpenReads(context.Background(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	return srv, records
}

// post stores an event as the ingress does.
func post(t *testing.T, srv *streamtest.Server, id, body string) {
	t.Helper()
	head, err := codat.Read([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
}

// settled waits until the worker has settled every event.
func settled(t *testing.T, srv *streamtest.Server) {
	t.Helper()
	streamtest.WaitSettled(t, srv.JS, source.Stream(), reads.Name)
}

// letters returns the errors of the dead letters, by event.
func letters(t *testing.T, srv *streamtest.Server) map[string]string {
	t.Helper()
	found := map[string]string{}
	if err := deadletter.List(t.Context(), srv.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		found[l.WebhookID] = l.LastError
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// An element is the outcome of one data type in the body of an event.
func element(connection, dataType, status string, modified bool, more string) string {
	return fmt.Sprintf(`{"connectionId":%q,"dataType":%q,"recordsModified":%t,"status":%q%s}`, connection, dataType, modified, status, more)
}

func event(typ, company string, generated time.Time, elements ...string) string {
	return fmt.Sprintf(`{"id":"e","eventType":%q,"generatedDate":%q,"payload":{"referenceCompany":{"id":%q,"name":"A Company"},"dataTypes":[%s]}}`,
		typ, generated.Format(time.RFC3339Nano), company, strings.Join(elements, ","))
}

func legacy(rule, dataType, more string) string {
	return fmt.Sprintf(`{"CompanyId":"company","DataConnectionId":"k-1","ClientName":"A Company","RuleType":%q,"Data":{"dataType":%q,"datasetId":"d-1"%s}}`, rule, dataType, more)
}

var past = time.Date(2026, 2, 3, 10, 0, 0, 0, time.UTC)

// A connection is linked and read, and read again, partly without success; the events come in no order, one twice, and of
// both generations.
func TestWorker_RecordsTheReadsOfAConnection(t *testing.T) {
	srv, records := start(t)
	later := past.Add(24 * time.Hour)
	issues := `,"issues":[{"type":"warning.validation","message":"A Company has no unit"},{"type":"warning.validation","message":"A Company again"},{"type":"error"}]`
	post(t, srv, "msg_2", event("read.completed.unsuccessful", "company", later,
		element("k-1", "bills", "RateLimitError", false, ""), element("k-1", "items", "Complete", true, issues), element("k-2", "bills", "Complete", false, "")))
	settled(t, srv)
	post(t, srv, "msg_1", event("read.completed.initial", "company", past, element("k-1", "bills", "Complete", false, ""), element("k-1", "suppliers", "Complete", false, "")))
	post(t, srv, "msg_3", event("acme.read.completed", "company", past.Add(time.Second), element("k-1", "bills", "Complete", false, ""), element("k-1", "suppliers", "Complete", false, "")))
	post(t, srv, "msg_4", legacy("Data sync completed", "customers", ""))
	post(t, srv, "msg_5", legacy("Dataset data changed", "customers", ""))
	post(t, srv, "msg_6", legacy("Data Sync Status Changed To Error", "journals", `,"datasetStatus":"AuthError"`))
	settled(t, srv)

	got := map[string]state.Read{}
	all, err := records.List(t.Context(), "company")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		got[r.Connection+" "+string(r.DataType)] = state.Read{
			Status: r.Status, LastRead: r.LastRead, LastSuccess: r.LastSuccess, LastModified: r.LastModified, First: r.First,
			RecordsModified: r.RecordsModified, Issues: r.Issues, WebhookID: r.WebhookID,
		}
	}
	c, j := got["k-1 customers"], got["k-1 journals"]
	if c.LastRead.IsZero() || c.LastSuccess != c.LastRead || c.LastModified.IsZero() || !c.RecordsModified || c.Status != codat.DatasetComplete {
		t.Errorf("the record of legacy events is %+v; want a success with changes", c)
	}
	if j.Status != codat.DatasetAuthError || !j.LastSuccess.IsZero() || j.LastRead.IsZero() {
		t.Errorf("the record of a legacy error is %+v; want it failed", j)
	}
	delete(got, "k-1 customers")
	delete(got, "k-1 journals")
	want := map[string]state.Read{
		"k-1 bills":     {Status: codat.DatasetRateLimitError, LastRead: later, LastSuccess: past.Add(time.Second), LastModified: past, WebhookID: "msg_2"},
		"k-2 bills":     {Status: codat.DatasetComplete, LastRead: later, LastSuccess: later, WebhookID: "msg_2"},
		"k-1 items":     {Status: codat.DatasetComplete, LastRead: later, LastSuccess: later, LastModified: later, RecordsModified: true, WebhookID: "msg_2", Issues: map[string]int{"warning.validation": 2, "error": 1}},
		"k-1 suppliers": {Status: codat.DatasetComplete, LastRead: past.Add(time.Second), LastSuccess: past.Add(time.Second), LastModified: past, First: true, RecordsModified: true, WebhookID: "msg_3"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the records (-want +got):\n%s", diff)
	}

	kv, err := srv.JS.KeyValue(t.Context(), "CODAT_reads")
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), "company.k-1.items")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.Value()), "A Company") {
		t.Error("the record has the company's name or the message of an issue, which can be personal data")
	}
	before := e.Revision()
	post(t, srv, "msg_7", event("read.completed", "company", past, element("k-1", "items", "Complete", false, ""))) // an older read
	post(t, srv, "msg_8", event("read.completed", "other", past, element("k-1", "items", "FetchError", false, "")))
	settled(t, srv)
	if e, err := kv.Get(t.Context(), "company.k-1.items"); err != nil || e.Revision() != before {
		t.Errorf("an older read, and one of another company, wrote the record again: %v", err)
	}
}

// An event can name more data types than Codat has: it is refused as a whole. One that cannot be a key costs its element only.
func TestWorker_BoundsWhatOneEventWrites(t *testing.T) {
	srv, records := start(t)
	var many []string
	for i := range 1001 {
		many = append(many, element(fmt.Sprintf("k-%d", i), "bills", "Complete", true, ""))
	}
	long := strings.Repeat("ä", 300)
	var issues []string
	for i := range 100 {
		issues = append(issues, fmt.Sprintf(`{"type":"%03d %s"}`, i, long))
	}
	post(t, srv, "msg_many", event("read.completed", "many", past, many...))
	post(t, srv, "msg_most", event("read.completed", "most", past, many[1:]...))
	post(t, srv, "msg_same", event("read.completed", "same", past, element("k", "bills", "Complete", true, ""), element("k", "bills", "AuthError", false, ""), element("k", "bills", "Complete", false, "")))
	post(t, srv, "msg_bad", event("read.completed", "bad", past, element("k.>", "bills", "Complete", true, ""), element("k", "bills", "Complete", true, ""), element("", "bills", "Complete", true, ""), element("k", "", "Complete", true, "")))
	post(t, srv, "msg_long", event("read.completed", "long", past, element("k", "bills", long, true, `,"issues":[`+strings.Join(issues, ",")+`]`)))
	settled(t, srv)

	found := letters(t, srv)
	if len(found) != 2 || !strings.Contains(found["msg_many"], "1001 data types of connections, and at most 1000 are recorded") ||
		!strings.Contains(found["msg_bad"], "1 of 2 data types of connections were not recorded: the connection id has characters other than") {
		t.Errorf("the dead letters are %q", found)
	}
	for company, want := range map[string]int{"many": 0, "most": 1000, "same": 1, "bad": 1, "long": 1} {
		if all, err := records.List(t.Context(), company); err != nil || len(all) != want {
			t.Errorf("company %s has %d records, %v; want %d", company, len(all), err, want)
		}
	}
	if r, err := records.Get(t.Context(), "same", "k", "bills"); err != nil || r.Status != codat.DatasetAuthError || !r.RecordsModified || len(r.Facts) != 1 {
		t.Errorf("a data type that is named three times has the record %+v, %v; want it failed, with changes", r, err)
	}
	if r, err := records.Get(t.Context(), "long", "k", "bills"); err != nil || string(r.Status) != strings.Repeat("ä", 64) || len(r.Issues) != 20 || r.Issues["019 "+strings.Repeat("ä", 62)] != 1 {
		t.Errorf("long texts have the record %+v, %v; want them cut", r, err)
	}
}

// While the bucket is full no attempt is counted, and every read is there when it has room.
func TestWorker_LosesNothingWhileTheBucketIsFull(t *testing.T) {
	srv, records := start(t)
	st, err := srv.JS.Stream(t.Context(), "KV_"+source.StateBucket(state.ReadsName))
	if err != nil {
		t.Fatal(err)
	}
	room := st.CachedInfo().Config
	full := room
	full.MaxBytes = 1
	if _, err := srv.JS.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	post(t, srv, "msg_1", event("read.completed", "company", past, element("k-1", "bills", "Complete", true, ""), element("k-1", "items", "Complete", true, "")))
	bucket, err := srv.JS.KeyValue(t.Context(), source.ClaimsBucket(reads.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	streamtest.Wait(t, func() bool {
		r, err := claimed.Get(t.Context(), claims.Key{WebhookID: "msg_1"})
		return err == nil && r.State == claims.Waiting && r.Pauses > 0 && r.Attempts == 0
	}, "the event to wait for room")
	if _, err := srv.JS.UpdateStream(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool {
		all, err := records.List(t.Context(), "company")
		return err == nil && len(all) == 2
	}, "both records")
}

// A replay runs the handler again for each event, and the record stays as it is.
func TestWorker_AReplayChangesNothing(t *testing.T) {
	srv, _ := start(t)
	bodies := []string{
		event("read.completed.initial", "company", past, element("k-1", "bills", "Complete", false, "")),
		event("read.completed", "company", past.Add(time.Hour), element("k-1", "bills", "FetchError", false, "")),
		event("read.completed", "company", past.Add(2*time.Hour), element("k-1", "bills", "Complete", true, "")),
		legacy("Data sync completed", "bills", ""),
	}
	for i, body := range bodies {
		post(t, srv, fmt.Sprintf("msg_%d", i), body)
	}
	settled(t, srv)
	kv, err := srv.JS.KeyValue(t.Context(), "CODAT_reads")
	if err != nil {
		t.Fatal(err)
	}
	before, err := kv.Get(t.Context(), "company.k-1.bills")
	if err != nil {
		t.Fatal(err)
	}
	o, err := operator.New(srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	selection, err := o.SelectEvents(t.Context(), operator.EventsOptions{Worker: reads.Name})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := o.Redrive(t.Context(), selection, operator.RedriveOptions{ID: "again", Rate: 1000}); err != nil || r.Given != len(bodies) {
		t.Fatalf("Redrive = %+v, %v", r, err)
	}
	settled(t, srv)
	after, err := kv.Get(t.Context(), "company.k-1.bills")
	if err != nil || after.Revision() != before.Revision() {
		t.Errorf("the record was written again: %v\nbefore: %s\nafter:  %s", err, before.Value(), after.Value())
	}
	claimed, err := srv.JS.KeyValue(t.Context(), source.ClaimsBucket(reads.Name))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := claims.NewKV(claimed, nil, nil).Get(t.Context(), claims.Key{WebhookID: "msg_0", Redrive: "again"}); err != nil || r.State != claims.Done {
		t.Errorf("the claim of the replay is %+v, %v; want it done", r, err)
	}
}

// Every example about a read of a data type makes a record for each element, and none becomes a dead letter.
func TestWorker_RecordsEveryExample(t *testing.T) {
	srv, records := start(t)
	want := map[[3]string]bool{}
	posted := 0
	for _, e := range examples.All() {
		legacy := strings.HasPrefix(e.Type, "DataS") || strings.HasPrefix(e.Type, "DatasetD")
		if !legacy && !strings.Contains(e.Type, "read.complete") {
			continue
		}
		if legacy {
			rule, err := codat.Decode[codat.Rule[codat.DatasetData]](e.Body)
			if err != nil {
				t.Fatal(err)
			}
			if rule.Data.DataType != "" {
				want[[3]string{rule.CompanyID, rule.DataConnectionID, string(rule.Data.DataType)}] = true
			}
		} else {
			result, err := codat.Decode[codat.ReadResult](e.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range result.DataTypes {
				want[[3]string{result.ReferenceCompany.ID, d.ConnectionID, string(d.DataType)}] = true
			}
		}
		post(t, srv, "msg_"+strings.NewReplacer(".", "_", "/", "_").Replace(e.Name), string(e.Body))
		posted++
	}
	settled(t, srv)
	if found := letters(t, srv); len(found) != 0 {
		t.Errorf("examples became dead letters: %q", found)
	}
	for k := range want {
		r, err := records.Get(t.Context(), k[0], k[1], codat.DataType(k[2]))
		if errors.Is(err, jetstream.ErrKeyNotFound) || r.LastRead.IsZero() || len(r.Facts) == 0 {
			t.Errorf("the record of %q is %+v, %v", k, r, err)
		}
	}
	all, err := records.List(t.Context(), "")
	if err != nil || len(all) != len(want) || posted < 14 {
		t.Errorf("List: %d records of %d examples, %v; want %d records", len(all), posted, err, len(want))
	}
}

// The capacity table of docs/operate.md has what a record takes in the bucket: of a data type that was read for the first
// time, then with changes, and then without.
func TestWorker_ARecordTakesWhatTheCapacityTableSays(t *testing.T) {
	srv, records := start(t)
	const company, connection, dataTypes = "c0ffee00-0000-4000-8000-00000000000a", "ca5cade0-0000-4000-8000-00000000000a", 40
	for i, typ := range []string{"read.completed.initial", "read.completed", "read.completed"} {
		var elements []string
		for n := range dataTypes {
			elements = append(elements, element(connection, fmt.Sprintf("dataTypeName%02d", n), "Complete", i == 1, ""))
		}
		post(t, srv, fmt.Sprintf("msg_2b3c4d5e6f7g8h9i0j1k2l3m4n%d", i), event(typ, company, past.Add(time.Duration(i)*24*time.Hour), elements...))
	}
	settled(t, srv)
	st, err := srv.JS.Stream(t.Context(), "KV_"+source.StateBucket(state.ReadsName))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := records.List(t.Context(), company); err != nil || len(all) != dataTypes || len(all[0].Facts) != 3 {
		t.Fatalf("%d records, %v", len(all), err)
	}
	got := st.CachedInfo().State.Bytes / dataTypes
	t.Logf("a record takes %d bytes", got)
	if got < 1000 || got > 1200 {
		t.Errorf("a record takes %d bytes", got)
	}
}

// An event can name several connections: all that write one record have its company in common.
func TestWorker_KeyIsTheCompany(t *testing.T) {
	for _, connection := range []string{"", "k-1"} {
		if got := reads.Worker(reads.Store{}).Key(codat.Event[struct{}]{Company: "company", Connection: connection}); got != "company" {
			t.Errorf("the key of connection %q is %q; want the company", connection, got)
		}
	}
}

// A status that is missing is what the type says, and Success of Codat's note about the legacy types is Complete.
func TestWorker_ReadsStatusesAsCodatWritesThem(t *testing.T) {
	srv, records := start(t)
	for i, tt := range []struct {
		typ, status string
		want        codat.DatasetStatus
	}{
		{"read.completed", "Success", codat.DatasetComplete},
		{"read.completed.successful", "", codat.DatasetComplete},
		{"acme.read.completed.successful", "", codat.DatasetComplete},
		{"read.completed.unsuccessful", "", ""},
		{"read.completed", "Novel", "Novel"},
	} {
		company := fmt.Sprintf("company-%d", i)
		post(t, srv, fmt.Sprintf("msg_%d", i), event(tt.typ, company, past, element("k", "bills", tt.status, false, "")))
		var r state.Read
		streamtest.Wait(t, func() bool {
			var err error
			r, err = records.Get(t.Context(), company, "k", codat.DataBills)
			return err == nil
		}, "the record of "+company)
		if r.Status != tt.want || r.LastSuccess.IsZero() == (tt.want == codat.DatasetComplete) {
			t.Errorf("%s with the status %q has the record %+v; want %q", tt.typ, tt.status, r, tt.want)
		}
	}
}
