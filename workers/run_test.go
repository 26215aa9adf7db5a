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

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var errBoom = errors.New("boom")

type write = codat.Event[codat.Write]

func succeed(context.Context, write) error { return nil }

func TestAnEventIsHandledOnce(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	seq := r.post("msg_1")
	r.start()
	r.waitState("msg_1", Done)
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

func TestWhatFailsIsTriedAgainUntilItSucceeds(t *testing.T) {
	r := newRig(t, Worker{Attempts: 5}, func(_ context.Context, e write) error {
		if e.Attempt < 4 {
			return fmt.Errorf("attempt %d: %w", e.Attempt, errBoom)
		}
		return nil
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Done)
	r.waitQuiet()
	if runs, ok := r.attempts("msg_1"); runs != 4 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 4 and 1", runs, ok)
	}
	if got := r.record(Key{WebhookID: "msg_1"}).Attempts; got != 4 {
		t.Errorf("the claim counts %d attempts; want 4", got)
	}
}

func TestWhatKeepsFailingIsADeadLetter(t *testing.T) {
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
			r := newRig(t, Worker{Attempts: 3, Timeout: 200 * time.Millisecond}, tt.act)
			seq := r.post("msg_1")
			r.start()
			r.waitState("msg_1", Dead)
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

func TestAPayloadThatDoesNotDecodeIsADeadLetterAtOnce(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	m, err := source.Message(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "bills.write.successful"}, Received: time.Now()}, []byte(`{"eventType":"bills.write.successful","payload":["a secret"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitState("msg_1", Dead)
	if l := r.letters()[0]; l.Cause != CausePermanent || l.Attempts != 1 || strings.Contains(l.LastError, "secret") {
		t.Errorf("letter %+v; want it permanent, after one attempt, and without the payload", l)
	}
}

// The crash matrix: a process dies after each step that it takes, and another one goes on. Only between the
// effect and the mark done does the handler run twice; nothing is lost, and nothing has two ends.
func TestPromise6EveryEventEndsInOnePlaceWhereverAProcessDies(t *testing.T) {
	type want struct {
		state         State
		runs, letters int
	}
	for _, tt := range []struct {
		step string
		act  func(context.Context, write) error
		want want
	}{
		{"claim", succeed, want{Done, 1, 0}},
		{"effect", succeed, want{Done, 2, 0}}, // the window that no broker closes: see pgclaims
		{"done", succeed, want{Done, 1, 0}},
		{"ack", succeed, want{Done, 1, 0}},
		{"waiting", failOnce(), want{Done, 2, 0}},
		{"nak", failOnce(), want{Done, 2, 0}},
		{"publish parked", parkOnce(), want{Done, 2, 0}},
		{"parked", parkOnce(), want{Done, 2, 0}},
		{"ack", parkOnce(), want{Done, 2, 0}},
		{"burying", fail, want{Dead, 1, 1}},
		{"publish dead", fail, want{Dead, 1, 1}},
		{"dead", fail, want{Dead, 1, 1}},
		{"ack", fail, want{Dead, 1, 1}},
	} {
		t.Run("dies after "+tt.step, func(t *testing.T) {
			c := &crash{at: tt.step}
			crashing := true
			r := newRig(t, Worker{AckWait: time.Second, ParkAfter: 100 * time.Millisecond}, func(ctx context.Context, e write) error {
				err := tt.act(ctx, e)
				if crashing && tt.step == "effect" {
					c.dead = true
				}
				return err
			})
			r.post("msg_1")
			m := r.next(source.Stream())
			r.runner(c).deliver(crashMsg{m, c}, false)
			if !c.dead {
				t.Fatalf("the process did not come to step %q", tt.step)
			}
			crashing = false

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

func TestALongWaitIsParkedAndDoesNotHoldUpTheWorker(t *testing.T) {
	r := newRig(t, Worker{ParkAfter: time.Second}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_slow" && e.Attempt == 1 {
			return RetryAfter(time.Hour, errBoom)
		}
		return nil
	})
	seq := r.post("msg_slow")
	r.start()
	r.waitState("msg_slow", Parked)
	r.post("msg_next")
	r.waitState("msg_next", Done)
	streamtest.Wait(t, func() bool {
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	}, "the lag that an autoscaler reads to be 0")

	rec := r.record(Key{WebhookID: "msg_slow"})
	if rec.Attempts != 1 || rec.Sequence != seq || time.Until(rec.Next) < 50*time.Minute {
		t.Errorf("parked record %+v; want one attempt and an hour's wait", rec)
	}
}

func TestAHandlerThatRunsLongerThanAckWaitRunsOnce(t *testing.T) {
	r := newRig(t, Worker{AckWait: time.Second, Timeout: 30 * time.Second}, func(ctx context.Context, _ write) error {
		select {
		case <-time.After(3500 * time.Millisecond): // the work
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Done)
	r.waitQuiet()
	if runs, ok := r.attempts("msg_1"); runs != 1 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 1 and 1", runs, ok)
	}
}

func TestAZombieIsCancelledAndCannotSettle(t *testing.T) {
	started, cause := make(chan struct{}, 9), make(chan error, 9)
	r := newRig(t, Worker{AckWait: time.Second}, func(ctx context.Context, _ write) error {
		started <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return nil // it says that it succeeded, too late
	})
	r.post("msg_1")
	r.start()
	<-started
	claims := r.claims()
	rec, rev, err := claims.read(context.Background(), Key{WebhookID: "msg_1"})
	if err != nil {
		t.Fatal(err)
	}
	rec.Owner, rec.LeaseUntil = "thief", time.Now().Add(time.Hour)
	if _, err := claims.write(context.Background(), Claim{Key: Key{WebhookID: "msg_1"}, Record: rec, Revision: rev}); err != nil {
		t.Fatal(err)
	}
	if got := <-cause; !errors.Is(got, ErrLost) {
		t.Errorf("the handler's context ended with %v; want ErrLost", got)
	}
	if got := r.record(Key{WebhookID: "msg_1"}); got.Owner != "thief" || got.State != Running {
		t.Errorf("the claim is %+v; want it the thief's still", got)
	}
}

func TestPromise7AStopFinishesWhatWasBegunAndBurnsNoAttempt(t *testing.T) {
	t.Run("a handler that can finish finishes", func(t *testing.T) {
		started, release := make(chan struct{}), make(chan struct{})
		r := newRig(t, Worker{}, func(ctx context.Context, _ write) error {
			close(started)
			<-release
			return ctx.Err()
		})
		r.post("msg_1")
		stop := r.start()
		<-started
		ended := make(chan error, 1)
		go func() { ended <- stop() }()
		select {
		case err := <-ended:
			t.Fatalf("Run ended (%v) before its handler", err)
		case <-time.After(200 * time.Millisecond):
		}
		close(release)
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
		if got := r.state("msg_1"); got != Done {
			t.Errorf("the event is %s; want done", got)
		}
	})
	t.Run("one that cannot is given back, and so is what was not begun", func(t *testing.T) {
		started := make(chan struct{}, 99)
		hang := atomic.Bool{}
		hang.Store(true)
		r := newRig(t, Worker{Concurrency: 2, Attempts: 1}, func(ctx context.Context, _ write) error {
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
			if rec := r.record(Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != Done || rec.Attempts != 1 {
				t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
			}
		}
	})
}

func TestWhatIsUnavailablePausesTheWorkerAndBurnsNothing(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	r := newRig(t, Worker{Attempts: 1, Concurrency: 4}, func(context.Context, write) error {
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
		if rec := r.record(Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != Done || rec.Attempts != 1 {
			t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	if l := r.letters(); len(l) != 0 {
		t.Errorf("%d dead letters because something was down; want none", len(l))
	}
}

func TestAWorkerShowsItselfWhileItRuns(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
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

func TestAnEventThatIsAloneUnavailableCountsAttempts(t *testing.T) {
	r := newRig(t, Worker{Attempts: 2, Concurrency: 1}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_bad" {
			return Unavailable(errBoom)
		}
		return nil
	})
	r.post("msg_bad")
	r.start()
	streamtest.Wait(t, func() bool { runs, _ := r.attempts("msg_bad"); return runs > 0 }, "a first try")
	for i := 0; r.state("msg_bad") != Dead; i++ {
		r.post(fmt.Sprintf("msg_good_%d", i))
		r.waitState(fmt.Sprintf("msg_good_%d", i), Done)
	}
	if l := r.letters(); len(l) != 1 || l[0].WebhookID != "msg_bad" || l[0].Attempts != 2 {
		t.Errorf("letters %+v; want msg_bad's after 2 counted attempts", l)
	}
}

func TestARedriveRunsAgainAndOnce(t *testing.T) {
	r := newRig(t, Worker{}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_dead" && e.Redrive == "" {
			return Permanent(errBoom)
		}
		return nil
	})
	deadSeq := r.post("msg_dead")
	r.post("msg_done")
	r.start()
	r.waitState("msg_dead", Dead)
	r.waitState("msg_done", Done)

	letter := r.letters()[0]
	for _, want := range []bool{false, true} {
		rec, err := deadletter.Redrive(context.Background(), r.JS, r.publisher, source, "r1", letter)
		if err != nil || rec.Duplicate != want {
			t.Fatalf("Redrive = %+v, %v; want duplicate %v", rec, err, want)
		}
	}
	again := Key{WebhookID: "msg_dead", Redrive: "r1"}
	streamtest.Wait(t, func() bool { return r.record(again).State == Done }, "the redrive to be done")
	r.waitQuiet()
	if runs, ok := r.attempts("msg_dead"); runs != 2 || ok != 1 {
		t.Errorf("%d runs, %d successes; want 2 and 1", runs, ok)
	}
	last := r.runs[len(r.runs)-1]
	if last.Redrive != "r1" || last.Attempt != 1 || last.Sequence != deadSeq || last.WebhookID != "msg_dead" {
		t.Errorf("the redriven event is %+v; want the letter's own, attempt 1 of r1", last)
	}
	if got := r.state("msg_dead"); got != Dead {
		t.Errorf("the first life of the event is %s; want dead still", got)
	}
}

func TestASecondDeliveryOfWhatIsDoneIsOnlyAcked(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Done)
	// The same id again, past the stream's window: as a message with another message id.
	m, err := source.Message(stream.Stored{ID: "msg_1", MsgID: "another", Head: codat.Head{Type: "bills.write.successful"}, Received: time.Now()}, []byte(`{"payload":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 {
		t.Errorf("%d runs; want 1", runs)
	}
}

func TestWhatThisVersionDoesNotHandleIsGivenBack(t *testing.T) {
	r := newRig(t, Worker{Handlers: []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil })}}, succeed)
	r.worker.Handlers = r.worker.Handlers[:1] // the older version, on the newer one's consumer
	r.post("msg_new")
	r.postType("msg_old", "company.created")
	stop := r.start()
	r.waitState("msg_old", Done)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := r.state("msg_new"); got != "" {
		t.Errorf("the claim of the event without a handler is %q; want none", got)
	}
	c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.CachedInfo().NumAckPending; got != 1 {
		t.Errorf("%d deliveries pend; want the one that waits for a handler", got)
	}
}

