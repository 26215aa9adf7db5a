package connections_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/connections"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = stream.Source("codat")

// start runs the worker against a server of its own and returns a reader of what it writes.
func start(t *testing.T) (*streamtest.Server, state.Connections) {
	t.Helper()
	srv := streamtest.New(t, connections.Worker(connections.Store{}).Spec())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &connections.Settings{Settings: workers.Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second}}
	go func() { ended <- connections.Run(ctx, s, process.New(connections.Name, zaptest.NewLogger(t))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	})
	store, err := state.OpenConnections(context.Background(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	return srv, store
}

func post(t *testing.T, srv *streamtest.Server, id string, body []byte) {
	t.Helper()
	head, err := codat.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
}

func change(typ, company, connection, status string, at time.Time) []byte {
	return fmt.Appendf(nil, `{"id":"e","eventType":%q,"generatedDate":%q,"payload":{"referenceCompany":{"id":%q,"name":"A Company"},"connection":{"id":%q,"integrationKey":"gbol","linkUrl":"https://example.com/secret","status":%q}}}`,
		typ, at.Format(time.RFC3339Nano), company, connection, status)
}

func TestWorker_WritesTheLifeOfAConnection(t *testing.T) {
	srv, store := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	enough := errors.New("enough")
	seen, watched := make(chan state.Connection, 99), make(chan error, 1)
	go func() {
		watched <- store.Watch(ctx, "company-1", func(s state.Connection) error {
			seen <- s
			if s.Deleted {
				return enough
			}
			return nil
		})
	}()
	now := time.Now()
	post(t, srv, "msg_other", change("connection.connected", "company-2", "c", "Linked", now))
	post(t, srv, "msg_2", change("connection.connected", "company-1", "c", "Linked", now.Add(2*time.Minute)))
	streamtest.Wait(t, func() bool { s, err := store.Get(ctx, "company-1", "c"); return err == nil && s.Status == codat.Linked }, "the connection to be linked")
	post(t, srv, "msg_1", change("connection.created", "company-1", "c", "PendingAuth", now.Add(time.Minute))) // late
	post(t, srv, "msg_3", change("connection.deleted", "company-1", "c", "Linked", now.Add(3*time.Minute)))
	if err := <-watched; !errors.Is(err, enough) {
		t.Fatalf("Watch = %v; want what the callback said", err)
	}
	close(seen)
	var last state.Connection
	for s := range seen {
		if s.Company != "company-1" || s.Status != codat.Linked || s.Platform != "gbol" {
			t.Errorf("the watch told %+v; want company-1's connection, linked", s)
		}
		last = s
	}
	if !last.Deleted || !last.Changed.Equal(now.Add(3*time.Minute)) {
		t.Errorf("last told: %+v; want it deleted", last)
	}
	kv, err := srv.JS.KeyValue(ctx, "CODAT_connections")
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(ctx, "company-1.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"A Company", "example.com"} {
		if strings.Contains(string(e.Value()), secret) {
			t.Errorf("the state holds %q, which is sensitive", secret)
		}
	}
}

// A bucket that cannot be written concerns every event alike: no attempt is counted.
func TestWorker_CountsNoAttemptWhileTheBucketIsFull(t *testing.T) {
	srv, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	st, err := srv.JS.Stream(ctx, "KV_"+source.StateBucket(connections.Name))
	if err != nil {
		t.Fatal(err)
	}
	room := st.CachedInfo().Config
	full := room
	full.MaxBytes = 1
	if _, err := srv.JS.UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	bucket, err := srv.JS.KeyValue(ctx, source.ClaimsBucket(connections.Name))
	if err != nil {
		t.Fatal(err)
	}
	store := claims.NewKV(bucket, nil, nil) // to look
	look := func() claims.Record {
		record, err := store.Get(ctx, claims.Key{WebhookID: "msg_1"})
		if err != nil && !errors.Is(err, claims.ErrNoClaim) {
			t.Fatal(err)
		}
		return record
	}
	post(t, srv, "msg_1", change("connection.created", "company-1", "connection-1", "Linked", time.Now()))
	streamtest.Wait(t, func() bool { r := look(); return r.State == claims.Waiting && r.Pauses > 0 && r.Attempts == 0 }, "the event to wait")
	if _, err := srv.JS.UpdateStream(ctx, room); err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool { r := look(); return r.State == claims.Done && r.Attempts == 1 }, "the event to be done")
}

func TestWorker_RecordsEveryExample(t *testing.T) {
	srv, store := start(t)
	want := map[string]bool{}
	for _, e := range examples.All() {
		if !strings.HasPrefix(e.Type, "connection.") && !strings.Contains(e.Type, "read.completed") &&
			e.Type != "DataConnectionStatusChanged" && e.Type != "SyncConnectionDeleted" {
			continue
		}
		head, err := codat.Read(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		post(t, srv, "msg_"+strings.NewReplacer(".", "_", "/", "_").Replace(e.Name), e.Body)
		for _, c := range head.Connections {
			want[head.Company+"."+c] = true
		}
	}
	if len(want) == 0 {
		t.Fatal("no example names a connection")
	}
	streamtest.WaitSettled(t, srv.JS, source.Stream(), connections.Name)
	if err := deadletter.List(context.Background(), srv.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		return fmt.Errorf("%s: %s", l.Type, l.LastError)
	}); err != nil {
		t.Errorf("an example became a dead letter: %v", err)
	}
	for k := range want {
		company, connection, _ := strings.Cut(k, ".")
		streamtest.Wait(t, func() bool { _, err := store.Get(context.Background(), company, connection); return err == nil }, "the state of "+k)
	}
}

// One event cannot make more records than maxConnections, and an id that no key can have keeps out no other.
func TestWorker_BoundsWhatOneReadWrites(t *testing.T) {
	srv, store := start(t)
	readOf := func(company string, connections ...string) []byte {
		elements := make([]string, len(connections))
		for i, c := range connections {
			elements[i] = fmt.Sprintf(`{"connectionId":%q,"dataType":"invoices","status":"AuthError"}`, c)
		}
		return fmt.Appendf(nil, `{"id":"e","eventType":"read.completed","generatedDate":"2026-11-20T10:00:00Z","payload":{"referenceCompany":{"id":%q},"dataTypes":[%s]}}`,
			company, strings.Join(elements, ","))
	}
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprintf("c-%d", i))
	}
	post(t, srv, "msg_many", readOf("many", many...))
	post(t, srv, "msg_bad", readOf("bad", "a", "b c", "d", "d"))
	streamtest.WaitSettled(t, srv.JS, source.Stream(), connections.Name)
	letters := map[string]string{}
	if err := deadletter.List(t.Context(), srv.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		letters[l.WebhookID] = l.LastError
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(letters) != 2 || !strings.Contains(letters["msg_many"], "1001 connections, and at most 1000") || !strings.Contains(letters["msg_bad"], "characters other than") {
		t.Errorf("the dead letters are %q", letters)
	}
	for company, want := range map[string]int{"many": 0, "bad": 2} {
		if got, err := store.List(t.Context(), company); err != nil || len(got) != want {
			t.Errorf("%s has %d records, %v; want %d", company, len(got), err, want)
		}
	}
}
