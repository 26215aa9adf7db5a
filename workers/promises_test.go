package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// undelayedMsg is a delivery whose NAKs have no delay. It records the delays.
type undelayedMsg struct {
	jetstream.Msg
	waits *[]time.Duration
}

func (m undelayedMsg) NakWithDelay(d time.Duration) error {
	*m.waits = append(*m.waits, d)
	return m.Nak()
}

// newProcess returns a runner with an instance of its own, over c.
func (r *fixture) newProcess(c *crashingProcess) *runner {
	r.Helper()
	run := r.runner(c)
	run.instance = nuid.Next()
	return run
}

// deliver handles the next delivery in a process that does not die, and returns the outcome.
func (r *fixture) deliver(waits *[]time.Duration) outcome {
	r.Helper()
	return r.newProcess(&crashingProcess{}).deliver(undelayedMsg{r.next(source.Stream()), waits})
}

// fillStream makes a stream refuse messages until release is called.
func (r *fixture) fillStream(name string) (release func()) {
	r.Helper()
	st, err := r.JS.Stream(context.Background(), name)
	if err != nil {
		r.Fatal(err)
	}
	limit := st.CachedInfo().Config.MaxBytes
	set := func(bytes int64) {
		cfg := st.CachedInfo().Config
		cfg.MaxBytes = bytes
		if _, err := r.JS.UpdateStream(context.Background(), cfg); err != nil {
			r.Fatal(err)
		}
	}
	set(1)
	return func() { set(limit) }
}

// postBytes stores a body as it is.
func (r *fixture) postBytes(id, typ string, body []byte) {
	r.Helper()
	m, err := source.Message(stream.Stored{ID: id, Head: codat.Head{Type: typ}, Received: time.Now()}, body)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		r.Fatal(err)
	}
}

// The handler, the parked copy and the dead letter have the bytes of the request.
func TestPromise4_WorkersChangeNoByte(t *testing.T) {
	body := []byte(" {\r\n\t\"eventType\" : \"bills.write.successful\", \"payload\":{ \"id\":\"\\u00e9\", \"n\":1.0e+2 } }\n\n")
	var mu sync.Mutex
	var got [][]byte
	r := newFixture(t, Worker{ParkAfter: 50 * time.Millisecond}, func(_ context.Context, e write) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e.Body)
		if e.Attempt == 1 {
			return RetryAfter(200*time.Millisecond, errBoom)
		}
		return Permanent(errBoom)
	})
	r.postBytes("msg_1", "bills.write.successful", body)
	r.start()
	r.waitState("msg_1", claims.Dead)
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 {
		t.Fatalf("%d runs; want the event's and its parked copy's", len(got))
	}
	for i, b := range got {
		if string(b) != string(body) {
			t.Errorf("run %d got %q; want it as it came: %q", i+1, b, body)
		}
	}
	letters := r.letters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters; want 1", len(letters))
	}
	if b := letters[0].Body; string(b) != string(body) {
		t.Errorf("the dead letter has %q; want it as it came: %q", b, body)
	}
}

// The claim is renewed for as long as the handler runs, so that no other process can take the event over.
func TestPromise5_LongAttemptRenewsItsClaim(t *testing.T) {
	release := make(chan struct{})
	r := newFixture(t, Worker{AckWait: time.Second, Timeout: time.Minute}, func(ctx context.Context, _ write) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Running)
	first := r.record(claims.Key{WebhookID: "msg_1"}).LeaseUntil
	streamtest.Wait(t, func() bool {
		return r.record(claims.Key{WebhookID: "msg_1"}).LeaseUntil.After(first.Add(time.Second))
	}, "the lease to be renewed")
	close(release)
	r.waitState("msg_1", claims.Done)
	if got := r.record(claims.Key{WebhookID: "msg_1"}).Attempts; got != 1 {
		t.Errorf("%d attempts; want 1", got)
	}
}

// While the stream of the dead letters is full, the event waits. It does not run again, and it is not dead before its
// letter is stored.
func TestPromise6_DeadOnlyAfterTheLetterIsStored(t *testing.T) {
	r := newFixture(t, Worker{}, fail)
	release := r.fillStream(source.DeadStream())
	r.post("msg_1")

	var waits []time.Duration
	for range 2 {
		if got := r.deliver(&waits); got != retry {
			t.Errorf("with a full archive the event's outcome is %s; want %s", got, retry)
		}
		if got := r.state("msg_1"); got != claims.Burying {
			t.Errorf("with a full archive the event is %q; want %s", got, claims.Burying)
		}
	}
	if len(waits) != 2 || waits[0] != publishRefusedPause || waits[1] != publishRefusedPause {
		t.Errorf("it waits %v; want %v each time", waits, publishRefusedPause)
	}
	release()
	if got := r.deliver(&waits); got != dead {
		t.Errorf("with room in the archive the event's outcome is %s; want %s", got, dead)
	}
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 || r.state("msg_1") != claims.Dead || len(r.letters()) != 1 {
		t.Errorf("%d runs, state %s, %d letters; want 1, dead and 1", runs, r.state("msg_1"), len(r.letters()))
	}
}

