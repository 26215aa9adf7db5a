package writes_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/writes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = stream.Source("codat")

// start runs the worker against a server of its own and returns a reader of what it writes.
func start(t *testing.T, with ...func(*writes.Settings)) (*streamtest.Server, state.Writes) {
	t.Helper()
	srv := streamtest.New(t, writes.Worker(writes.Store{}).Spec())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &writes.Settings{Settings: workers.Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second}, OverdueAfter: time.Hour}
	for _, set := range with {
		set(s)
	}
	go func() { ended <- writes.Run(ctx, s, process.New(writes.Name, zaptest.NewLogger(t))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	})
	records, err := state.OpenWrites(context.Background(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	return srv, records
}

func post(t *testing.T, srv *streamtest.Server, id, body string) {
	t.Helper()
	postAs(t, srv, id, body, time.Now())
}

// postAs stores an event that was first received at a time.
func postAs(t *testing.T, srv *streamtest.Server, id, body string, received time.Time) {
	t.Helper()
	head, err := codat.Read([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: received}, []byte(body))
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
	streamtest.WaitSettled(t, srv.JS, source.Stream(), writes.Name)
}

func write(typ, key, status, record string) string {
	return fmt.Sprintf(`{"id":"e","eventType":%q,"generatedDate":"2026-11-21T12:00:03Z","payload":{"id":%q,"type":"Create","referenceCompany":{"id":"company-1","name":"A Company"},"connectionId":"connection-1","requestedOnDate":"2026-11-21T12:00:00Z","completedOnDate":"2026-11-21T12:00:02Z","status":%q,"record":{"id":%q}}}`,
		typ, key, status, record)
}

func legacy(key, status string) string {
	return fmt.Sprintf(`{"CompanyId":"company-1","RuleType":"Push Operation Status Changed()","Message":"A Company","Data":{"dataType":"directCosts","status":%q,"pushOperationKey":%q}}`, status, key)
}

// A write is pending, times out, and succeeds late; the events arrive in no order, and some of both generations.
func TestWorker_WritesTheLifeOfAWrite(t *testing.T) {
	srv, records := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	type outcome struct {
		state.Write
		err error
	}
	awaited := make(chan outcome, 1)
	go func() {
		w, err := records.AwaitWrite(ctx, "push-1") // before any event
		awaited <- outcome{w, err}
	}()

	post(t, srv, "msg_1", legacy("push-1", "Pending"))
	streamtest.Wait(t, func() bool { w, err := records.Get(ctx, "push-1"); return err == nil && w.Status == codat.Pending }, "the write to be pending")
	post(t, srv, "msg_2", write("directCosts.write.successful", "push-1", "Success", "record-1"))
	post(t, srv, "msg_3", write("directCosts.write.unsuccessful", "push-1", "TimedOut", ""))
	post(t, srv, "msg_4", legacy("push-1", "Success"))
	post(t, srv, "msg_5", `{"CompanyId":"company-1","RuleType":"Push Operation Timed Out","Data":{"dataType":"directCosts","pushOperationGuid":"push-2"}}`)

	if got := <-awaited; got.err != nil || got.Status != codat.Success && got.Status != codat.TimedOut {
		t.Errorf("AwaitWrite = %q, %v; want the write's outcome", got.Status, got.err)
	}
	if late, err := records.AwaitWrite(ctx, "push-2"); err != nil || late.Status != codat.TimedOut {
		t.Errorf("AwaitWrite(push-2) = %q, %v; want it timed out", late.Status, err)
	}
	settled(t, srv)
	want := state.Write{
		PushOperationKey: "push-1", Status: codat.Success, Company: "company-1", Connection: "connection-1", DataType: "directCosts",
		Kind: codat.WriteCreate, Record: "record-1",
		Requested: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Completed: time.Date(2026, 11, 21, 12, 0, 2, 0, time.UTC),
	}
	got, err := records.AwaitWrite(ctx, "push-1")
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(state.Write{}, "Current", "Legacy")); diff != "" || err != nil {
		t.Errorf("after every event: %v (-want +got):\n%s", err, diff)
	}

	kv, err := srv.JS.KeyValue(ctx, "CODAT_writes")
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(ctx, "push-1")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.Value()), "A Company") {
		t.Error("the record has the company's name, which can be personal data")
	}
}

// While the bucket is full no attempt is counted, and every write is there when it has room.
func TestWorker_LosesNothingWhileTheBucketIsFull(t *testing.T) {
	srv, records := start(t, func(s *writes.Settings) { s.BackoffMin, s.BackoffMax = 50*time.Millisecond, 50*time.Millisecond })
	st, err := srv.JS.Stream(t.Context(), "KV_"+source.StateBucket(state.WritesName))
	if err != nil {
		t.Fatal(err)
	}
	room := st.CachedInfo().Config
	full := room
	full.MaxBytes = 1
	if _, err := srv.JS.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	const events = 2
	for i := range events {
		post(t, srv, fmt.Sprintf("msg_%d", i), write("directCosts.write.successful", fmt.Sprintf("push-%d", i), "Success", "record-1"))
	}
	bucket, err := srv.JS.KeyValue(t.Context(), source.ClaimsBucket(writes.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	streamtest.Wait(t, func() bool {
		for i := range events {
			r, err := claimed.Get(t.Context(), claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)})
			if err == nil && r.State == claims.Waiting && r.Pauses > 0 && r.Attempts == 0 {
				return true
			}
		}
		return false
	}, "an event to wait for room")
	if _, err := srv.JS.UpdateStream(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if _, err := records.AwaitWrite(t.Context(), fmt.Sprintf("push-%d", i)); err != nil {
			t.Errorf("write %d: %v", i, err)
		}
	}
}

