//go:build faults

package stream_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// While events are published, the leader of their stream is killed and comes back: each event that was acknowledged is
// stored, once, and so is each other that is stored.
func TestFaults_LeaderIsKilledWhileEventsArePublished(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: c.URL}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc, stream.PublisherOptions{})

	var acked sync.Map // id -> sequence
	var count, failed atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("msg_%d_%d", w, i)
				m := event(t, id)
				r, err := p.Publish(within(t, patience), m) // the event is finished also when the test stops
				if err != nil {
					failed.Add(1)
					continue
				}
				acked.Store(id, r.Sequence)
				count.Add(1)
			}
		})
	}
	more := func(why string) {
		t.Helper()
		from := count.Load()
		streamtest.Wait(t, func() bool { return count.Load() >= from+200 }, why)
	}
	more("events are published")
	leader := c.LeaderOf("CODAT")
	c.Kill(leader)
	more("events are published without the leader")
	c.Restart(leader)
	c.WaitReady()
	more("events are published when it is back")
	stop()
	wg.Wait()
	c.WaitReady()

	seen := map[string]uint64{}
	each(t, c.JS, "CODAT", func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		id := m.Headers().Get(stream.HeaderWebhookID)
		if at, ok := seen[id]; ok {
			t.Errorf("%s is stored at %d and at %d", id, at, meta.Sequence.Stream)
		}
		seen[id] = meta.Sequence.Stream
	})
	acked.Range(func(id, at any) bool {
		if seen[id.(string)] != at.(uint64) {
			t.Errorf("%s was acknowledged at %d and is stored at %d", id, at, seen[id.(string)])
		}
		return true
	})
	t.Logf("%d events acknowledged, %d not, %d stored", count.Load(), failed.Load(), len(seen))
	if failed.Load() > 0 {
		t.Errorf("%d events were not acknowledged in %v", failed.Load(), patience)
	}
}

// A worker that provisions itself in a cluster, without replicas in its layout, makes no bucket that is lost with one node.
func TestFaults_NewBucketsHaveTheReplicasOfTheEvents(t *testing.T) {
	c := streamtest.NewCluster(t)
	streamtest.Provision(t, c.JS, stream.Layout{Source: streamtest.Source, Workers: []stream.WorkerSpec{{Name: "tested", State: []string{"things"}}}})
	for _, name := range []string{"CODAT_PARKED", "CODAT_DEAD", "KV_CODAT_claims_tested", "KV_CODAT_things", "KV_CODAT_workers"} {
		st, err := c.JS.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.CachedInfo().Config.Replicas; got != 3 {
			t.Errorf("%s has %d replicas; want 3", name, got)
		}
	}
}
