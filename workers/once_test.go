package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// fallibleStore is a Store whose answers can be lost, before or after the store carried the request out.
type fallibleStore struct {
	claims.Store
	takeLost  atomic.Int64 // answers of Take that are lost although the claim is taken
	saveFails atomic.Bool  // Save does not reach the store
}

func (s *fallibleStore) Take(ctx context.Context, k claims.Key, t claims.TakeRequest) (claims.Claim, error) {
	claim, err := s.Store.Take(ctx, k, t)
	if s.takeLost.Add(-1) >= 0 {
		return claims.Claim{}, fmt.Errorf("%w: %w", claims.ErrUnanswered, errBoom)
	}
	return claim, err
}

func (s *fallibleStore) Save(ctx context.Context, c claims.Claim) (claims.Claim, error) {
	if s.saveFails.Load() {
		return c, errBoom
	}
	return s.Store.Save(ctx, c)
}

// newFallibleFixture is newFixture with a fallible Store over the worker's bucket.
func newFallibleFixture(t *testing.T, w Worker, act func(context.Context, write) error) (*fixture, *fallibleStore) {
	r := newFixture(t, w, act)
	s := &fallibleStore{Store: r.claims()}
	r.worker.Claims = s
	return r, s
}

// A handler that has succeeded does not run again in its process while the claim cannot be saved, although its lease is over.
func TestPromise5_SuccessIsKeptWhileItsClaimCannotBeSaved(t *testing.T) {
	ran := make(chan struct{}, 9)
	r, s := newFallibleFixture(t, Worker{AckWait: time.Second}, func(context.Context, write) error {
		ran <- struct{}{}
		return nil
	})
	s.saveFails.Store(true)
	r.post("msg_1")
	r.start()
	<-ran
	k := claims.Key{WebhookID: "msg_1"}
	record := r.record(k)
	record.LeaseUntil = time.Now().Add(-time.Hour)
	r.setRecord(k, record)
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumRedelivered > 0
	}, "the event to be delivered again")
	s.saveFails.Store(false)
	r.waitState("msg_1", claims.Done)
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 {
		t.Errorf("the handler ran %d times; want once", runs)
	}
}

// An attempt that never ran because the answer of Take was lost does not count, also with one attempt and after the lease.
func TestPromise6_UnansweredTakeCountsNoAttempt(t *testing.T) {
	r, s := newFallibleFixture(t, Worker{Attempts: 1, AckWait: time.Second, pauses: quickPauses}, succeed)
	s.takeLost.Store(200) // more than one delivery asks for
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Done)
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 || r.state("msg_1") != claims.Done || len(r.letters()) != 0 {
		t.Errorf("%d runs, state %s, %d dead letters; want one run, done and none", runs, r.state("msg_1"), len(r.letters()))
	}
	if got := r.record(claims.Key{WebhookID: "msg_1"}).Attempts; got != 1 {
		t.Errorf("%d attempts count; want 1", got)
	}
}

// again lets the worker, which has stopped, get all events as if it had never had one, within the deduplication window of its
// parked copies and dead letters.
func (r *fixture) again() {
	r.Helper()
	ctx := context.Background()
	for _, name := range []string{source.ParkedStream(), source.DeadStream(), "KV_" + source.ClaimsBucket("tested")} {
		st, err := r.JS.Stream(ctx, name)
		if err == nil {
			err = st.Purge(ctx)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	if err := r.JS.DeleteConsumer(ctx, source.Stream(), "tested"); err != nil {
		r.Fatal(err)
	}
	streamtest.Provision(r, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{r.worker.Spec()}})
}

// messages returns the number of messages in a stream.
func (r *fixture) messages(name string) uint64 {
	r.Helper()
	st, err := r.JS.Stream(context.Background(), name)
	if err != nil {
		r.Fatal(err)
	}
	return st.CachedInfo().State.Msgs
}

// A copy or letter whose id the server remembers, and which is no longer stored, is stored again.
func TestPromise6_NothingIsSettledByAMessageThatIsGone(t *testing.T) {
	for _, tt := range []struct {
		name, stream string
		err          error
		state        claims.State
	}{
		{"parked copy", source.ParkedStream(), RetryAfter(time.Hour, errBoom), claims.Parked},
		{"dead letter", source.DeadStream(), Permanent(errBoom), claims.Dead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{}, func(context.Context, write) error { return tt.err })
			r.post("msg_1")
			stop := r.start()
			r.waitState("msg_1", tt.state)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			r.again()
			r.start()
			r.waitState("msg_1", tt.state)
			if got := r.messages(tt.stream); got != 1 {
				t.Errorf("%s holds %d messages; want 1", tt.stream, got)
			}
		})
	}
}

