package inspect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const source = streamtest.Source

var bookkeeper = stream.WorkerSpec{Name: "bookkeeper", Types: []codat.Pattern{"company.*"}}

// mustCollect collects until no request took too long, and everything must answer.
func mustCollect(t testing.TB, c *Collector) Snapshot {
	t.Helper()
	s, err := c.Collect(t.Context())
	for errors.Is(err, context.DeadlineExceeded) && t.Context().Err() == nil {
		s, err = c.Collect(t.Context())
	}
	if err != nil || !s.Complete {
		t.Fatalf("Collect = complete %t, %v", s.Complete, err)
	}
	return s
}

// stream returns the state of a stream; the zero value when the snapshot does not have it.
func (s Snapshot) stream(name string) Stream {
	for _, st := range s.Streams {
		if st.Name == name {
			return st
		}
	}
	return Stream{}
}

// publish stores an empty message on a subject of the source.
func publish(t testing.TB, js jetstream.JetStream, subject string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, nil); err != nil {
		t.Fatal(err)
	}
}

// The oldest unsettled event is the first one after those that are settled without a gap, of those that the consumer takes.
func TestCollector_FindsOldestUnsettledEvent(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, bookkeeper)
	for _, typ := range []string{"company.created", "invoices.write.successful", "company.deleted", "company.created", "company.deleted"} {
		publish(t, s.JS, "codat.events."+typ)
	}
	taken := fetch(t, s.JS, bookkeeper.Name, 4)
	settle := func(i int) {
		t.Helper()
		if err := taken[i].DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c := NewCollector(s.JS, source)
	oldest := func(want uint64) {
		t.Helper()
		mustCollect(t, c)
		if got := c.oldest[bookkeeper.Name].sequence; got != want {
			t.Errorf("the oldest unsettled event is %d; want %d", got, want)
		}
	}
	oldest(1)
	settle(2) // sequence 4
	oldest(1)
	settle(0) // sequence 1
	oldest(3)
	oldest(3)
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	oldest(5)
	settle(3) // sequence 5
	for _, got := range mustCollect(t, c).Consumers {
		if got.Stream == source.Stream() && (got.OldestUnsettled == nil || *got.OldestUnsettled != 0) {
			t.Errorf("after all is settled, the oldest unsettled event is %v old; want 0", got.OldestUnsettled)
		}
	}
}

// A consumer that was made again has not settled what the earlier one had.
func TestCollector_ForgetsThePlaceOfADeletedConsumer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, bookkeeper)
	for range 3 {
		publish(t, s.JS, "codat.events.company.created")
	}
	for _, m := range fetch(t, s.JS, bookkeeper.Name, 2) {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c := NewCollector(s.JS, source)
	mustCollect(t, c)
	if got := c.oldest[bookkeeper.Name].sequence; got != 3 {
		t.Fatalf("the oldest unsettled event is %d; want 3", got)
	}
	if err := s.JS.DeleteConsumer(t.Context(), source.Stream(), bookkeeper.Name); err != nil {
		t.Fatal(err)
	}
	all := bookkeeper
	all.Begin = stream.BeginAll()
	streamtest.Provision(t, s.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{all}})
	mustCollect(t, c)
	if got := c.oldest[bookkeeper.Name].sequence; got != 1 {
		t.Errorf("the oldest unsettled event of the new consumer is %d; want 1", got)
	}
}

