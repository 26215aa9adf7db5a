package workers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Four replicas of an ordered worker, of which one is stopped and started again all the time, and a fifth has died, run handlers
// that fail at random: for good, for a while, for longer than an event stays on its consumer, and for want of what they call.
func TestOrdered_EachEventBeginsWhenTheOneBeforeIsSettled(t *testing.T) {
	const events, replicas = 60, 4
	var mu sync.Mutex
	var order []string // of the events, each when its last attempt began
	running, most := 0, 0
	act := func(_ context.Context, e write) error {
		mu.Lock()
		running++
		most = max(most, running)
		if n := len(order); n == 0 || order[n-1] != e.WebhookID {
			order = append(order, e.WebhookID)
		}
		mu.Unlock()
		defer func() {
			mu.Lock()
			running--
			mu.Unlock()
		}()
		switch chance := rand.IntN(10); {
		case chance == 0:
			return Permanent(errBoom)
		case chance < 3:
			return errBoom
		case chance == 3:
			return RetryAfter(20*time.Millisecond, errBoom)
		case chance == 4:
			return Unavailable(errBoom)
		}
		return nil
	}
	r := newFixture(t, Worker{Ordered: true, AckWait: time.Second, Attempts: 3, ParkAfter: 5 * time.Millisecond}, act)
	for i := range events {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	r.next(source.Stream()) // by a process that dies then
	for range replicas - 1 {
		r.start()
	}
	last := claims.Key{WebhookID: fmt.Sprintf("msg_%d", events-1)}
	streamtest.Wait(t, func() bool {
		if err := r.start()(); err != nil {
			t.Error(err)
		}
		state := r.record(last).State
		return state == claims.Done || state == claims.Dead
	}, "the last event to be settled")
	r.waitQuiet()

	mu.Lock()
	defer mu.Unlock()
	want := make([]string, events)
	for i := range want {
		want[i] = fmt.Sprintf("msg_%d", i)
	}
	if !slices.Equal(order, want) || most != 1 {
		t.Errorf("%d at once, in the order %v; want one at once, in the order in which they were stored", most, order)
	}
}

// A worker that has been made ordered does not start with the consumer of one that was not, and says how to change it.
func TestOrdered_RefusesAConsumerWithMorePlaces(t *testing.T) {
	r := newFixture(t, Worker{}, nil)
	w := r.worker
	w.Ordered = true
	s := Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}
	err := Run(t.Context(), s, process.New("tested", zap.NewNop()), w, func(context.Context, Parts) (Worker, error) { return w, nil })
	if !errors.Is(err, stream.ErrDrift) || !strings.Contains(err.Error(), "max ack pending is 5000, this version needs 1") {
		t.Errorf("Run = %v; want ErrDrift and the setting", err)
	}
}

// An ordered worker says so when another version of it, which is not ordered, has provisioned its consumer.
func TestOrdered_IsUnreadyOnceItsConsumerHasMorePlaces(t *testing.T) {
	r := newFixture(t, Worker{Ordered: true}, nil)
	p := process.New("tested", zap.NewNop())
	runner := r.runner(&crashingProcess{})
	runner.nc = r.NC
	events, parked, err := stream.Bind(t.Context(), r.JS, source, r.worker.Spec())
	if err != nil {
		t.Fatal(err)
	}
	runner.addChecks(p.Health, r.JS, events, parked)
	streamtest.Wait(t, func() bool { return p.Health.Ready() == nil }, "ready with everything in place")
	other := r.worker
	other.Ordered = false
	if _, err := stream.Provision(t.Context(), r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{other.Spec()}}, false); err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool {
		err := p.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "events: worker tested is ordered, and its consumer delivers up to 5000 events at once")
	}, "unready for the order")
}
