package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var errBoom = errors.New("boom")

type write = codat.Event[codat.Write]

func succeed(context.Context, write) error { return nil }

func TestRun_HandlesAnEventOnce(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	seq := r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Done)
	r.waitQuiet()
	if runs, ok := r.attempts("msg_1"); runs != 1 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 1 and 1", runs, ok)
	}
	e := r.runs[0]
	if e.WebhookID != "msg_1" || e.Type != "invoices.write.successful" || e.Payload.ID != "push-msg_1" ||
		e.Sequence != seq || e.Attempt != 1 || e.Redrive != "" || e.Received.IsZero() || !strings.HasPrefix(string(e.Body), `{"id":"e-msg_1"`) {
		t.Errorf("the handler got %+v", e)
	}
}

// A check of the worker's program, which is added before Run, does not make the process ready.
func TestRun_IsNotReadyBeforeItsOwnChecks(t *testing.T) {
	t.Parallel()
	w := Worker{Name: "writer", Handlers: []Handler{Handle(codat.AnyWriteSuccessful, succeed)}}
	srv := streamtest.New(t, w.Spec())
	p := process.New(w.Name, zaptest.NewLogger(t))
	p.Health.Add("database", func(context.Context) error { return nil })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: time.Minute}
	err := Run(ctx, s, p, w, func(context.Context, Parts) (Worker, error) {
		if err := p.Health.Ready(); err == nil || !strings.Contains(err.Error(), "starting") {
			t.Errorf("while the worker is built, Ready() = %v; want an error that it starts", err)
		}
		stop()
		return w, nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRun_RetriesUntilSuccess(t *testing.T) {
	r := newFixture(t, Worker{Attempts: 5}, func(_ context.Context, e write) error {
		if e.Attempt < 4 {
			return fmt.Errorf("attempt %d: %w", e.Attempt, errBoom)
		}
		return nil
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Done)
	r.waitQuiet()
	if runs, ok := r.attempts("msg_1"); runs != 4 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 4 and 1", runs, ok)
	}
	if got := r.record(claims.Key{WebhookID: "msg_1"}).Attempts; got != 4 {
		t.Errorf("the claim counts %d attempts; want 4", got)
	}
}

func TestRun_FailingEventBecomesADeadLetter(t *testing.T) {
	began := time.Now().Add(-time.Second)
	for _, tt := range []struct {
		name     string
		act      func(context.Context, write) error
		attempts int
		cause    string
		first    string
		last     string
	}{
		{"when the attempts are used up", func(_ context.Context, e write) error { return fmt.Errorf("attempt %d", e.Attempt) }, 3, CauseAttempts, "attempt 1", "attempt 3"},
		{"at once when it is permanent", func(context.Context, write) error { return Permanent(errBoom) }, 1, CausePermanent, "boom", "boom"},
		{"when it panics", func(context.Context, write) error { panic("at the disco") }, 3, CauseAttempts, "panic: at the disco", "panic: at the disco"},
		{"when it never ends", func(ctx context.Context, _ write) error { <-ctx.Done(); return ctx.Err() }, 3, CauseAttempts, "deadline exceeded", "deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{Attempts: 3, Timeout: 200 * time.Millisecond}, tt.act)
			seq := r.post("msg_1")
			r.start()
			r.waitState("msg_1", claims.Dead)
			r.waitQuiet()
			letters := r.letters()
			if len(letters) != 1 {
				t.Fatalf("%d dead letters; want 1", len(letters))
			}
			l := letters[0]
			if l.Worker != "tested" || l.Type != "invoices.write.successful" || l.WebhookID != "msg_1" || l.Sequence != seq ||
				l.Cause != tt.cause || l.Attempts != tt.attempts || l.Host == "" ||
				!strings.Contains(l.FirstError, tt.first) || !strings.Contains(l.LastError, tt.last) ||
				l.FirstAttempt.Before(began) || l.LastAttempt.Before(l.FirstAttempt) || l.Buried.Before(began) {
				t.Errorf("letter %+v; want %d attempts, cause %s, errors %q and %q", l, tt.attempts, tt.cause, tt.first, tt.last)
			}
			if want := r.runs[0].Body; string(l.Body) != string(want) {
				t.Errorf("the letter's body is %q; want it as it came: %q", l.Body, want)
			}
		})
	}
}

func TestHandle_UndecodablePayloadIsADeadLetterAtOnce(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	m, err := source.Message(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "bills.write.successful"}, Received: time.Now()}, []byte(`{"eventType":"bills.write.successful","payload":["a secret"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitState("msg_1", claims.Dead)
	if l := r.letters()[0]; l.Cause != CausePermanent || l.Attempts != 1 || strings.Contains(l.LastError, "secret") {
		t.Errorf("letter %+v; want it permanent, after one attempt, and without the payload", l)
	}
}

// A process dies after each of its steps, and another one goes on. The handler runs twice only when the process dies between
// the effect and done; no event is lost or settled twice.
func TestPromise6_EveryEventIsSettledOnceAfterACrash(t *testing.T) {
	type want struct {
		state         claims.State
		runs, letters int
	}
	for _, tt := range []struct {
		step string
		act  func(context.Context, write) error
		want want
	}{
		{"claim", succeed, want{claims.Done, 1, 0}},
		{"effect", succeed, want{claims.Done, 2, 0}}, // the window that no broker closes: see pgclaims
		{"done", succeed, want{claims.Done, 1, 0}},
		{"ack", succeed, want{claims.Done, 1, 0}},
		{"waiting", failOnce(), want{claims.Done, 2, 0}},
		{"nak", failOnce(), want{claims.Done, 2, 0}},
		{"publish parked", parkOnce(), want{claims.Done, 2, 0}},
		{"parked", parkOnce(), want{claims.Done, 2, 0}},
		{"ack", parkOnce(), want{claims.Done, 2, 0}},
		{"burying", fail, want{claims.Dead, 1, 1}},
		{"publish dead", fail, want{claims.Dead, 1, 1}},
		{"dead", fail, want{claims.Dead, 1, 1}},
		{"ack", fail, want{claims.Dead, 1, 1}},
	} {
		t.Run("dies after "+tt.step, func(t *testing.T) {
			c := &crashingProcess{at: tt.step}
			crashing := true
			r := newFixture(t, Worker{AckWait: time.Second, ParkAfter: 100 * time.Millisecond}, func(ctx context.Context, e write) error {
				err := tt.act(ctx, e)
				if crashing && tt.step == "effect" {
					c.dead = true
				}
				return err
			})
			r.post("msg_1")
			m := r.next(source.Stream())
			r.runner(c).deliver(crashingMsg{m, c})
			if !c.dead {
				t.Fatalf("the process did not come to step %q", tt.step)
			}
			crashing = false

			r.takeOverLeases(1)
			r.start()
			r.waitState("msg_1", tt.want.state)
			r.waitQuiet()
			runs, _ := r.attempts("msg_1")
			if got := (want{r.state("msg_1"), runs, len(r.letters())}); got != tt.want {
				t.Errorf("state, runs, letters = %+v; want %+v", got, tt.want)
			}
		})
	}
}

func fail(context.Context, write) error { return Permanent(errBoom) }

func failOnce() func(context.Context, write) error {
	var n atomic.Int64
	return func(context.Context, write) error {
		if n.Add(1) == 1 {
			return errBoom
		}
		return nil
	}
}

func parkOnce() func(context.Context, write) error {
	var n atomic.Int64
	return func(context.Context, write) error {
		if n.Add(1) == 1 {
			return RetryAfter(300*time.Millisecond, errBoom)
		}
		return nil
	}
}

func TestWait_LongOneIsParkedAndBlocksNoOther(t *testing.T) {
	r := newFixture(t, Worker{ParkAfter: time.Second}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_slow" && e.Attempt == 1 {
			return RetryAfter(time.Hour, errBoom)
		}
		return nil
	})
	seq := r.post("msg_slow")
	r.start()
	r.waitState("msg_slow", claims.Parked)
	r.post("msg_next")
	r.waitState("msg_next", claims.Done)
	streamtest.WaitSettled(t, r.JS, source.Stream(), "tested") // the lag that an autoscaler reads is 0

	rec := r.record(claims.Key{WebhookID: "msg_slow"})
	if rec.Attempts != 1 || rec.Sequence != seq || time.Until(rec.Next) < 50*time.Minute {
		t.Errorf("parked record %+v; want one attempt and an hour's wait", rec)
	}
}

func TestLease_HandlerMayRunLongerThanAckWait(t *testing.T) {
	const ackWait = 2 * time.Second
	ended := make(chan struct{})
	r := newFixture(t, Worker{AckWait: ackWait}, func(ctx context.Context, _ write) error {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r.post("msg_1")
	r.start()
	k := claims.Key{WebhookID: "msg_1"}
	streamtest.Wait(t, func() bool { return r.state("msg_1") == claims.Running }, "the handler to run")
	first := r.record(k).LeaseUntil
	streamtest.Wait(t, func() bool { return r.record(k).LeaseUntil.Sub(first) > ackWait }, "the lease to be renewed for longer than the ack wait")
	close(ended)
	r.waitState("msg_1", claims.Done)
	r.waitQuiet()
	if runs, ok := r.attempts("msg_1"); runs != 1 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 1 and 1", runs, ok)
	}
}

// Another version of the worker may have provisioned the consumer, as before a rollback: leases, by which deliveries are extended,
// are as long as its ack wait.
func TestRun_KeepsTheAckWaitOfItsConsumer(t *testing.T) {
	for _, own := range []time.Duration{time.Minute, time.Second} {
		t.Run(own.String(), func(t *testing.T) {
			const provisioned = 20 * time.Second
			ended := make(chan struct{})
			r := newFixture(t, Worker{AckWait: provisioned}, func(ctx context.Context, _ write) error {
				<-ended
				return ctx.Err()
			})
			r.worker.AckWait = own
			r.post("msg_1")
			r.start()
			streamtest.Wait(t, func() bool { return r.state("msg_1") == claims.Running }, "the handler to run")
			rec := r.record(claims.Key{WebhookID: "msg_1"})
			close(ended)
			// The lease begins right before its record is written: on a busy machine, some time before.
			if lease := rec.LeaseUntil.Sub(rec.Written); lease <= provisioned/10 || lease > provisioned {
				t.Errorf("a lease of %v; want the %v of the consumer", lease, provisioned)
			}
			r.waitState("msg_1", claims.Done)
		})
	}
}

func TestLease_LostLeaseEndsTheContextAndSettlesNothing(t *testing.T) {
	started, cause := make(chan struct{}, 9), make(chan error, 9)
	r := newFixture(t, Worker{AckWait: time.Second}, func(ctx context.Context, _ write) error {
		started <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return nil // it says that it succeeded, too late
	})
	r.post("msg_1")
	r.start()
	<-started
	rec := r.record(claims.Key{WebhookID: "msg_1"})
	rec.Owner, rec.LeaseUntil = "other-process", time.Now().Add(time.Hour)
	r.setRecord(claims.Key{WebhookID: "msg_1"}, rec)
	if got := <-cause; !errors.Is(got, claims.ErrLost) {
		t.Errorf("the handler's context ended with %v; want ErrLost", got)
	}
	if got := r.record(claims.Key{WebhookID: "msg_1"}); got.Owner != "other-process" || got.State != claims.Running {
		t.Errorf("the claim is %+v; want it held by the other process", got)
	}
}

func TestPromise7_StopFinishesHandlersAndCountsNoAttempt(t *testing.T) {
	t.Run("a handler that can finish finishes", func(t *testing.T) {
		started, release := make(chan struct{}), make(chan struct{})
		r := newFixture(t, Worker{}, func(ctx context.Context, _ write) error {
			close(started)
			<-release
			return ctx.Err()
		})
		r.post("msg_1")
		stop := r.start()
		<-started
		ended := make(chan error, 1)
		go func() { ended <- stop() }()
		streamtest.Wait(t, func() bool {
			c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
			return err == nil && c.CachedInfo().NumWaiting == 0
		}, "the worker to pull no more")
		select {
		case err := <-ended:
			t.Fatalf("Run ended (%v) before its handler", err)
		default:
		}
		close(release)
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
		if got := r.state("msg_1"); got != claims.Done {
			t.Errorf("the event is %s; want done", got)
		}
	})
	t.Run("one that cannot is given back, and so is what was not begun", func(t *testing.T) {
		started := make(chan struct{}, 99)
		hang := atomic.Bool{}
		hang.Store(true)
		r := newFixture(t, Worker{Concurrency: 2, Attempts: 1}, func(ctx context.Context, _ write) error {
			if hang.Load() {
				started <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		for i := range 20 {
			r.post(fmt.Sprintf("msg_%d", i))
		}
		stop := r.start(func(s *Settings) { s.Grace = 10 * time.Millisecond })
		<-started
		<-started
		if err := stop(); err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
		hang.Store(false)
		r.start()
		r.waitQuiet()
		for i := range 20 {
			if rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != claims.Done || rec.Attempts != 1 {
				t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
			}
		}
	})
}

func TestUnavailable_PausesTheWorkerAndCountsNoAttempt(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	r := newFixture(t, Worker{Attempts: 1, Concurrency: 4}, func(context.Context, write) error {
		if down.Load() {
			return Unavailable(errBoom)
		}
		return nil
	})
	for i := range 50 {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	r.start()
	paused := func() bool {
		kv, err := r.JS.KeyValue(context.Background(), source.WorkersBucket())
		if err != nil {
			return false
		}
		keys, err := kv.Keys(context.Background())
		return err == nil && len(keys) == 1 && strings.HasPrefix(keys[0], "tested.")
	}
	streamtest.Wait(t, paused, "the worker to show itself")
	streamtest.Wait(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.ends) >= 3 }, "three events to be unavailable")
	down.Store(false)
	r.waitQuiet()
	for i := range 50 {
		if rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != claims.Done || rec.Attempts != 1 {
			t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	if l := r.letters(); len(l) != 0 {
		t.Errorf("%d dead letters because something was down; want none", len(l))
	}
}

func TestHeartbeat_InstanceIsListedWhileItRuns(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	shown := func() []string {
		kv, err := r.JS.KeyValue(context.Background(), source.WorkersBucket())
		if err != nil {
			t.Fatal(err)
		}
		keys, err := kv.Keys(context.Background())
		if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
			t.Fatal(err)
		}
		return keys
	}
	stop := r.start()
	streamtest.Wait(t, func() bool { return len(shown()) == 1 }, "the worker to show itself")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool { return len(shown()) == 0 }, "the stopped worker to be gone")
}

func TestUnavailable_IsolatedEventCountsAttempts(t *testing.T) {
	r := newFixture(t, Worker{Attempts: 2, Concurrency: 1}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_bad" {
			return Unavailable(errBoom)
		}
		return nil
	})
	r.post("msg_bad")
	r.start()
	streamtest.Wait(t, func() bool { runs, _ := r.attempts("msg_bad"); return runs > 0 }, "a first try")
	for i := 0; r.state("msg_bad") != claims.Dead; i++ {
		r.post(fmt.Sprintf("msg_good_%d", i))
		r.waitState(fmt.Sprintf("msg_good_%d", i), claims.Done)
	}
	if l := r.letters(); len(l) != 1 || l[0].WebhookID != "msg_bad" || l[0].Attempts != 2 {
		t.Errorf("letters %+v; want msg_bad's after 2 counted attempts", l)
	}
}

func TestRedrive_RunsOnceMore(t *testing.T) {
	r := newFixture(t, Worker{}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_dead" && e.Redrive == "" {
			return Permanent(errBoom)
		}
		return nil
	})
	deadSeq := r.post("msg_dead")
	r.post("msg_done")
	r.start()
	r.waitState("msg_dead", claims.Dead)
	r.waitState("msg_done", claims.Done)

	letter := r.letters()[0]
	for _, want := range []bool{false, true} {
		rec, err := deadletter.Redriver{JS: r.JS, Publisher: r.publisher, Source: source}.Redrive(context.Background(), "r1", letter)
		if err != nil || rec.Duplicate != want {
			t.Fatalf("Redrive = %+v, %v; want duplicate %v", rec, err, want)
		}
	}
	again := claims.Key{WebhookID: "msg_dead", Redrive: "r1"}
	streamtest.Wait(t, func() bool { return r.record(again).State == claims.Done }, "the redrive to be done")
	r.waitQuiet()
	if runs, ok := r.attempts("msg_dead"); runs != 2 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 2 and 1", runs, ok)
	}
	last := r.runs[len(r.runs)-1]
	if last.Redrive != "r1" || last.Attempt != 1 || last.Sequence != deadSeq || last.WebhookID != "msg_dead" {
		t.Errorf("the redriven event is %+v; want the letter's own, attempt 1 of r1", last)
	}
	if got := r.state("msg_dead"); got != claims.Dead {
		t.Errorf("the first life of the event is %s; want dead still", got)
	}
}

func TestDeliver_OnlyAcksWhatIsDone(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	r.post("msg_1")
	stop := r.start()
	r.waitState("msg_1", claims.Done)
	if err := stop(); err != nil { // only the claim tells the next process
		t.Fatal(err)
	}
	// The same webhook-id with another message id, as after the stream's deduplication window.
	m, err := source.Message(stream.Stored{ID: "msg_1", MsgID: "another", Head: codat.Head{Type: "bills.write.successful"}, Received: time.Now()}, []byte(`{"payload":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 {
		t.Errorf("%d runs; want 1", runs)
	}
}

func TestDeliver_ReturnsTypesWithoutAHandler(t *testing.T) {
	r := newFixture(t, Worker{Handlers: []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil })}}, succeed)
	r.worker.Handlers = r.worker.Handlers[:1] // the older version, on the newer one's consumer
	r.post("msg_new")
	r.postType("msg_old", "company.created")
	stop := r.start()
	r.waitState("msg_old", claims.Done)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := r.state("msg_new"); got != "" {
		t.Errorf("the claim of the event without a handler is %q; want none", got)
	}
	streamtest.Wait(t, func() bool { // the server counts an ack a moment after it has got it
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumAckPending == 1
	}, "the delivery that waits for a handler to be the only one that pends")
}

