package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const day = 24 * time.Hour

var (
	connections = stream.WorkerSpec{
		Name:  "connections",
		Types: []codat.Pattern{"connection.connected", "connection.disconnected"},
		State: []string{"connections"},
		Begin: stream.BeginAll(),
	}
	writes = stream.WorkerSpec{
		Name:  "writes",
		Types: []codat.Pattern{"*.write.successful", "invoices.write.successful"},
		State: []string{"writes", "connections"},
	}
)

// actions is what a report says, without what is the same.
func actions(changes []stream.Change) map[string]stream.Action {
	m := map[string]stream.Action{}
	for _, c := range changes {
		if c.Action != stream.Same {
			m[c.Object] = c.Action
		}
	}
	return m
}

// change is the line of a report about an object.
func change(t testing.TB, changes []stream.Change, object string) stream.Change {
	t.Helper()
	for _, c := range changes {
		if c.Object == object {
			return c
		}
	}
	t.Fatalf("the report does not mention %s", object)
	return stream.Change{}
}

func provision(t testing.TB, s *streamtest.Server, p stream.Layout) []stream.Change {
	t.Helper()
	p.Source = codatSource
	return streamtest.Provision(t, s.JS, p)
}

func config(t testing.TB, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	st, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatalf("Stream(%s) = %v", name, err)
	}
	return st.CachedInfo().Config
}

func consumerConfig(t testing.TB, js jetstream.JetStream, name, consumer string) jetstream.ConsumerConfig {
	t.Helper()
	c, err := js.Consumer(t.Context(), name, consumer)
	if err != nil {
		t.Fatalf("Consumer(%s, %s) = %v", name, consumer, err)
	}
	return c.CachedInfo().Config
}

func TestProvision_CreatesLayout(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	plan := stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{connections, writes}}
	want := map[string]stream.Action{
		"stream CODAT": stream.Create, "stream CODAT_DEAD": stream.Create, "stream CODAT_PARKED": stream.Create,
		"stream CODAT_OPERATOR": stream.Create, "bucket CODAT_workers": stream.Create, "bucket CODAT_expected": stream.Create,
		"bucket CODAT_claims_connections": stream.Create, "bucket CODAT_claims_writes": stream.Create,
		"bucket CODAT_connections": stream.Create, "bucket CODAT_writes": stream.Create,
		"consumer connections on CODAT": stream.Create, "consumer connections on CODAT_PARKED": stream.Create,
		"consumer writes on CODAT": stream.Create, "consumer writes on CODAT_PARKED": stream.Create,
	}

	said, err := stream.Provision(within(t, patience), s.JS, plan, true)
	if err != nil {
		t.Fatalf("a dry Provision() = %v", err)
	}
	if diff := cmp.Diff(want, actions(said)); diff != "" {
		t.Errorf("a dry Provision() reports (-want +got):\n%s", diff)
	}
	if _, err := s.JS.Stream(t.Context(), "CODAT"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatalf("after a dry Provision() the stream is there, or: %v", err)
	}

	did := provision(t, s, plan)
	if diff := cmp.Diff(said, did); diff != "" {
		t.Errorf("Provision() reports other than its dry run (-dry +real):\n%s", diff)
	}
	if again := actions(provision(t, s, plan)); len(again) != 0 {
		t.Errorf("a second Provision() = %v; want nothing to do", again)
	}
	s.Restart()
	if again := actions(provision(t, s, plan)); len(again) != 0 {
		t.Errorf("Provision() after a restart = %v; want nothing to do", again)
	}
}

