package state

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = stream.Source("codat")

// newConnections returns a reader and the bucket that it reads, which holds records.
func newConnections(t *testing.T, records ...Connection) (Connections, jetstream.KeyValue) {
	t.Helper()
	server := streamtest.New(t, stream.WorkerSpec{
		Name: "connections", Types: []codat.Pattern{"connection.created"}, State: []string{ConnectionsName}, AckWait: time.Minute, MaxAckPending: 1,
	})
	c, err := OpenConnections(t.Context(), server.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := server.JS.KeyValue(t.Context(), source.StateBucket(ConnectionsName))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		put(t, kv, r)
	}
	return c, kv
}

func put(t *testing.T, kv jetstream.KeyValue, r Connection) {
	t.Helper()
	key, err := ConnectionKey(r.Company, r.Connection)
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestConnections_GetAndList(t *testing.T) {
	t.Parallel()
	a1, a2, b1 := Connection{Company: "a", Connection: "1", Status: codat.Linked}, Connection{Company: "a", Connection: "2"}, Connection{Company: "b", Connection: "1"}
	c, kv := newConnections(t, b1, a2, a1)
	got, err := c.Get(t.Context(), "a", "1")
	if diff := cmp.Diff(a1, got); diff != "" || err != nil {
		t.Errorf("Get: error %v, (-want +got):\n%s", err, diff)
	}
	if _, err := c.Get(t.Context(), "a", "3"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("Get of an unknown connection: error %v; want ErrKeyNotFound", err)
	}
	for _, tt := range []struct {
		company string
		want    []Connection
	}{{"a", []Connection{a1, a2}}, {"", []Connection{a1, a2, b1}}, {"c", nil}} {
		got, err := c.List(t.Context(), tt.company)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("List(%q): error %v, (-want +got):\n%s", tt.company, err, diff)
		}
	}
	if _, err := c.List(t.Context(), "*"); err == nil {
		t.Error("List(*) succeeded; want the id refused")
	}
	if _, err := kv.Put(t.Context(), "d.1", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context(), "d"); err == nil {
		t.Error("List succeeded although a record cannot be read")
	}
}

func TestScan_ReadsWithoutAConsumer(t *testing.T) {
	t.Parallel()
	a1, a2, b1 := Connection{Company: "a", Connection: "1", Status: codat.Linked}, Connection{Company: "a", Connection: "2"}, Connection{Company: "b", Connection: "1"}
	c, kv := newConnections(t, b1, a2, a1, Connection{Company: "a", Connection: "3"})
	if err := kv.Delete(t.Context(), "a.3"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "reconciliation", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	all := func(Connection) bool { return true }
	for _, tt := range []struct {
		company string
		keep    func(Connection) bool
		want    []Connection
	}{
		{"a", all, []Connection{a1, a2}},
		{"", all, []Connection{a1, a2, b1}},
		{"", func(c Connection) bool { return c.Connection == "1" }, []Connection{a1, b1}},
		{"c", all, nil},
	} {
		got, err := c.Scan(t.Context(), tt.company, tt.keep)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("Scan(%q): error %v, (-want +got):\n%s", tt.company, err, diff)
		}
	}
	if _, err := c.Scan(t.Context(), "*", all); err == nil {
		t.Error("Scan(*) succeeded; want the id refused")
	}
}

func TestConnections_WatchCallsEachRecordAndEachChange(t *testing.T) {
	t.Parallel()
	first := Connection{Company: "a", Connection: "1", Status: codat.PendingAuth}
	c, kv := newConnections(t, first, Connection{Company: "b", Connection: "1"})
	second := first
	second.Status = codat.Linked
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := errors.New("stop")
	var got []Connection
	err := c.Watch(ctx, "a", func(r Connection) error {
		if got = append(got, r); len(got) == 2 {
			return stop
		}
		put(t, kv, second)
		return nil
	})
	if diff := cmp.Diff([]Connection{first, second}, got); diff != "" || !errors.Is(err, stop) {
		t.Errorf("Watch: error %v; want that of the function; (-want +got):\n%s", err, diff)
	}
}

func TestOpenConnections_ReportsAMissingBucket(t *testing.T) {
	t.Parallel()
	if _, err := OpenConnections(t.Context(), streamtest.Empty(t).JS, source); !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("error %v; want ErrNotProvisioned", err)
	}
}

func TestConnectionKey_RefusesIDsThatNoKeyCanHave(t *testing.T) {
	if _, err := ConnectionKey(strings.Repeat("a", 128), strings.Repeat("a", 128)); err != nil {
		t.Errorf("ids of 128 bytes: %v", err)
	}
	for _, id := range []string{"", "*", ">", "a.b", "a b", "ü", "a\n", strings.Repeat("a", 129)} {
		if k, err := ConnectionKey("company", id); err == nil {
			t.Errorf("ConnectionKey(company, %q) = %q; want it refused", id, k)
		}
		if k, err := ConnectionKey(id, "connection"); err == nil {
			t.Errorf("ConnectionKey(%q, connection) = %q; want it refused", id, k)
		}
	}
}

// A renewal with a wrong date does not hold calls to Codat's API until then.
func TestQuota_PausesForADayAtMost(t *testing.T) {
	t.Parallel()
	received := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		renewal time.Time
		want    time.Time
	}{
		{received.Add(12 * time.Hour), received.Add(12 * time.Hour)},
		{received.Add(100_000 * time.Hour), received.Add(25 * time.Hour)},
		{received.Add(-time.Hour), time.Time{}},
	} {
		q := Quota{Exhausted: true, Renewal: tt.renewal, Received: received}
		if got := q.PausedUntil(received); !got.Equal(tt.want) {
			t.Errorf("a renewal at %s pauses until %s; want %s", tt.renewal, got, tt.want)
		}
	}
}