// An event that cannot be parked waits a minute on the worker's own consumer, and the attempt is not counted.
func TestPromise6_EventWaitsInPlaceWhenParkingFails(t *testing.T) {
	r := newFixture(t, Worker{ParkAfter: time.Second, Attempts: 2}, func(context.Context, write) error {
		return RetryAfter(time.Hour, errBoom)
	})
	release := r.fillStream(source.ParkedStream())
	r.post("msg_1")

	var waits []time.Duration
	if got := r.deliver(&waits); got != retry {
		t.Errorf("with a full parking the event's outcome is %s; want %s", got, retry)
	}
	rec := r.record(claims.Key{WebhookID: "msg_1"})
	if rec.State != claims.Waiting || rec.Attempts != 0 || len(waits) != 1 || waits[0] != publishRefusedPause {
		t.Errorf("%s after %d attempts, and it waits %v; want waiting, 0 and %v", rec.State, rec.Attempts, waits, publishRefusedPause)
	}

	release()
	rec = r.record(claims.Key{WebhookID: "msg_1"})
	rec.Next = time.Now() // the minute is over
	r.setRecord(claims.Key{WebhookID: "msg_1"}, rec)
	if got := r.deliver(&waits); got != parked {
		t.Errorf("with room the event's outcome is %s; want %s", got, parked)
	}
	if rec := r.record(claims.Key{WebhookID: "msg_1"}); rec.State != claims.Parked || rec.Attempts != 1 {
		t.Errorf("%s after %d attempts; want parked after 1", rec.State, rec.Attempts)
	}
}

// All workers share the streams of parked events and of dead letters. When another worker has filled them, the events that can
// be done are done, and the others wait and count no attempt.
func TestPromise6_AnotherWorkerFillsTheSharedStreams(t *testing.T) {
	r := newFixture(t, Worker{ParkAfter: time.Second, Attempts: 2}, func(_ context.Context, e write) error {
		switch e.WebhookID {
		case "msg_parked":
			return RetryAfter(time.Hour, errBoom)
		case "msg_dead":
			return Permanent(errBoom)
		}
		return nil
	})
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, ParkedMaxBytes: 1 << 20, DeadMaxBytes: 1 << 20})
	for _, subject := range []string{source.ParkedSubject("another", "company.created"), source.DeadSubject("another", "company.created")} {
		var err error
		for size := 256 << 10; size > 0; size /= 2 { // until not even a small message fits
			for err = nil; err == nil; {
				_, err = r.JS.Publish(t.Context(), subject, make([]byte, size))
			}
		}
		var full *jetstream.APIError
		if !errors.As(err, &full) {
			t.Fatalf("publish to %s = %v; want the stream full", subject, err)
		}
	}
	r.start()
	for _, id := range []string{"msg_parked", "msg_dead", "msg_done"} {
		r.post(id)
	}
	r.waitState("msg_done", claims.Done)
	r.waitState("msg_parked", claims.Waiting)
	r.waitState("msg_dead", claims.Burying)
	if rec := r.record(claims.Key{WebhookID: "msg_parked"}); rec.Attempts != 0 {
		t.Errorf("the event that cannot be parked has counted %d attempts; want 0", rec.Attempts)
	}
}

// An event that kills every process that runs it becomes a dead letter when its attempts are used up.
func TestPromise6_CrashingEventBecomesADeadLetter(t *testing.T) {
	const attempts = 2
	r := newFixture(t, Worker{AckWait: time.Second, Attempts: attempts}, nil)
	c := &crashingProcess{}
	r.worker.Handlers = []Handler{Handle(codat.AnyWriteSuccessful, func(_ context.Context, e write) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.runs = append(r.runs, e)
		c.dead = true
		return nil
	})}
	r.post("msg_1")
	for died := range attempts {
		c.dead = false
		streamtest.Wait(t, func() bool {
			process := r.newProcess(c)
			c.Store = r.takeOverLeases(died)
			process.deliver(crashingMsg{undelayedMsg{r.next(source.Stream()), new([]time.Duration)}, c})
			return c.dead
		}, "the process to die")
	}
	r.takeOverLeases(attempts)
	r.start()
	r.waitState("msg_1", claims.Dead)
	r.waitQuiet()
	l := r.letters()
	if runs, _ := r.attempts("msg_1"); runs != attempts || len(l) != 1 {
		t.Fatalf("%d runs and %d letters; want %d and 1", runs, len(l), attempts)
	}
	if l[0].Cause != CauseCrash || l[0].Attempts != attempts || !strings.Contains(l[0].LastError, "never came to an end") {
		t.Errorf("letter %+v; want it to say %s after %d attempts", l[0], CauseCrash, attempts)
	}
}