func TestProvision_Streams(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	type summary struct {
		Subjects   []string
		Retention  jetstream.RetentionPolicy
		Discard    jetstream.DiscardPolicy
		MaxAge     time.Duration
		Duplicates time.Duration
		MaxBytes   int64
		Compressed bool
	}
	for name, want := range map[string]summary{
		"CODAT": {
			[]string{"codat.events.>", "codat.quarantine", "codat.redrive.>"},
			jetstream.LimitsPolicy, jetstream.DiscardNew, 16 * day, 16 * day, 2 << 30, false,
		},
		"CODAT_DEAD":                  {[]string{"codat.dead.>"}, jetstream.LimitsPolicy, jetstream.DiscardNew, 90 * day, 90 * day, 256 << 20, false},
		"CODAT_PARKED":                {[]string{"codat.parked.>"}, jetstream.WorkQueuePolicy, jetstream.DiscardNew, 0, time.Hour, 256 << 20, false},
		"CODAT_OPERATOR":              {[]string{"codat.operator"}, jetstream.LimitsPolicy, jetstream.DiscardOld, 365 * day, 2 * time.Minute, 64 << 20, false},
		"KV_CODAT_workers":            {[]string{"$KV.CODAT_workers.>"}, jetstream.LimitsPolicy, jetstream.DiscardNew, time.Minute, time.Minute, 16 << 20, false},
		"KV_CODAT_claims_connections": {[]string{"$KV.CODAT_claims_connections.>"}, jetstream.LimitsPolicy, jetstream.DiscardNew, 23 * day, 2 * time.Minute, 512 << 20, false},
		"KV_CODAT_connections":        {[]string{"$KV.CODAT_connections.>"}, jetstream.LimitsPolicy, jetstream.DiscardNew, 0, 2 * time.Minute, 128 << 20, false},
	} {
		c := config(t, s.JS, name)
		got := summary{c.Subjects, c.Retention, c.Discard, c.MaxAge, c.Duplicates, c.MaxBytes, c.Compression == jetstream.S2Compression}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("stream %s differs (-want +got):\n%s", name, diff)
		}
		if c.Storage != jetstream.FileStorage || c.Replicas != 1 {
			t.Errorf("stream %s has storage %v and %d replicas; want files and 1", name, c.Storage, c.Replicas)
		}
	}
}

// A new state is kept as long as its worker says, and for ever when it does not; an operator changes that, and it stays. A
// state of two workers is kept for the longest.
func TestProvision_KeepsStatesAsLongAsSaid(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	keeps := func(ages ...time.Duration) map[string]time.Duration {
		all := map[string]time.Duration{}
		for i, age := range ages {
			all[string(rune('a'+i))] = age
		}
		return all
	}
	one := stream.WorkerSpec{Name: "one", Types: []codat.Pattern{"x"}, State: []string{"a", "b", "c"}, StateMaxAge: keeps(90*day, 90*day)}
	two := stream.WorkerSpec{Name: "two", Types: []codat.Pattern{"y"}, State: []string{"b", "a"}, StateMaxAge: keeps(100 * day)}
	layout := stream.Layout{Workers: []stream.WorkerSpec{one, two}}
	check := func(when string, want map[string]time.Duration) {
		t.Helper()
		for state, age := range want {
			if c := config(t, s.JS, "KV_CODAT_"+state); c.MaxAge != age {
				t.Errorf("%s the state %s is kept %v; want %v", when, state, c.MaxAge, age)
			}
		}
	}
	provision(t, s, layout)
	check("when it is new,", map[string]time.Duration{"a": 100 * day, "b": 0, "c": 0, "connections": 0})
	layout.StateMaxAge = map[string]time.Duration{"a": 0, "b": 30 * day}
	provision(t, s, layout)
	check("after an operator's change,", map[string]time.Duration{"a": 0, "b": 30 * day, "c": 0})
	layout.StateMaxAge = nil
	provision(t, s, layout)
	check("after another run,", map[string]time.Duration{"a": 0, "b": 30 * day, "c": 0})
}

// The defaults must fit a server that a laptop runs, with all the workers that Headgate has and some of one's own.
func TestProvision_DefaultsFitLaptop(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	var plan stream.Layout
	for i := range 12 {
		plan.Workers = append(plan.Workers, stream.WorkerSpec{Name: fmt.Sprintf("worker-%d", i), State: []string{fmt.Sprintf("state-%d", i)}})
	}
	provision(t, s, plan)
}