func TestRun_RefusesWhatIsNotProvisioned(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	run := func(w Worker) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		return Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, process.New(w.Name, zaptest.NewLogger(t)), w,
			func(context.Context, Parts) (Worker, error) { return w, nil })
	}
	other := r.worker
	other.Name = "other"
	if err := run(other); !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "headgate provision") {
		t.Errorf("a worker without consumers: %v; want ErrNotProvisioned and the cure", err)
	}
	wider := r.worker
	wider.Handlers = append(slices.Clone(wider.Handlers), Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil }))
	if err := run(wider); !errors.Is(err, stream.ErrDrift) || !strings.Contains(err.Error(), "company.created") || !strings.Contains(err.Error(), "headgate provision") {
		t.Errorf("a worker whose filters are not there: %v; want ErrDrift, the type and the cure", err)
	}
	clash := r.worker
	clash.Handlers = append(slices.Clone(clash.Handlers), Handle(codat.InvoicesWriteSuccessful, succeed))
	if err := run(clash); process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "take the same events") {
		t.Errorf("a worker whose handlers overlap: %v; want it misconfigured, in words", err)
	}
}

func TestRun_RefusesAMissingClaimsBucket(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	if err := r.JS.DeleteKeyValue(context.Background(), source.ClaimsBucket("tested")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	err := Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, process.New("tested", zaptest.NewLogger(t)), r.worker,
		func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	if !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "headgate provision") {
		t.Errorf("Run = %v; want ErrNotProvisioned and the cure", err)
	}
}

