package stream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// slowConsumer is a consumer of all events whose deliveries come again after ten minutes, later than any test waits.
func slowConsumer(t *testing.T, js jetstream.JetStream, replicas int) jetstream.Consumer {
	t.Helper()
	c, err := js.CreateConsumer(within(t, patience), codatSource.Stream(), jetstream.ConsumerConfig{
		Durable: "slow", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * time.Minute, Replicas: replicas,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runPull runs a pull until the test ends.
func runPull(t *testing.T, c jetstream.Consumer, o stream.PullOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o.Return = func(m jetstream.Msg) { _ = m.Nak() }
	ended := make(chan error, 1)
	go func() { ended <- stream.NewPull(c, o).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// The connection is made again while all slots are taken and the client holds deliveries. None of them is dropped, to come
// again only after AckWait.
func TestPull_KeepsDeliveriesWhenTheConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	const events, slots, reconnects = 60, 4, 4
	s := streamtest.New(t)
	for i := range events {
		putWrite(t, s.JS, fmt.Sprintf("msg_%d", i))
	}
	c := slowConsumer(t, s.JS, 0)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	permits := make(chan struct{})
	runPull(t, c, stream.PullOptions{Slots: slots, Begin: func(ctx context.Context, m jetstream.Msg, done func()) {
		meta, err := m.Metadata()
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		seen[meta.Sequence.Stream] = true
		mu.Unlock()
		go func() {
			defer done()
			select {
			case <-permits:
				_ = m.Ack()
			case <-ctx.Done():
			}
		}()
	}})
	streamtest.Wait(t, func() bool { return count() == slots }, "all slots to be taken")
	for i := range reconnects {
		// A delivery that is on its way when the connection ends is lost: the server sends nothing more once the client holds as
		// many as it asks for, one of them in its hands.
		streamtest.Wait(t, func() bool {
			info, err := c.Info(t.Context())
			return err == nil && info.NumWaiting == 0 && info.NumAckPending > slots+slots/2+1
		}, "the client to hold what it asks for")
		if err := s.NC.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
		if err := s.NC.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		streamtest.Wait(t, func() bool { return s.NC.Stats().Reconnects >= uint64(i+1) && s.NC.IsConnected() }, "the connection to be made again")
	}
	for i := range events {
		permits <- struct{}{}
		streamtest.Wait(t, func() bool { return count() >= min(slots+i+1, events) }, fmt.Sprintf("event %d to be taken", slots+i+1))
	}
}

// A request that the server has lost is noticed soon.
func TestPull_AsksForAHeartbeatEverySecond(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	pulls, err := s.NC.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.>")
	if err != nil {
		t.Fatal(err)
	}
	runPull(t, slowConsumer(t, s.JS, 0), stream.PullOptions{Begin: func(_ context.Context, _ jetstream.Msg, done func()) { done() }})
	m, err := pulls.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := decodePull(t, m.Data); got != time.Second {
		t.Errorf("a pull asks for a heartbeat every %v; want %v", got, time.Second)
	}
}

func decodePull(t *testing.T, request []byte) time.Duration {
	t.Helper()
	var pull struct {
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}
	if err := json.Unmarshal(request, &pull); err != nil {
		t.Fatal(err)
	}
	return pull.Heartbeat
}