func TestProvision_Consumers(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections, writes, stream.WorkerSpec{
		Name: "late", Types: []codat.Pattern{"x"}, AckWait: 5 * time.Minute, MaxAckPending: 7, Begin: stream.BeginFrom(time.Unix(1700000000, 0)),
	})
	type summary struct {
		Filters       []string
		AckWait       time.Duration
		MaxAckPending int
		Deliver       jetstream.DeliverPolicy
	}
	for _, tt := range []struct {
		stream, consumer string
		want             summary
	}{
		{"CODAT", "connections", summary{
			[]string{"codat.events.connection.connected", "codat.events.connection.disconnected", "codat.redrive.connections.>"},
			time.Minute, 5000, jetstream.DeliverAllPolicy,
		}},
		{"CODAT_PARKED", "connections", summary{[]string{"codat.parked.connections.>"}, time.Minute, 20000, jetstream.DeliverAllPolicy}},
		{"CODAT", "writes", summary{[]string{"codat.events.*.write.successful", "codat.redrive.writes.>"}, time.Minute, 5000, jetstream.DeliverNewPolicy}},
		{"CODAT", "late", summary{[]string{"codat.events.x", "codat.redrive.late.>"}, 5 * time.Minute, 7, jetstream.DeliverByStartTimePolicy}},
		{"CODAT_PARKED", "late", summary{[]string{"codat.parked.late.>"}, 5 * time.Minute, 20000, jetstream.DeliverAllPolicy}},
	} {
		c := consumerConfig(t, s.JS, tt.stream, tt.consumer)
		got := summary{c.FilterSubjects, c.AckWait, c.MaxAckPending, c.DeliverPolicy}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("consumer %s on %s differs (-want +got):\n%s", tt.consumer, tt.stream, diff)
		}
		if c.AckPolicy != jetstream.AckExplicitPolicy || c.MaxDeliver != -1 || c.BackOff != nil || c.MaxWaiting != 2048 ||
			c.InactiveThreshold != 0 || c.Durable != tt.consumer || c.Metadata["owner"] != "headgate" {
			t.Errorf("consumer %s on %s = %+v", tt.consumer, tt.stream, c)
		}
	}
}

// A bucket is what nats.go makes, and what it opens.
func TestProvision_BucketsEqualThoseOfNATSClient(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	for bucket, ttl := range map[string]time.Duration{"CODAT_workers": time.Minute, "CODAT_claims_connections": 23 * day, "CODAT_connections": 0} {
		kv, err := s.JS.KeyValue(t.Context(), bucket)
		if err != nil {
			t.Fatalf("KeyValue(%s) = %v", bucket, err)
		}
		if _, err := kv.Create(t.Context(), "key", []byte("value")); err != nil {
			t.Errorf("Create() in %s = %v", bucket, err)
		}
		ours := config(t, s.JS, "KV_"+bucket)
		delete(ours.Metadata, "io.nats.monitor.enabled")
		if err := s.JS.DeleteKeyValue(t.Context(), bucket); err != nil {
			t.Fatal(err)
		}
		if _, err := s.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket, TTL: ttl, MaxBytes: ours.MaxBytes}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(config(t, s.JS, "KV_"+bucket), ours); diff != "" {
			t.Errorf("bucket %s differs from the client's (-client +ours):\n%s", bucket, diff)
		}
	}
}

func TestProvision_KeepsWhatLayoutLeavesOpen(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	limit(t, s, func(c *jetstream.StreamConfig) {
		c.MaxBytes = 5 << 30
		c.MaxAge, c.Duplicates = 20*day, 20*day
		c.Description = "ours"
		c.Metadata = map[string]string{"team": "payments", "io.nats.monitor.enabled": "false"}
	})
	changes := provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{connections}})
	if c := change(t, changes, "stream CODAT"); c.Action != stream.Same {
		t.Errorf("Provision() = %v; want what an operator set to stay", c)
	}
	if c := config(t, s.JS, "CODAT"); c.MaxBytes != 5<<30 || c.MaxAge != 20*day || c.Description != "ours" {
		t.Errorf("stream CODAT = %+v", c)
	}
	if c := config(t, s.JS, "KV_CODAT_claims_connections"); c.MaxAge != 27*day {
		t.Errorf("claims are kept %v; want 7 days longer than the events, which are kept 20", c.MaxAge)
	}
}