// When Key panics, the event is handled without a key.
func TestKey_PanicMeansNoKey(t *testing.T) {
	r := newFixture(t, Worker{Key: func(codat.Event[struct{}]) string { panic("no key") }}, succeed)
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", claims.Done)
}

// A handler that ends its goroutine, as t.FailNow does, does not use up a slot.
func TestSlot_SurvivesGoexitOfAHandler(t *testing.T) {
	r := newFixture(t, Worker{Concurrency: 2}, func(_ context.Context, e write) error {
		if e.WebhookID != "msg_after" {
			runtime.Goexit()
		}
		return nil
	})
	for i := range 4 {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	r.post("msg_after")
	r.start()
	r.waitState("msg_after", claims.Done)
}

// unrenewed is a store whose renewals fail.
type unrenewed struct{ claims.Store }

func (c unrenewed) Save(ctx context.Context, claim claims.Claim) (claims.Claim, error) {
	if claim.Record.State == claims.Running {
		return claim, errBoom
	}
	return c.Store.Save(ctx, claim)
}

// The context of a handler ends when its lease cannot be renewed. If it succeeds nevertheless and no other process has taken
// the claim over, the event is done and must not run again.
func TestSettle_SavesASuccessAfterAnUntakenLease(t *testing.T) {
	r := newFixture(t, Worker{AckWait: time.Second}, func(ctx context.Context, _ write) error {
		<-ctx.Done()
		return nil
	})
	r.post("msg_1")
	runner := r.runner(&crashingProcess{})
	runner.claims = unrenewed{runner.claims}
	if got := runner.deliver(r.next(source.Stream())); got != done || r.state("msg_1") != claims.Done {
		t.Errorf("deliver = %s, and the claim is %s; want it done", got, r.state("msg_1"))
	}
}

func TestRun_EndsWhenItsConsumerIsDeleted(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	r.post("msg_1")
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	go func() {
		ended <- Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, process.New("tested", zaptest.NewLogger(t)), r.worker,
			func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	r.waitState("msg_1", claims.Done)
	// The server tells a pull that waits. Between two pulls, only a missing heartbeat would tell.
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumWaiting > 0
	}, "a pull waits at the server")
	if err := r.JS.DeleteConsumer(context.Background(), source.Stream(), "tested"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("Run = %v; want ErrNotProvisioned", err)
	}
}