func TestRunRefusesWhatIsNotProvisioned(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	run := func(w Worker) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

func TestRunRefusesToWorkWithoutItsClaims(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	if err := r.JS.DeleteKeyValue(context.Background(), source.ClaimsBucket("tested")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, process.New("tested", zaptest.NewLogger(t)), r.worker,
		func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	if !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "headgate provision") {
		t.Errorf("Run = %v; want ErrNotProvisioned and the cure", err)
	}
}

// A Key that panics costs its event the turn, and nothing else.
func TestAKeyThatFails(t *testing.T) {
	r := newRig(t, Worker{Key: func(codat.Event[struct{}]) string { panic("no key") }}, succeed)
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Done)
}

// A handler that ends its goroutine, as t.FailNow does, takes no slot with it.
func TestAHandlerThatEndsItsGoroutine(t *testing.T) {
	r := newRig(t, Worker{Concurrency: 2}, func(_ context.Context, e write) error {
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
	r.waitState("msg_after", Done)
}

// unrenewed are claims whose renewals do not arrive.
type unrenewed struct{ Claims }

func (c unrenewed) Save(ctx context.Context, claim Claim) (Claim, error) {
	if claim.Record.State == Running {
		return claim, errBoom
	}
	return c.Claims.Save(ctx, claim)
}

// Who could not renew its lease is told to end. When it has succeeded all the same, and nobody took the claim over
// meanwhile, it is done: it must not run again.
func TestASuccessAfterALeaseThatNobodyTook(t *testing.T) {
	r := newRig(t, Worker{AckWait: time.Second}, func(ctx context.Context, _ write) error {
		<-ctx.Done()
		return nil
	})
	r.post("msg_1")
	runner := r.runner(&crash{})
	runner.claims = unrenewed{runner.claims}
	if got := runner.deliver(r.next(source.Stream()), false); got != done || r.state("msg_1") != Done {
		t.Errorf("deliver = %s, and the claim is %s; want it done", got, r.state("msg_1"))
	}
}

func TestRunEndsWhenItsConsumerIsDeleted(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	r.post("msg_1")
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		ended <- Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, process.New("tested", zaptest.NewLogger(t)), r.worker,
			func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	r.waitState("msg_1", Done)
	if err := r.JS.DeleteConsumer(context.Background(), source.Stream(), "tested"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("Run = %v; want ErrNotProvisioned", err)
	}
}

func TestWorkSurvivesAServersRestart(t *testing.T) {
	r := newRig(t, Worker{AckWait: 2 * time.Second}, succeed)
	r.start()
	for i := range 20 {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	r.Restart()
	for i := 20; i < 40; i++ {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	for i := range 40 {
		r.waitState(fmt.Sprintf("msg_%d", i), Done)
	}
	if got := len(r.letters()); got != 0 {
		t.Errorf("%d dead letters after a restart; want none", got)
	}
}

func TestEventsOfOneKeyTakeOneSlotOneAtATime(t *testing.T) {
	var hot, most atomic.Int64
	cold := make(chan struct{})
	r := newRig(t, Worker{Concurrency: 4, Key: func(e codat.Event[struct{}]) string {
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
		r.waitState(fmt.Sprintf("msg_%d_cold", i), Done)
	}
	close(cold)
	r.waitQuiet()
	for i := range 40 {
		if got := r.state(fmt.Sprintf("msg_hot_%d", i)); got != Done {
			t.Errorf("msg_hot_%d is %s; want done", i, got)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d events of one key ran at once; want 1", most.Load())
	}
}

// Without its claims a worker runs nothing, loses nothing and counts nothing.
func TestAWorkerWaitsForItsClaims(t *testing.T) {
	bucket := "KV_" + source.ClaimsBucket("tested")
	for _, tt := range []struct {
		name string
		take func(*rig) (give func())
	}{
		{"while their bucket is full", func(r *rig) func() { return r.squeeze(bucket) }},
		{"while their bucket is gone", func(r *rig) func() {
			if err := r.JS.DeleteStream(context.Background(), bucket); err != nil {
				r.Fatal(err)
			}
			return func() {
				streamtest.Provision(r, r.JS, stream.Plan{Source: source, Workers: []stream.WorkerPlan{r.worker.Plan()}})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Worker{Attempts: 1}, succeed)
			r.post("msg_0")
			r.start()
			r.waitState("msg_0", Done)
			give := tt.take(r)
			r.post("msg_1")
			streamtest.Wait(t, func() bool {
				c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
				return err == nil && c.CachedInfo().NumRedelivered > 0
			}, "the event to be given back")
			give()
			r.waitState("msg_1", Done)
			r.waitQuiet()
			if runs, _ := r.attempts("msg_1"); runs != 1 || r.record(Key{WebhookID: "msg_1"}).Attempts != 1 {
				t.Errorf("%d runs, %d attempts; want 1 and 1", runs, r.record(Key{WebhookID: "msg_1"}).Attempts)
			}
		})
	}
}

// Two versions of a worker share its consumer in a rollout, and in a rollback. What only one of them handles waits
// for it.
func TestTwoVersionsOfAWorkerShareItsConsumer(t *testing.T) {
	var v1, v2 atomic.Int64
	v1Only := Handle(codat.AnyWriteSuccessful, func(context.Context, write) error { v1.Add(1); return nil })
	both := []Handler{
		Handle(codat.AnyWriteSuccessful, func(context.Context, write) error { v2.Add(1); return nil }),
		Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { v2.Add(1); return nil }),
	}
	r := newRig(t, Worker{Attempts: 1}, succeed)
	r.worker.Handlers = []Handler{v1Only}
	stopV1 := r.start()
	r.postAll("msg_before", 50)

	// The rollout: provision first, then the new version beside the old one, then the old one goes.
	next := r.worker
	next.Handlers = both
	streamtest.Provision(t, r.JS, stream.Plan{Source: source, Workers: []stream.WorkerPlan{next.Plan()}})
	r.worker = next
	stopV2 := r.start()
	for i := range 20 {
		r.postType(fmt.Sprintf("msg_new_%d", i), "company.created")
	}
	r.postAll("msg_during", 50)
	if err := stopV1(); err != nil {
		t.Error(err)
	}
	for i := range 20 {
		waitFor(t, 2*time.Minute, func() bool { return r.state(fmt.Sprintf("msg_new_%d", i)) == Done })
	}

	// The rollback: the old version binds to the wider consumer.
	r.worker.Handlers = []Handler{v1Only}
	r.start()
	if err := stopV2(); err != nil {
		t.Error(err)
	}
	r.postAll("msg_after", 50)
	r.waitQuiet()
	for _, id := range []string{"before", "during", "after"} {
		for i := range 50 {
			if rec := r.record(Key{WebhookID: fmt.Sprintf("msg_%s_%d", id, i)}); rec.State != Done || rec.Attempts != 1 {
				t.Errorf("msg_%s_%d is %s after %d attempts; want done after 1", id, i, rec.State, rec.Attempts)
			}
		}
	}
	if total := v1.Load() + v2.Load(); total != 170 || v1.Load() == 0 || v2.Load() < 20 {
		t.Errorf("handled %d by the old and %d by the new version; want 170 together", v1.Load(), v2.Load())
	}
}

// 20,000 is what the parked consumer may have pending at once. Meanwhile new events have all slots of the worker, the lag
// that an autoscaler reads is what new events wait, and the parked ones cost nothing: none is delivered before its time.
func TestNewEventsFlowPast20000ParkedOnes(t *testing.T) {
	const many, fresh = 20_000, 2000
	var running atomic.Int64
	open := make(chan struct{})
	r := newRig(t, Worker{Concurrency: 64, ParkAfter: 30 * time.Minute}, func(_ context.Context, e write) error {
		if strings.HasPrefix(e.WebhookID, "msg_slow") {
			return RetryAfter(time.Hour, errBoom)
		}
		running.Add(1)
		defer running.Add(-1)
		<-open
		return nil
	})
	r.postAll("msg_slow", many)
	r.start()
	info := func(st string) *jetstream.ConsumerInfo {
		t.Helper()
		c, err := r.JS.Consumer(context.Background(), st, "tested")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo()
	}
	// lag is what deploy/k8s has KEDA read: what the worker was not given yet, and what it works on.
	lag := func() int {
		events := info(source.Stream())
		return int(events.NumPending) + events.NumAckPending
	}
	parkedNow := func() int { return info(source.ParkedStream()).NumAckPending }
	waitFor(t, 2*time.Minute, func() bool { return parkedNow() == many && lag() == 0 })

	r.postAll("msg_new", fresh)
	waitFor(t, 2*time.Minute, func() bool { return running.Load() == int64(r.worker.Concurrency) })
	if got := lag(); got != fresh {
		t.Errorf("the lag that an autoscaler reads is %d; want the %d events that wait, and none of the %d parked ones", got, fresh, many)
	}
	close(open)
	waitFor(t, 2*time.Minute, func() bool { return lag() == 0 })

	claims := r.claims()
	state := func(id string) Record {
		t.Helper()
		rec, err := claims.Look(context.Background(), Key{WebhookID: id})
		if err != nil {
			t.Fatalf("the claim of %s: %v", id, err)
		}
		return rec
	}
	for i := range fresh {
		if rec := state(fmt.Sprintf("msg_new_%d", i)); rec.State != Done || rec.Attempts != 1 {
			t.Errorf("msg_new_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	for i := 0; i < many; i += 100 {
		if rec := state(fmt.Sprintf("msg_slow_%d", i)); rec.State != Parked || rec.Attempts != 1 {
			t.Errorf("msg_slow_%d is %s after %d attempts; want it parked after 1", i, rec.State, rec.Attempts)
		}
	}
	if got := parkedNow(); got != many {
		t.Errorf("%d events are parked; want all %d still", got, many)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.runs) != many+fresh {
		t.Errorf("the handler ran %d times; want once for each of %d events", len(r.runs), many+fresh)
	}
	// Each is delivered when it is parked, and is put off until its time. A few may come again whose answer was late.
	if got := info(source.ParkedStream()).Delivered.Consumer; got < many || got > many+many/100 {
		t.Errorf("parked events were delivered %d times; want each of %d once", got, many)
	}
}

var _ jetstream.Msg = crashMsg{}

// A worker whose claims are elsewhere needs no bucket for them.
func TestAWorkerWithClaimsOfItsOwnNeedsNoBucket(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	ctx := context.Background()
	if err := r.JS.DeleteKeyValue(ctx, source.ClaimsBucket("tested")); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := r.JS.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	claims := NewKVClaims(elsewhere, r.publisher, nil)
	r.worker.Claims = claims
	r.post("msg_1")
	r.start()
	streamtest.Wait(t, func() bool {
		rec, err := claims.Look(ctx, Key{WebhookID: "msg_1"})
		return err == nil && rec.State == Done
	}, "the event to be done")
	r.waitQuiet()
}

// A copy that comes before its claim says parked does not wait for the lease, which ends after the time that the event
// may be parked for.
func TestAParkedCopyThatIsEarlyIsNotLate(t *testing.T) {
	r := newRig(t, Worker{}, func(context.Context, write) error { return RetryAfter(61*time.Second, errBoom) })
	r.post("msg_1")
	r.another(&crash{at: "publish parked"}).deliver(r.next(source.Stream()), false)
	var waits []time.Duration
	if got := r.another(&crash{}).deliver(hasty{r.next(source.ParkedStream()), &waits}, true); got != busy {
		t.Errorf("the copy's fate is %s; want %s", got, busy)
	}
	if len(waits) != 1 || waits[0] != DefaultParkAfter {
		t.Errorf("the copy waits %v; want %v", waits, DefaultParkAfter)
	}
}

// Of lines that say that an event is done there is a sample, and of all others each one.
func TestTheLogSamplesWhatIsDone(t *testing.T) {
	r := newRig(t, Worker{}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_dead" {
			return Permanent(errBoom)
		}
		return nil
	})
	run := r.another(&crash{})
	all, lines := observer.New(zap.InfoLevel)
	some, sampled := observer.New(zap.InfoLevel)
	run.log, run.sampled = zap.New(all), zap.New(some)
	r.post("msg_done")
	r.post("msg_dead")
	for range 2 {
		run.deliver(r.next(source.Stream()), false)
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

// noon is a clock that stands.
type noon struct{}

func (noon) Now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func (noon) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

// A pull that waits at a server which is cut off from the others is never answered, and the worker must not wait for
// that as long as for events.
func TestALostPullIsMissedSoon(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
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
		Expires   time.Duration `json:"expires"`
	}
	if err := json.Unmarshal(m.Data, &pull); err != nil {
		t.Fatal(err)
	}
	if pull.Heartbeat <= 0 || pull.Heartbeat > 5*time.Second {
		t.Errorf("a pull asks for a sign of life every %v; want one at least every 5s", pull.Heartbeat)
	}
	// Signs of life take places in the buffer of deliveries while no handler is free.
	if pull.Expires > 2*pull.Heartbeat {
		t.Errorf("a pull that waits for %v asks for one every %v; want no more than two", pull.Expires, pull.Heartbeat)
	}
}