// An operator raises the max age with a layout that does not know every worker.
func TestProvision_ClaimsOfOtherWorkersOutliveTheEvents(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	streamtest.Provision(t, s.JS, stream.Layout{Source: "codat-uk", Workers: []stream.WorkerSpec{connections}})
	changes := provision(t, s, stream.Layout{MaxAge: 30 * day})
	if c := change(t, changes, "bucket CODAT_claims_connections"); c.Action != stream.Update {
		t.Errorf("Provision() = %v; want an update", c)
	}
	for name, want := range map[string]time.Duration{"KV_CODAT_claims_connections": 37 * day, "KV_CODAT_UK_claims_connections": 23 * day} {
		if c := config(t, s.JS, name); c.MaxAge != want {
			t.Errorf("%s keeps its claims %v; want %v", name, c.MaxAge, want)
		}
	}
	provision(t, s, stream.Layout{MaxAge: 20 * day})
	if c := config(t, s.JS, "KV_CODAT_claims_connections"); c.MaxAge != 37*day {
		t.Errorf("with a shorter max age the claims are kept %v; want 37 days still", c.MaxAge)
	}
}

func TestProvision_RaisesLimits(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	changes := provision(t, s, stream.Layout{MaxBytes: 3 << 30, MaxAge: 30 * day})
	want := stream.Change{Object: "stream CODAT", Action: stream.Update, Fields: []stream.Field{
		{Name: "max age", Have: "16d", Want: "30d"},
		{Name: "duplicate window", Have: "16d", Want: "30d"},
		{Name: "max bytes", Have: "2GiB", Want: "3GiB"},
	}}
	if diff := cmp.Diff(want, change(t, changes, "stream CODAT")); diff != "" {
		t.Errorf("Provision() differs (-want +got):\n%s", diff)
	}
	if r, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil || !r.Duplicate {
		t.Errorf("Publish() of the same id = %+v, %v; want it known still", r, err)
	}
}

func TestProvision_RefusesLosses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*testing.T, *streamtest.Server)
		plan    stream.Layout
		object  string
		says    string
	}{
		{
			"an age under that of what is stored",
			func(t *testing.T, s *streamtest.Server) {
				fill(t, s, 1)
				streamtest.Wait(t, func() bool { return oldest(t, s) > time.Second }, "the event is older than a second")
			},
			stream.Layout{MaxAge: time.Second},
			"stream CODAT", "would be deleted at once",
		},
		{
			"fewer bytes than are stored",
			func(t *testing.T, s *streamtest.Server) { fill(t, s, 1) },
			stream.Layout{MaxBytes: 100},
			"stream CODAT", "would refuse every new message",
		},
		{
			"subjects that would be taken away",
			func(t *testing.T, s *streamtest.Server) {
				limit(t, s, func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more.>") })
			},
			stream.Layout{},
			"stream CODAT", "no longer take more.>",
		},
		{
			"a consumer that is another service's",
			func(t *testing.T, s *streamtest.Server) {
				if _, err := s.JS.CreateConsumer(t.Context(), "CODAT", jetstream.ConsumerConfig{Durable: "connections"}); err != nil {
					t.Fatal(err)
				}
			},
			stream.Layout{Workers: []stream.WorkerSpec{connections}},
			"consumer connections on CODAT", "another service's",
		},
		{
			"filters of which the new ones cover only a part",
			func(t *testing.T, s *streamtest.Server) {
				provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{{Name: "w", Types: []codat.Pattern{"*.write.successful"}}}})
			},
			stream.Layout{Workers: []stream.WorkerSpec{{Name: "w", Types: []codat.Pattern{"invoices.write.*"}}}},
			"consumer w on CODAT", "overlap",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := streamtest.New(t)
			tt.prepare(t, s)
			tt.plan.Source = codatSource
			before := config(t, s.JS, "CODAT")

			changes, err := stream.Provision(within(t, patience), s.JS, tt.plan, false)
			if !errors.Is(err, stream.ErrRefused) || !strings.Contains(err.Error(), tt.object) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Provision() = %v; want it refused, naming %s and saying %q", err, tt.object, tt.says)
			}
			if c := change(t, changes, tt.object); c.Action != stream.Refuse {
				t.Errorf("Provision() reports %v; want it refused", c)
			}
			if diff := cmp.Diff(before, config(t, s.JS, "CODAT")); diff != "" {
				t.Errorf("a refused Provision() changed the stream:\n%s", diff)
			}

			tt.plan.AllowLoss = true
			if _, err := stream.Provision(within(t, patience), s.JS, tt.plan, false); err != nil {
				t.Fatalf("Provision() with the loss allowed = %v", err)
			}
			if again := actions(streamtest.Provision(t, s.JS, tt.plan)); len(again) != 0 {
				t.Errorf("Provision() after that = %v; want nothing to do", again)
			}
		})
	}
}

