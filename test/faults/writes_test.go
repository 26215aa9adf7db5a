//go:build faults

package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/writes"
)

// refusal is why the platform refuses a write.
const refusal = "the account does not exist"

// becomes is what the stand-in makes of a push by its number: each end in turn.
func becomes(p codattest.Push) codattest.Outcome {
	switch p.Number % 5 {
	case 0:
		return codattest.Fail(50*time.Millisecond, refusal)
	case 1:
		return codattest.TimeOut(50 * time.Millisecond)
	case 2:
		return codattest.SucceedLate(50*time.Millisecond, time.Second)
	case 3:
		return codattest.StayPending()
	}
	return codattest.Succeed(50 * time.Millisecond)
}

// newCodat starts a stand-in for Codat. It tells an endpoint of every change of a push, and of each new one by an event of the
// legacy types, some events twice or three times and in no order.
func newCodat(t testing.TB) *codattest.Server {
	t.Helper()
	var s *codattest.Server
	s, err := codattest.Start(codattest.Options{
		Speed:   1000, // its pauses between attempts
		Outcome: func(p codattest.Push) (codattest.Outcome, bool) { return becomes(p), true },
		Changed: func(p codattest.Push) {
			if p.Status == codat.Pending {
				s.Emit("PushOperationStatusChanged", p.Company, fmt.Appendf(nil,
					`{"AlertId":%q,"CompanyId":%q,"RuleType":"Push Operation Status Changed()","Data":{"dataType":%q,"status":"Pending","pushOperationKey":%q}}`,
					uuid.NewString(), p.Company, p.DataType, p.Key))
			}
		},
		Delivery: func(m codattest.Message) codattest.Delivery {
			h := fnv.New32a()
			_, _ = h.Write([]byte(m.ID)) // a hash returns no error
			n := h.Sum32()
			return codattest.Delivery{Delay: time.Duration(n/3%1500) * time.Second, Copies: int(n % 3)} // up to 1.5 s, by Speed
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// worker-writes is killed while it handles events about pushes to a stand-in for Codat, which come twice and in no order, and
// while it asks the stand-in for reasons. In the end the record of every write is as the stand-in says, a write that stays
// pending is overdue, and each event is settled.
func TestPromise6_KilledWritesWorkersRecordEveryWrite(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{Workers: []stream.WorkerSpec{writes.Worker(writes.Store{}).Spec()}})
	var in *ingress
	signs, keyFile := newSender(t, func() string { return in.host() })
	in = newIngress(t, "ingress", b.url, keyFile, "--drain-delay", "0s")
	in.waitReady()
	codatAPI := newCodat(t)
	codatAPI.AddEndpoint(codattest.Endpoint{URL: "http://" + in.host() + hook, Key: signs.key})
	apiKey := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(apiKey, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	var replica [2]*program
	for i := range replica {
		name := fmt.Sprintf("worker-writes-%d", i)
		replica[i] = launch(t, name, "worker-writes", "", "--admin-listen", "127.0.0.1:0", "--nats-url", b.url, "--log-level", "warn",
			"--codat-key-file", apiKey, "--codat-url", codatAPI.URL(), "--overdue-after", "1m", "--concurrency", "8")
	}

	const pushes, kills, companies = 250, 10, 10
	client, err := api.New(api.Settings{CodatKeyFile: apiKey, CodatURL: codatAPI.URL(), CodatTimeout: time.Minute, CodatConcurrency: 2}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range companies {
		codatAPI.AddCompany(codattest.Company{ID: fmt.Sprintf("company-%d", i), Name: "A Company", Connections: []string{"connection-1"}})
	}
	for i := range pushes {
		target := api.Target{Company: fmt.Sprintf("company-%d", i%companies), Connection: "connection-1", DataType: codat.DataDirectCosts}
		if _, err := client.Create(t.Context(), target, uuid.NewString(), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		if i%(pushes/kills) == pushes/kills-1 {
			victim := replica[i/(pushes/kills)%len(replica)]
			delivered(t, b.js, (i+1)/2) // it is in the middle
			victim.kill()
			victim.start()
		}
	}
	events := 0
	for _, p := range codatAPI.Pushes() {
		events += 1 + len(becomes(p).Ends)
	}
	checkSettled(t, b.js, events)
	checkWrites(t, b.js, codatAPI)
}

// delivered waits until worker-writes has received n events.
func delivered(t testing.TB, js jetstream.JetStream, n int) {
	t.Helper()
	var got uint64
	wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := js.Consumer(ctx, source.Stream(), writes.Name)
		if err != nil {
			return false
		}
		got = c.CachedInfo().Delivered.Consumer
		return got >= uint64(n)
	}, func() string { return fmt.Sprintf("worker-writes receives %d events, so far %d", n, got) })
}

// checkWrites compares the record of every write with what the stand-in for Codat says of it.
func checkWrites(t testing.TB, js jetstream.JetStream, codatAPI *codattest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	records, err := state.OpenWrites(ctx, js, source)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range codatAPI.Pushes() {
		ends := becomes(p).Ends
		want := codat.Pending
		if len(ends) > 0 {
			want = ends[len(ends)-1].Status
		}
		w, err := records.Get(ctx, p.Key)
		reason := w.Reason != nil && w.Reason.Message == refusal
		if err != nil || w.Status != want || w.Company != p.Company || w.DataType != p.DataType ||
			(w.Record != "") != (want == codat.Success) || reason != (want == codat.Failed) || w.Overdue.IsZero() != (want != codat.Pending) {
			t.Errorf("the record of push %d is %+v, %v; want %s, with a record, a reason, or the mark overdue", p.Number, w, err, want)
		}
	}
	if all, err := records.List(ctx, ""); err != nil || len(all) != len(codatAPI.Pushes()) {
		t.Errorf("there are %d records, %v; want one for each of %d pushes", len(all), err, len(codatAPI.Pushes()))
	}
}

// checkSettled waits until all events are stored and worker-writes has settled them, and checks that each is stored once and
// done, and none is dead. An event that waited in a process when it was killed comes again after a minute, and one that says
// Pending waits for another.
func checkSettled(t testing.TB, js jetstream.JetStream, events int) {
	t.Helper()
	var stored uint64
	wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		st, err := js.Stream(ctx, source.Stream())
		if err == nil {
			stored = st.CachedInfo().State.Msgs
		}
		return err == nil && stored >= uint64(events)
	}, func() string { return fmt.Sprintf("%d of %d events are stored", stored, events) })
	for _, name := range []string{source.Stream(), source.ParkedStream()} {
		var says string
		wait(t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			pending, unacknowledged, err := streamtest.Left(ctx, js, name, writes.Name)
			says = fmt.Sprintf("%d pending, %d unacknowledged, error %v", pending, unacknowledged, err)
			return err == nil && pending == 0 && unacknowledged == 0
		}, func() string { return name + " is worked off: " + says })
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bucket, err := js.KeyValue(ctx, source.ClaimsBucket(writes.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	times := map[string]int{}
	if _, err := stream.Read(ctx, js, source.Stream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		times[m.Header.Get(stream.HeaderWebhookID)]++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(times) != events {
		t.Errorf("%d events are stored; want the %d that were sent", len(times), events)
	}
	for id, n := range times {
		if r, err := claimed.Get(ctx, claims.Key{WebhookID: id}); err != nil || r.State != claims.Done || n != 1 {
			t.Errorf("%s is stored %d times and %q, %v; want it stored once and done", id, n, r.State, err)
		}
	}
	if err := deadletter.List(ctx, js, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		t.Errorf("%s is dead: %s", l.WebhookID, l.LastError)
		return nil
	}); err != nil {
		t.Error(err)
	}
}