func TestWrites_AwaitWriteEndsWithItsContext(t *testing.T) {
	_, records := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if w, err := records.AwaitWrite(ctx, "push-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AwaitWrite = %+v, %v; want the context's error", w, err)
	}
	if _, err := records.AwaitWrite(context.Background(), "push.>"); err == nil {
		t.Error("AwaitWrite(push.>) succeeded; want the key refused")
	}
}

// The reason of a failure is in Codat's API only. An API that fails concerns no other write, and the record is there before.
func TestWorker_AsksForTheReasonOfAFailure(t *testing.T) {
	var calls atomic.Int64
	codatAPI := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/companies/company-1/push/down":
			http.Error(w, `{"statusCode":503}`, http.StatusServiceUnavailable)
		case r.URL.Path == "/companies/company-1/push/unknown":
			http.Error(w, `{"statusCode":404}`, http.StatusNotFound)
		case r.URL.Path != "/companies/company-1/push/push-1":
			t.Errorf("%s %s is called", r.Method, r.URL.Path)
		case calls.Add(1) == 1:
			http.Error(w, `{"statusCode":503}`, http.StatusServiceUnavailable)
		default:
			fmt.Fprintf(w, `{"pushOperationKey":"push-1","companyId":"company-1","dataConnectionKey":"connection-1","dataType":"directCosts","status":"Failed","statusCode":400,"requestedOnUtc":"2026-11-21T12:00:00Z","errorMessage":%q,"validation":{"errors":[%s{"itemId":"AccountRef.Id","message":"must be set","validatorName":%q}]}}`,
				"a"+strings.Repeat("ä", 2048), strings.Repeat(`{},`, 19), strings.Repeat("v", 1000))
		}
	}))
	t.Cleanup(codatAPI.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv, records := start(t, func(s *writes.Settings) {
		s.Codat = api.Settings{CodatKeyFile: key, CodatURL: codatAPI.URL, CodatTimeout: time.Minute, CodatConcurrency: 4}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	post(t, srv, "msg_1", write("directCosts.write.unsuccessful", "push-1", "Failed", ""))
	post(t, srv, "msg_2", write("directCosts.write.unsuccessful", "unknown", "Failed", ""))
	post(t, srv, "msg_3", write("directCosts.write.successful", "push-3", "Success", "record-3"))
	for _, key := range []string{"push-1", "unknown", "push-3"} {
		if _, err := records.AwaitWrite(ctx, key); err != nil {
			t.Fatalf("write %s: %v", key, err)
		}
	}
	want := &state.WriteReason{
		Message: "a" + strings.Repeat("ä", 1023), // 2 KiB, without half of a character
		Errors:  append(make([]state.WriteRemark, 19), state.WriteRemark{Item: "AccountRef.Id", Message: "must be set", Validator: strings.Repeat("v", 256)}),
	}
	streamtest.Wait(t, func() bool { w, err := records.Get(ctx, "push-1"); return err == nil && w.Reason != nil }, "the reason to be there")
	if w, err := records.Get(ctx, "push-1"); err != nil || cmp.Diff(want, w.Reason) != "" {
		t.Errorf("the reason is %+v, %v; want %+v", w.Reason, err, want)
	}
	post(t, srv, "msg_4", legacy("push-1", "Failed")) // its reason is known
	settled(t, srv)
	if got := calls.Load(); got != 2 {
		t.Errorf("the API is asked %d times for one reason; want once more after its failure", got)
	}
	// The API's failure is an attempt of the one event, and pauses no other.
	post(t, srv, "msg_5", write("directCosts.write.unsuccessful", "down", "Failed", ""))
	bucket, err := srv.JS.KeyValue(ctx, source.ClaimsBucket(writes.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	streamtest.Wait(t, func() bool {
		r, err := claimed.Get(ctx, claims.Key{WebhookID: "msg_5"})
		return err == nil && r.State == claims.Waiting && r.Attempts > 0 && r.Pauses == 0
	}, "the event to wait for its next attempt")
	if w, err := records.Get(ctx, "unknown"); err != nil || w.Status != codat.Failed || w.Reason != nil {
		t.Errorf("the write that the API does not know is %q, %v; want it failed, without a reason", w.Status, err)
	}
}

// A key file that becomes unusable is a warning, because its previous key stays in use.
func TestWorker_WarnsOfItsKeyFile(t *testing.T) {
	srv := streamtest.New(t, writes.Worker(writes.Store{}).Spec())
	key := filepath.Join(t.TempDir(), "key")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(key, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("key\n")
	p := process.New(writes.Name, zaptest.NewLogger(t))
	admin, err := p.ServeAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &writes.Settings{
		Settings: workers.Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second},
		Codat:    api.Settings{CodatKeyFile: key, CodatURL: "https://api.codat.io", CodatTimeout: time.Minute, CodatConcurrency: 4},
	}
	go func() { ended <- writes.Run(ctx, s, p) }()
	says := func(text string) {
		t.Helper()
		streamtest.Wait(t, func() bool {
			resp, err := http.Get("http://" + admin.Addr() + "/readyz")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && resp.StatusCode == http.StatusOK && strings.Contains(string(body), text)
		}, "/readyz is 200 and says "+text)
	}
	says("ok    codat key\n")
	put("two words\n")
	says("WARN  codat key: --codat-key-file ")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v; want a clean stop", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestSettings_AreValidated(t *testing.T) {
	for _, tt := range []struct{ args, names string }{
		{"--codat-key-file=/none --codat-url=http://api.example.com", "--codat-url"},
		{"--codat-timeout=0s", "--codat-timeout"},
		{"--source=Not.A.Source", "source"},
		{"--overdue-after=59s", "--overdue-after"},
		{"--overdue-after=25h", "--overdue-after"},
		{"--attempts=2", "--attempts"},
	} {
		_, err := process.Parse("worker-writes", "", new(writes.Settings), strings.Fields(tt.args))
		if err == nil || !strings.Contains(err.Error(), tt.names) {
			t.Errorf("%s: %v; want an error that names %s", tt.args, err, tt.names)
		}
	}
	missing := &writes.Settings{Codat: api.Settings{CodatKeyFile: filepath.Join(t.TempDir(), "none"), CodatURL: "https://api.codat.io", CodatTimeout: time.Second, CodatConcurrency: 1}}
	if err := writes.Run(t.Context(), missing, process.New(writes.Name, zaptest.NewLogger(t))); err == nil || !strings.Contains(err.Error(), "codat-key-file") {
		t.Errorf("Run with a key file that is missing = %v; want an error that names --codat-key-file", err)
	}
}

func TestWorker_KeepsTheQuota(t *testing.T) {
	srv, _ := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := state.ReadQuota(ctx, srv.JS, source); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("ReadQuota without an event: %v; want ErrKeyNotFound", err)
	}
	until := func(what string, holds func(state.Quota) bool) {
		t.Helper()
		streamtest.Wait(t, func() bool { q, err := state.ReadQuota(ctx, srv.JS, source); return err == nil && holds(q) }, what)
	}
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	midnight := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	post(t, srv, "msg_1", `{"id":"e","eventType":"client.rateLimit.reached","generatedDate":"2026-11-21T12:00:00Z","payload":{"dailyQuota":1000,"quotaRemaining":0}}`)
	until("calls to pause until midnight", func(q state.Quota) bool {
		return q.Exhausted && q.Daily == 1000 && q.PausedUntil(noon).Equal(midnight) && q.PausedUntil(midnight).IsZero()
	})
	post(t, srv, "msg_2", `{"id":"e","eventType":"client.rateLimit.reset","generatedDate":"2026-11-21T13:00:00Z","payload":{"dailyQuota":2000,"quotaRemaining":2000,"expiryDate":"2026-11-22T00:00:00Z"}}`)
	until("the quota to be renewed", func(q state.Quota) bool {
		return !q.Exhausted && q.Remaining == 2000 && q.PausedUntil(noon).IsZero()
	})
}

func TestWorker_RecordsEveryExample(t *testing.T) {
	srv, records := start(t)
	want := map[string]bool{}
	for _, e := range examples.All() {
		limit := strings.Contains(strings.ToLower(e.Type), "ratelimit")
		if !limit && !strings.Contains(e.Type, ".write.") && !strings.HasPrefix(e.Type, "PushOperation") {
			continue
		}
		head, err := codat.Read(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		if !limit {
			want[head.PushOperation] = true
		}
		post(t, srv, "msg_"+strings.NewReplacer(".", "_", "/", "_").Replace(e.Name), string(e.Body))
	}
	if len(want) == 0 {
		t.Fatal("no example names a push operation")
	}
	settled(t, srv)
	if err := deadletter.List(context.Background(), srv.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		return fmt.Errorf("%s: %s", l.Type, l.LastError)
	}); err != nil {
		t.Errorf("an example became a dead letter: %v", err)
	}
	for key := range want {
		if _, err := records.AwaitWrite(t.Context(), key); err != nil {
			t.Errorf("write %s: %v", key, err)
		}
	}
	all, err := records.List(t.Context(), "")
	if err != nil || len(all) != len(want) {
		t.Errorf("List: %d records, %v; want %d", len(all), err, len(want))
	}
}