func TestProvision_NeverChangesRetention(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	if _, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CODAT", Subjects: []string{"codat.events.>"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
		t.Fatal(err)
	}
	for _, allow := range []bool{false, true} {
		changes, err := stream.Provision(within(t, patience), s.JS, stream.Layout{Source: codatSource, AllowLoss: allow}, false)
		if !errors.Is(err, stream.ErrRefused) || !strings.Contains(err.Error(), "nats stream rm CODAT") {
			t.Errorf("Provision() with the loss allowed %t = %v; want it refused, with a cure", allow, err)
		}
		if c := change(t, changes, "stream CODAT_DEAD"); c.Action == stream.Refuse {
			t.Errorf("Provision() = %v; want the rest carried out", c)
		}
	}
}

func TestProvision_KeepsFiltersOfOtherVersions(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	fewer := connections
	fewer.Types = connections.Types[:1]
	had := consumerConfig(t, s.JS, "CODAT", "connections").FilterSubjects

	c := change(t, provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{fewer}}), "consumer connections on CODAT")
	if c.Action != stream.Same || !strings.Contains(c.String(), "it keeps codat.events.connection.disconnected") {
		t.Errorf("Provision() of fewer filters = %v; want them kept, and said so", c)
	}
	if got := consumerConfig(t, s.JS, "CODAT", "connections").FilterSubjects; !slices.Equal(got, had) {
		t.Errorf("filters = %q; want %q", got, had)
	}
	if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, fewer); err != nil {
		t.Errorf("Bind() of the version with fewer = %v", err)
	}

	provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{fewer}, AllowLoss: true})
	if got, want := consumerConfig(t, s.JS, "CODAT", "connections").FilterSubjects, fewer.Filters(codatSource); !slices.Equal(got, want) {
		t.Errorf("filters with the loss allowed = %q; want %q", got, want)
	}
}

// With fewer places, what waits takes those of events that can run.
func TestProvision_KeepsHigherLimitOfPendingAcks(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	for _, name := range []string{"CODAT", "CODAT_PARKED"} {
		raised := consumerConfig(t, s.JS, name, "connections")
		raised.MaxAckPending = 50_000
		if _, err := s.JS.UpdateConsumer(t.Context(), name, raised); err != nil {
			t.Fatal(err)
		}
		object := "consumer connections on " + name
		c := change(t, provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{connections}}), object)
		if c.Action != stream.Same || !strings.Contains(c.String(), "it keeps max ack pending 50000") {
			t.Errorf("Provision() of a lower limit = %v; want it kept, and said so", c)
		}
		if got := consumerConfig(t, s.JS, name, "connections").MaxAckPending; got != 50_000 {
			t.Errorf("max ack pending = %d; want 50000", got)
		}
	}

	provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{connections}, AllowLoss: true})
	if got := consumerConfig(t, s.JS, "CODAT", "connections").MaxAckPending; got != stream.DefaultMaxAckPending {
		t.Errorf("max ack pending with the loss allowed = %d; want %d", got, stream.DefaultMaxAckPending)
	}
}

func TestProvision_NamesSkippedEventsOfWiderFilter(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, stream.WorkerSpec{Name: "w", Types: []codat.Pattern{"company.created"}, Begin: stream.BeginAll()})
	fill(t, s, 3)
	if _, err := s.JS.Publish(t.Context(), "codat.events.company.created", nil); err != nil {
		t.Fatal(err)
	}
	c, err := s.JS.Consumer(t.Context(), "CODAT", "w")
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}

	wider := stream.WorkerSpec{Name: "w", Types: []codat.Pattern{"company.created", "*.write.successful"}}
	got := change(t, provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{wider}}), "consumer w on CODAT")
	if got.Action != stream.Update || !strings.Contains(got.String(), "3 stored messages match codat.events.*.write.successful") || !strings.Contains(got.String(), "headgate replay --worker w") {
		t.Errorf("Provision() = %v; want the three events named, and a cure", got)
	}
}