// The limit of attempts was lowered below the attempts of an event: the cause is not a crash.
func TestExhausted_LowerLimitIsNoCrash(t *testing.T) {
	r := newFixture(t, Worker{Attempts: 2}, succeed)
	r.setRecord(claims.Key{WebhookID: "msg_1"}, claims.Record{
		State: claims.Waiting, Attempts: 5, FirstError: "the first", LastError: "the ledger is closed",
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Dead)
	if l := r.letters(); len(l) != 1 || l[0].Cause != CauseAttempts || l[0].Attempts != 5 || l[0].FirstError != "the first" || l[0].LastError != "the ledger is closed" {
		t.Errorf("letters %+v; want one with the cause %s and its errors", l, CauseAttempts)
	}
}

// An attempt whose lease ran out because the claims were unavailable is not counted if they are available again soon.
func TestPromise7_LostLeaseCountsNoAttempt(t *testing.T) {
	var ahead atomic.Int64 // of the clock: the lease is over when it is asked for
	r := newFixture(t, Worker{AckWait: 6 * time.Second}, func(ctx context.Context, _ write) error {
		ahead.Store(int64(time.Hour))
		<-ctx.Done()
		return ctx.Err()
	})
	r.post("msg_1")
	run := r.newProcess(&crashingProcess{})
	run.claims = &awayAtFirst{KV: r.claims(), saves: 2}
	run.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if got := run.deliver(undelayedMsg{r.next(source.Stream()), new([]time.Duration)}); got != leaseLost {
		t.Errorf("the event's outcome is %s; want %s", got, leaseLost)
	}
	if rec := r.record(claims.Key{WebhookID: "msg_1"}); rec.State != claims.Waiting || rec.Attempts != 0 {
		t.Errorf("%s after %d attempts; want waiting after none", rec.State, rec.Attempts)
	}
}

// awayAtFirst fails its first saves: a renewal, and the refund of the attempt.
type awayAtFirst struct {
	*claims.KV
	saves int
}

func (a *awayAtFirst) Save(ctx context.Context, c claims.Claim) (claims.Claim, error) {
	if a.saves--; a.saves >= 0 {
		return c, errClaims
	}
	return a.KV.Save(ctx, c)
}

// While the store of the claims does not answer, no handler runs and no event is settled.
func TestPromise5_NothingRunsWithoutAClaim(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	r.post("msg_1")
	run := r.newProcess(&crashingProcess{})
	run.claims = failingClaims{}
	var waits []time.Duration
	if got := run.deliver(undelayedMsg{r.next(source.Stream()), &waits}); got != claimError || len(waits) != 1 {
		t.Errorf("without claims the event's outcome is %s after waits %v; want %s after one", got, waits, claimError)
	}
	if runs, _ := r.attempts("msg_1"); runs != 0 {
		t.Errorf("%d runs without a claim; want none", runs)
	}
}

// failingClaims is a store that always fails.
type failingClaims struct{}

var errClaims = errors.New("the claims are away")

func (failingClaims) Take(context.Context, claims.Key, claims.TakeRequest) (claims.Claim, error) {
	return claims.Claim{Record: claims.Record{State: claims.Running, Attempts: 1}}, errClaims
}

func (failingClaims) Save(_ context.Context, c claims.Claim) (claims.Claim, error) {
	return c, fmt.Errorf("save: %w", errClaims)
}

func (failingClaims) Get(context.Context, claims.Key) (claims.Record, error) {
	return claims.Record{}, errClaims
}

// A stop at any moment of the start leaves no goroutine.
func TestPromise7_StopWhileConnectingLeavesNothingOpen(t *testing.T) {
	r := newSequentialFixture(t, Worker{}, succeed) // goleak would see the goroutines of other tests
	before := goleak.IgnoreCurrent()
	for moment := range 60 {
		stop := r.start()
		<-time.After(time.Duration(moment) * 100 * time.Microsecond)
		if err := stop(); err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	}
	streamtest.Wait(t, func() bool { return goleak.Find(before) == nil }, "nothing to run that did not run before")
}

// At a stop, a delivery that waits for its key returns to the stream at once and not after AckWait.
func TestPromise7_StopReturnsWaitingDeliveries(t *testing.T) {
	started, release := make(chan struct{}, 9), make(chan struct{})
	r := newFixture(t, Worker{
		AckWait: 10 * time.Minute,
		Key:     func(codat.Event[struct{}]) string { return "one at a time" },
	}, func(context.Context, write) error {
		started <- struct{}{}
		<-release
		return nil
	})
	const events = 5
	r.postAll("msg", events)
	stop := r.start()
	<-started
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumAckPending == events
	}, "all events to be taken")
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	streamtest.Wait(t, func() bool {
		// It pulls no more.
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumWaiting == 0
	}, "the process to stop")
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("Run = %v; want a clean stop", err)
	}
	r.start()
	for i := range events {
		r.waitState(fmt.Sprintf("msg_%d", i), claims.Done)
	}
}