// An event that another publisher stored, without a webhook-id, is not taken for the one that had its sequence in a stream that
// was deleted.
func TestPromise6_EventWithoutAnIDIsHandledAfterItsStreamWasMadeAgain(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	run := func(runs int) {
		t.Helper()
		if _, err := r.JS.Publish(t.Context(), "codat.events.bills.write.successful", []byte(`{"payload":{}}`)); err != nil {
			t.Fatal(err)
		}
		stop := r.start()
		streamtest.Wait(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.runs) >= runs }, "the handler to run")
		r.waitQuiet()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	run(1)
	if err := r.JS.DeleteStream(t.Context(), source.Stream()); err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{r.worker.Spec()}})
	run(2)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.runs) != 2 {
		t.Errorf("the handler ran %d times; want once for each of the 2 events", len(r.runs))
	}
}

// An event near the size limit of the server, whose letter or copy is over it, ends all the same.
func TestPromise6_EventTooLargeForItsLetterEnds(t *testing.T) {
	long := errors.New(strings.Repeat("no ", 300))
	for _, tt := range []struct {
		name   string
		left   int // of the server's limit, by the event
		err    error
		noBody bool
	}{
		{"with its errors", 1500, Permanent(long), false},
		{"with its body", 10, Permanent(long), true},
		{"and cannot be parked", 10, RetryAfter(time.Second, long), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{Attempts: 2, ParkAfter: time.Millisecond}, func(context.Context, write) error { return tt.err })
			body := func(n int) []byte {
				return []byte(`{"eventType":"bills.write.successful","payload":{"id":"` + strings.Repeat("x", n) + `"}}`)
			}
			m, err := source.Message(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "bills.write.successful"}, Received: time.Now()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			m.Data = body(int(r.NC.MaxPayload()) - headerSize(m.Header) - len(body(0)) - tt.left)
			if _, err := r.JS.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			r.start()
			r.waitState("msg_1", claims.Dead)
			letters := r.letters()
			if len(letters) != 1 || letters[0].NoBody != tt.noBody || letters[0].NoBody == (len(letters[0].Body) > 0) {
				t.Fatalf("%d letters, first without body: %v; want one, without: %v", len(letters), len(letters) > 0 && letters[0].NoBody, tt.noBody)
			}
		})
	}
}

// headerSize is the number of bytes that a message's headers take.
func headerSize(h nats.Header) int {
	n := len("NATS/1.0\r\n\r\n")
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(": ") + len(v) + len("\r\n")
		}
	}
	return n
}

func TestClockDiffers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		local time.Time
		want  string
	}{
		{now.Add(time.Second), ""},
		{now.Add(-2 * time.Second), ""},
		{now.Add(time.Hour), "it is 1h0m0s ahead"},
		{now.Add(-time.Minute), "it is 1m0s behind"},
	} {
		err := clockDiffers(now, tt.local)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v off: %v; want %q", tt.local.Sub(now), err, tt.want)
		}
	}
	if err := clockDiffers(time.Time{}, now); err != nil {
		t.Errorf("a server that gives no time: %v; want nil", err)
	}
}