func TestProvision_KeepsPlaceOfConsumer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	changed := connections
	changed.AckWait, changed.MaxAckPending, changed.Begin = 2*time.Minute, 9000, stream.BeginNew()
	c := change(t, provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{changed}}), "consumer connections on CODAT")
	want := []stream.Field{{Name: "ack wait", Have: "1m0s", Want: "2m0s"}, {Name: "max ack pending", Have: "5000", Want: "9000"}, {
		Name: "monitoring",
		Have: "enabled=true outstanding-ack-critical=4500 waiting-critical=1843", Want: "enabled=true outstanding-ack-critical=8100 waiting-critical=1843",
	}}
	if diff := cmp.Diff(want, c.Fields); diff != "" {
		t.Errorf("Provision() differs (-want +got):\n%s", diff)
	}
	if got := consumerConfig(t, s.JS, "CODAT", "connections").DeliverPolicy; got != jetstream.DeliverAllPolicy {
		t.Errorf("deliver policy = %v; want it as it was made", got)
	}
}

func TestProvision_DeletedConsumerSkipsNothing(t *testing.T) {
	srv := streamtest.New(t)
	store := func(id string) {
		t.Helper()
		if _, err := srv.JS.PublishMsg(t.Context(), event(t, id)); err != nil {
			t.Fatal(err)
		}
	}
	store("before_the_worker")
	layout := stream.Layout{Source: streamtest.Source, Workers: []stream.WorkerSpec{writes}}
	streamtest.Provision(t, srv.JS, layout)
	store("with_its_consumer")
	if err := srv.JS.DeleteConsumer(t.Context(), "CODAT", "writes"); err != nil {
		t.Fatal(err)
	}
	store("without_its_consumer")
	made := change(t, streamtest.Provision(t, srv.JS, layout), "consumer writes on CODAT")
	if len(made.Notes) != 1 || !strings.Contains(made.Notes[0], "headgate remove worker writes") {
		t.Errorf("the report says %q; want where it begins and how to begin elsewhere", made.Notes)
	}
	c, err := srv.JS.Consumer(t.Context(), "CODAT", "writes")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.CachedInfo().NumPending; got != 2 {
		t.Errorf("the new consumer has %d events to deliver; want the 2 since the worker was provisioned first", got)
	}
}

func TestProvision_Concurrently(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := stream.Provision(within(t, patience), s.JS, stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{connections, writes}}, false); err != nil {
				t.Errorf("Provision() = %v", err)
			}
		})
	}
	// Another version of a worker, at the same time: whichever comes last, the filters of both are there.
	more := connections
	more.Types = append(slices.Clone(more.Types), "connection.created")
	wg.Go(func() {
		if _, err := stream.Provision(within(t, patience), s.JS, stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{more}}, false); err != nil {
			t.Errorf("Provision() = %v", err)
		}
	})
	wg.Wait()
	for _, w := range []stream.WorkerSpec{connections, writes, more} {
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, w); err != nil {
			t.Errorf("Bind() = %v", err)
		}
	}
}