// fetch returns the next messages of a worker's consumer.
func fetch(t testing.TB, js jetstream.JetStream, worker string, n int) []jetstream.Msg {
	t.Helper()
	cons, err := js.Consumer(t.Context(), source.Stream(), worker)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(n, jetstream.FetchMaxWait(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	for m := range batch.Messages() {
		all = append(all, m)
	}
	if len(all) != n {
		t.Fatalf("fetched %d messages; want %d: %v", len(all), n, batch.Error())
	}
	return all
}

func TestCollector_ReportsMissingStream(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	c := NewCollector(s.JS, source)
	mustCollect(t, c)
	for _, name := range []string{source.ParkedStream(), source.Stream()} {
		if err := s.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Collect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "stream CODAT does not exist: run headgate provision") {
		t.Errorf("Collect = %v; want the missing stream and the cure", err)
	}
	if got.Complete || !got.stream(source.DeadStream()).HasLeader || got.Quarantined != nil {
		t.Errorf("Collect = %+v; want the other streams, incomplete, without the quarantine", got)
	}

	s.Stop()
	streamtest.Wait(t, func() bool { return !s.NC.IsConnected() }, "the connection is lost")
	got, err = c.Collect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not connected to NATS") || len(got.Streams) != 0 {
		t.Errorf("Collect without a server = %+v, %v; want an empty snapshot and the reason", got, err)
	}
	s.Start()
	streamtest.Wait(t, s.NC.IsConnected, "the connection is back")
}

// Before the first event, the time since the stream was made is all that is known of a silence.
func TestCollector_KnowsWhenAnEmptyStreamWasMade(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	got := mustCollect(t, NewCollector(s.JS, source))
	if got.Created.IsZero() || time.Since(got.Created) > time.Hour || !got.LastEvent.IsZero() {
		t.Errorf("the stream was made at %v and has an event of %v; want today, and none", got.Created, got.LastEvent)
	}
}

func TestCollector_OwnsStreamsOfItsSource(t *testing.T) {
	t.Parallel()
	c := NewCollector(nil, source)
	for name, want := range map[string]bool{
		"CODAT": true, "CODAT_DEAD": true, "CODAT_PARKED": true, "CODAT_OPERATOR": true, "KV_CODAT_workers": true,
		"KV_CODAT_claims_writes": true, "CODAT_EU": false, "CODAT_EU_DEAD": false, "KV_CODAT_EU_workers": false,
		"KV_OTHER_workers": false, "KV_CODAT_": false, "ORDERS": false,
	} {
		if got := c.owns(name); got != want {
			t.Errorf("owns(%s) = %t; want %t", name, got, want)
		}
	}
}

func TestCollector_ReadsRealServer(t *testing.T) {
	t.Parallel()
	for _, always := range []bool{true, false} {
		t.Run(fmt.Sprintf("sync_always %t", always), func(t *testing.T) {
			t.Parallel()
			s, err := server.NewServer(&server.Options{
				ServerName: "nats-1", Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: -1,
				JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 20, SyncAlways: always, NoLog: true, NoSigs: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
			if !s.ReadyForConnections(30 * time.Second) {
				t.Fatal("the server does not start")
			}
			now := new(collection)
			c := NewCollector(nil, source)
			if err := c.server(t.Context(), now, "http://"+s.MonitorAddr().String()); err != nil {
				t.Fatal(err)
			}
			got := now.s.Servers[0]
			if got.Name != "nats-1" || !got.Answered || !*got.Healthy || got.Problem != "" || *got.SyncAlways != always || *got.Storage != 0 || *got.MaxStorage != 1<<20 {
				t.Errorf("the server is %+v", got)
			}

			// As a server does when its disk is full. It stays so when the disk has room again.
			if err := s.DisableJetStream(); err != nil {
				t.Fatal(err)
			}
			if err := c.server(t.Context(), now, "http://"+s.MonitorAddr().String()); err != nil {
				t.Fatal(err)
			}
			if got := now.s.Servers[1]; !got.Answered || *got.Healthy || !strings.Contains(got.Problem, "JetStream") {
				t.Errorf("with its JetStream disabled the server is %+v; want it not healthy, and why", got)
			}
		})
	}
}

func TestInstances_AreSortedAndReadWhole(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for _, key := range []string{"b.1", "a.2", "a.1"} {
		worker, instance, _ := strings.Cut(key, ".")
		if _, err := s.JS.Publish(t.Context(), instanceSubject(source, key), []byte(fmt.Sprintf(`{"worker":%q,"instance":%q}`, worker, instance))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Instances(t.Context(), s.JS, source)
	var got []string
	for _, i := range all {
		got = append(got, i.Worker+"."+i.Instance)
	}
	if err != nil || strings.Join(got, " ") != "a.1 a.2 b.1" {
		t.Errorf("Instances = %q, %v; want a.1 a.2 b.1", got, err)
	}
}

// A worker whose consumer was deleted keeps a series, so that an alert can see it.
func TestCollector_ReportsDeletedConsumer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, bookkeeper)
	c := NewCollector(s.JS, source)
	mustCollect(t, c)
	for i, name := range []string{source.Stream(), source.ParkedStream()} {
		if err := s.JS.DeleteConsumer(t.Context(), name, bookkeeper.Name); err != nil {
			t.Fatal(err)
		}
		got, err := c.Collect(t.Context())
		if err == nil || got.Complete || !strings.Contains(err.Error(), "consumer bookkeeper of "+name+" does not exist: run headgate provision") {
			t.Errorf("Collect = complete %t, %v; want the consumer of %s, and the cure", got.Complete, err, name)
		}
		missing := 0
		for _, one := range got.Consumers {
			if one.Missing && one.Name == bookkeeper.Name && !one.HasLeader {
				missing++
			}
		}
		if missing != i+1 || len(got.Consumers) != 2 || len(got.Workers) != 1 || len(got.DeadLetters) != 1 {
			t.Errorf("the snapshot has %+v, workers %+v and dead letters %+v; want the worker, with %d consumers missing", got.Consumers, got.Workers, got.DeadLetters, i+1)
		}
	}
	if got, _ := c.Collect(t.Context()); got.leaderless() {
		t.Error("a consumer that does not exist is taken for one without a leader")
	}
	streamtest.Provision(t, s.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{bookkeeper}})
	mustCollect(t, c)
}