func TestRun_SurvivesAServerRestart(t *testing.T) {
	r := newFixture(t, Worker{AckWait: 2 * time.Second}, succeed)
	r.start()
	for i := range 20 {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	r.Restart()
	for i := 20; i < 40; i++ {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	for i := range 40 {
		r.waitState(fmt.Sprintf("msg_%d", i), claims.Done)
	}
	if got := len(r.letters()); got != 0 {
		t.Errorf("%d dead letters after a restart; want none", got)
	}
}

func TestKey_OneEventAndOneSlotAtATime(t *testing.T) {
	var hot, most atomic.Int64
	cold := make(chan struct{})
	r := newFixture(t, Worker{Concurrency: 4, Key: func(e codat.Event[struct{}]) string {
		id, _, _ := strings.Cut(strings.TrimPrefix(e.WebhookID, "msg_"), "_")
		return id
	}}, func(_ context.Context, e write) error {
		if !strings.HasPrefix(e.WebhookID, "msg_hot") {
			return nil
		}
		most.Store(max(most.Load(), hot.Add(1)))
		defer hot.Add(-1)
		<-cold // no hot event ends before every cold one has
		return nil
	})
	for i := range 40 { // ten times the slots, before any of another key
		r.post(fmt.Sprintf("msg_hot_%d", i))
	}
	for i := range 20 {
		r.post(fmt.Sprintf("msg_%d_cold", i))
	}
	r.start()
	for i := range 20 {
		r.waitState(fmt.Sprintf("msg_%d_cold", i), claims.Done)
	}
	close(cold)
	r.waitQuiet()
	for i := range 40 {
		if got := r.state(fmt.Sprintf("msg_hot_%d", i)); got != claims.Done {
			t.Errorf("msg_hot_%d is %s; want done", i, got)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d events of one key ran at once; want 1", most.Load())
	}
}

// Without its claims a worker runs no handler, loses no event and counts no attempt.
func TestRun_WaitsForItsClaims(t *testing.T) {
	bucket := "KV_" + source.ClaimsBucket("tested")
	for _, tt := range []struct {
		name string
		take func(*fixture) (give func())
	}{
		{"while their bucket is full", func(r *fixture) func() { return r.fillStream(bucket) }},
		{"while their bucket is gone", func(r *fixture) func() {
			if err := r.JS.DeleteStream(context.Background(), bucket); err != nil {
				r.Fatal(err)
			}
			return func() {
				streamtest.Provision(r, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{r.worker.Spec()}})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{Attempts: 1, AckWait: time.Second, pauses: quickPauses}, succeed)
			r.post("msg_0")
			r.start()
			r.waitState("msg_0", claims.Done)
			give := tt.take(r)
			r.post("msg_1")
			streamtest.Wait(t, func() bool {
				c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
				return err == nil && c.CachedInfo().NumRedelivered > 0
			}, "the event to be given back")
			give()
			r.waitState("msg_1", claims.Done)
			r.waitQuiet()
			if runs, _ := r.attempts("msg_1"); runs != 1 || r.record(claims.Key{WebhookID: "msg_1"}).Attempts != 1 {
				t.Errorf("%d runs, %d attempts; want 1 and 1", runs, r.record(claims.Key{WebhookID: "msg_1"}).Attempts)
			}
		})
	}
}

var _ jetstream.Msg = crashingMsg{}

// A worker with a Store of its own needs no claims bucket.
func TestRun_OwnClaimsNeedNoBucket(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	ctx := context.Background()
	if err := r.JS.DeleteKeyValue(ctx, source.ClaimsBucket("tested")); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := r.JS.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	store := claims.NewKV(elsewhere, r.publisher, nil)
	r.worker.Claims = store
	r.post("msg_1")
	r.start()
	streamtest.Wait(t, func() bool {
		rec, err := store.Get(ctx, claims.Key{WebhookID: "msg_1"})
		return err == nil && rec.State == claims.Done
	}, "the event to be done")
	r.waitQuiet()
}

// A parked copy that is delivered before its claim says parked does not wait for the end of the lease, which may be later
// than the next attempt.
func TestDeliver_EarlyParkedCopyIsRetriedSoon(t *testing.T) {
	r := newFixture(t, Worker{}, func(context.Context, write) error { return RetryAfter(61*time.Second, errBoom) })
	r.post("msg_1")
	r.newProcess(&crashingProcess{at: "publish parked"}).deliver(r.next(source.Stream()))
	var waits []time.Duration
	if got := r.newProcess(&crashingProcess{}).deliver(undelayedMsg{r.next(source.ParkedStream()), &waits}); got != busy {
		t.Errorf("the copy's outcome is %s; want %s", got, busy)
	}
	if len(waits) != 1 || waits[0] != 2*returnPause {
		t.Errorf("the copy waits %v; want %v", waits, 2*returnPause)
	}
}

// The log has a sample of the deliveries that are done, and every other delivery.
func TestLog_SamplesDeliveriesThatAreDone(t *testing.T) {
	r := newFixture(t, Worker{}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_dead" {
			return Permanent(errBoom)
		}
		return nil
	})
	run := r.newProcess(&crashingProcess{})
	all, lines := observer.New(zap.InfoLevel)
	some, sampled := observer.New(zap.InfoLevel)
	run.log, run.sampled = zap.New(all), zap.New(some)
	r.post("msg_done")
	r.post("msg_dead")
	for range 2 {
		run.deliver(r.next(source.Stream()))
	}
	if n, of := lines.FilterMessage("event dead").Len(), lines.Len(); n != 1 || of != 1 {
		t.Errorf("%d of %d lines outside of the sample say dead; want one of one", n, of)
	}
	if n, of := sampled.FilterMessage("event done").Len(), sampled.Len(); n != 1 || of != 1 {
		t.Errorf("%d of %d lines of the sample say done; want one of one", n, of)
	}

	for _, tt := range []struct {
		level zapcore.Level
		want  int
	}{{zap.InfoLevel, 100 + 9}, {zap.DebugLevel, 1000}} {
		core, lines := observer.New(tt.level)
		log := sample(zap.New(core, zap.WithClock(noon{})))
		for range 1000 {
			log.Info("event done")
		}
		if lines.Len() != tt.want {
			t.Errorf("with --log-level %s there are %d of 1000 lines in one second; want %d", tt.level, lines.Len(), tt.want)
		}
	}
}

// noon is a clock that does not move.
type noon struct{}

func (noon) Now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func (noon) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

// A pull at a server that is cut off from the others is never answered. Its heartbeats tell the worker soon.
func TestPull_LostPullIsReplacedSoon(t *testing.T) {
	r := newFixture(t, Worker{pauses: pauses{claimError: time.Second}}, succeed) // with the pull expiry of production
	pulls, err := r.NC.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT." + source.Stream() + ".tested")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	r.start()
	m, err := pulls.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var pull struct {
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}
	if err := json.Unmarshal(m.Data, &pull); err != nil {
		t.Fatal(err)
	}
	if pull.Heartbeat <= 0 || pull.Heartbeat > time.Second {
		t.Errorf("a pull asks for a heartbeat every %v; want one at least every second", pull.Heartbeat)
	}
}