func TestProvision_ErrorsNameCure(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	plan := stream.Layout{Source: codatSource, MaxBytes: 1 << 50}
	if _, err := stream.Provision(within(t, patience), s.JS, plan, false); err == nil || !strings.Contains(err.Error(), "max_file_store") {
		t.Errorf("Provision() of more than the server has = %v; want it to name the setting", err)
	}
	plan = stream.Layout{Source: codatSource, Replicas: 3}
	if _, err := stream.Provision(within(t, patience), s.JS, plan, false); err == nil || strings.Count(err.Error(), "needs a cluster") != 1 {
		t.Errorf("Provision() of three replicas on one server = %v; want it to say what they need", err)
	}
	if _, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"codat.>"}}); err != nil {
		t.Fatal(err)
	}
	plan = stream.Layout{Source: codatSource}
	if _, err := stream.Provision(within(t, patience), s.JS, plan, false); err == nil || !strings.Contains(err.Error(), "another stream takes these subjects") {
		t.Errorf("Provision() beside a stream with the same subjects = %v; want it to say so", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := stream.Provision(ctx, s.JS, plan, false); !errors.Is(err, context.Canceled) {
		t.Errorf("Provision() of a process that is ending = %v; want Canceled", err)
	}
}

func TestLayout_Validate(t *testing.T) {
	t.Parallel()
	worker := func(w stream.WorkerSpec) stream.Layout {
		return stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{w}}
	}
	for _, tt := range []struct {
		name string
		plan stream.Layout
		says string
	}{
		{"no source", stream.Layout{}, "source"},
		{"a source whose streams are another's", stream.Layout{Source: "codat-dead"}, "collide"},
		{"too many replicas", stream.Layout{Source: codatSource, Replicas: 6}, "replicas"},
		{"a negative age", stream.Layout{Source: codatSource, MaxAge: -1}, "max age"},
		{"a negative limit", stream.Layout{Source: codatSource, DeadMaxBytes: -1}, "must not be negative"},
		{"a worker with a bad name", worker(stream.WorkerSpec{Name: "a.b"}), "a.b"},
		{"a worker twice", stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{connections, connections}}, "is there twice"},
		{"a type that is no subject", worker(stream.WorkerSpec{Name: "w", Types: []codat.Pattern{"two words"}}), "two words"},
		{"a type with a star in a part", worker(stream.WorkerSpec{Name: "w", Types: []codat.Pattern{"in*.write"}}), "whole part"},
		{"types of which neither contains the other", worker(stream.WorkerSpec{Name: "w", Types: []codat.Pattern{"*.write.successful", "invoices.write.*"}}), "overlap"},
		{"a state with a bad name", worker(stream.WorkerSpec{Name: "w", State: []string{"Writes"}}), "state"},
		{"a state that is Headgate's own bucket", worker(stream.WorkerSpec{Name: "w", State: []string{"workers"}}), "uses the name itself"},
		{"a state that is kept for a minute", worker(stream.WorkerSpec{Name: "w", State: []string{"s"}, StateMaxAge: map[string]time.Duration{"s": time.Minute}}), "at least 1h"},
		{"the max age of a state that nobody writes", stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{connections}, StateMaxAge: map[string]time.Duration{"writes": day}}, `no worker writes a state "writes"`},
		{"a negative ack wait", worker(stream.WorkerSpec{Name: "w", AckWait: -1}), "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.plan.Validate(); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Validate() = %v; want it to say %q", err, tt.says)
			}
			if _, err := stream.Provision(t.Context(), nil, tt.plan, false); err == nil {
				t.Error("Provision() = nil; want it refused before the server is asked")
			}
		})
	}
}

func TestBegin_String(t *testing.T) {
	t.Parallel()
	for b, want := range map[stream.Begin]string{
		{}:                "new",
		stream.BeginNew(): "new",
		stream.BeginAll(): "all",
		stream.BeginFrom(time.Unix(1700000000, 0)): "2023-11-14T22:13:20Z",
	} {
		if b.String() != want {
			t.Errorf("String() = %q; want %q", b.String(), want)
		}
	}
}

// fill stores events, as many as n.
func fill(t testing.TB, s *streamtest.Server, n int) {
	t.Helper()
	p := publisher(t, s.NC, stream.PublisherOptions{})
	for i := range n {
		if _, err := p.Publish(within(t, patience), event(t, fmt.Sprintf("msg_%d", i))); err != nil {
			t.Fatal(err)
		}
	}
}

// oldest is the age of the oldest event.
func oldest(t testing.TB, s *streamtest.Server) time.Duration {
	t.Helper()
	st, err := s.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(st.CachedInfo().State.FirstTime)
}

func TestEnsureProvisioned_LogsARefusalAndGoesOn(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	layout := stream.Layout{Source: codatSource, Replicas: 1, MaxBytes: 1 << 20, MaxAge: time.Second}
	if _, err := s.JS.UpdateStream(t.Context(), func() jetstream.StreamConfig {
		c := config(t, s.JS, "CODAT")
		c.Subjects = append(c.Subjects, "more.>")
		return c
	}()); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	if err := stream.EnsureProvisioned(within(t, patience), s.JS, layout, zap.New(core)); err != nil {
		t.Errorf("EnsureProvisioned() = %v; want a refusal to be no error", err)
	}
	if refused := logs.FilterMessage("provisioning refused").All(); len(refused) != 1 || refused[0].Level != zap.WarnLevel {
		t.Errorf("the log has %v; want one warning about the refusal", logs.All())
	}
	logs.TakeAll()
	layout = stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{connections}}
	if err := stream.EnsureProvisioned(within(t, patience), s.JS, layout, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	if made := logs.FilterMessage("provisioned").Len(); made == 0 {
		t.Error("the log does not say what was made")
	}
}
