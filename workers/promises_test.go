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

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// hasty is a delivery that comes back at once, however long it was to wait, and that tells for how long.
type hasty struct {
	jetstream.Msg
	waits *[]time.Duration
}

func (m hasty) NakWithDelay(d time.Duration) error {
	*m.waits = append(*m.waits, d)
	return m.Nak()
}

// another is a process of its own, over c.
func (r *rig) another(c *crash) *runner {
	r.Helper()
	run := r.runner(c)
	run.instance = nuid.Next()
	return run
}

// deliver takes the next delivery through a process that does not die, and returns its fate.
func (r *rig) deliver(waits *[]time.Duration) fate {
	r.Helper()
	return r.another(&crash{}).deliver(hasty{r.next(source.Stream()), waits}, false)
}

// squeeze leaves a stream no room, until the function that it returns is called.
func (r *rig) squeeze(name string) (release func()) {
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
func (r *rig) postBytes(id, typ string, body []byte) {
	r.Helper()
	m, err := source.Message(stream.Stored{ID: id, Head: codat.Head{Type: typ}, Received: time.Now()}, body)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := r.JS.PublishMsg(context.Background(), m); err != nil {
		r.Fatal(err)
	}
}

// A worker gives the handler the body as it came, and neither the parked copy nor the dead letter changes it.
func TestPromise4AWorkerChangesNoByte(t *testing.T) {
	body := []byte(" {\r\n\t\"eventType\" : \"bills.write.successful\", \"payload\":{ \"id\":\"\\u00e9\", \"n\":1.0e+2 } }\n\n")
	var mu sync.Mutex
	var got [][]byte
	r := newRig(t, Worker{ParkAfter: 50 * time.Millisecond}, func(_ context.Context, e write) error {
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
	r.waitState("msg_1", Dead)
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

// While a handler runs, its claim says so for as long as it runs: nobody else can take the event over, whatever becomes
// of its delivery.
func TestPromise5ALongRunRenewsItsClaim(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, Worker{AckWait: time.Second, Timeout: time.Minute}, func(ctx context.Context, _ write) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Running)
	first := r.record(Key{WebhookID: "msg_1"}).LeaseUntil
	streamtest.Wait(t, func() bool {
		return r.record(Key{WebhookID: "msg_1"}).LeaseUntil.After(first.Add(time.Second))
	}, "the lease to be renewed")
	close(release)
	r.waitState("msg_1", Done)
	if got := r.record(Key{WebhookID: "msg_1"}).Attempts; got != 1 {
		t.Errorf("%d attempts; want 1", got)
	}
}

// An archive that refuses a dead letter, because it is full, keeps the event waiting: given up, not run again, and not
// dead before its letter is stored.
func TestPromise6NothingIsDeadBeforeItsLetterIsStored(t *testing.T) {
	r := newRig(t, Worker{}, fail)
	release := r.squeeze(source.DeadStream())
	r.post("msg_1")

	var waits []time.Duration
	for range 2 {
		if got := r.deliver(&waits); got != later {
			t.Errorf("with a full archive the event's fate is %s; want %s", got, later)
		}
		if got := r.state("msg_1"); got != Burying {
			t.Errorf("with a full archive the event is %q; want %s", got, Burying)
		}
	}
	if len(waits) != 2 || waits[0] != refusedPause || waits[1] != refusedPause {
		t.Errorf("it waits %v; want %v each time", waits, refusedPause)
	}
	release()
	if got := r.deliver(&waits); got != dead {
		t.Errorf("with room in the archive the event's fate is %s; want %s", got, dead)
	}
	r.waitQuiet()
	if runs, _ := r.attempts("msg_1"); runs != 1 || r.state("msg_1") != Dead || len(r.letters()) != 1 {
		t.Errorf("%d runs, state %s, %d letters; want 1, dead and 1", runs, r.state("msg_1"), len(r.letters()))
	}
}

// What should be parked and cannot be waits in place, for a minute, and the attempt does not count.
func TestPromise6WhatCannotBeParkedWaitsInPlace(t *testing.T) {
	r := newRig(t, Worker{ParkAfter: time.Second, Attempts: 2}, func(context.Context, write) error {
		return RetryAfter(time.Hour, errBoom)
	})
	release := r.squeeze(source.ParkedStream())
	r.post("msg_1")

	var waits []time.Duration
	if got := r.deliver(&waits); got != later {
		t.Errorf("with a full parking the event's fate is %s; want %s", got, later)
	}
	rec := r.record(Key{WebhookID: "msg_1"})
	if rec.State != Waiting || rec.Attempts != 0 || len(waits) != 1 || waits[0] != refusedPause {
		t.Errorf("%s after %d attempts, and it waits %v; want waiting, 0 and %v", rec.State, rec.Attempts, waits, refusedPause)
	}

	release()
	claims := r.claims()
	rec, rev, err := claims.read(context.Background(), Key{WebhookID: "msg_1"})
	if err != nil {
		t.Fatal(err)
	}
	rec.Next = time.Now() // the minute is over
	if _, err := claims.write(context.Background(), Claim{Key: Key{WebhookID: "msg_1"}, Record: rec, Revision: rev}); err != nil {
		t.Fatal(err)
	}
	if got := r.deliver(&waits); got != parked {
		t.Errorf("with room the event's fate is %s; want %s", got, parked)
	}
	if rec := r.record(Key{WebhookID: "msg_1"}); rec.State != Parked || rec.Attempts != 1 {
		t.Errorf("%s after %d attempts; want parked after 1", rec.State, rec.Attempts)
	}
}

// An event that kills each process that works on it is a dead letter when its attempts are used up, and is not run once
// more.
func TestPromise6AnEventThatKillsItsProcessesIsADeadLetterInTheEnd(t *testing.T) {
	const attempts = 2
	r := newRig(t, Worker{AckWait: time.Second, Attempts: attempts}, nil)
	c := &crash{}
	r.worker.Handlers = []Handler{Handle(codat.AnyWriteSuccessful, func(_ context.Context, e write) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.runs = append(r.runs, e)
		c.dead = true
		return nil
	})}
	r.post("msg_1")
	for range attempts {
		c.dead = false
		streamtest.Wait(t, func() bool { // until the lease of the one that died is over
			r.another(c).deliver(crashMsg{hasty{r.next(source.Stream()), new([]time.Duration)}, c}, false)
			return c.dead
		}, "the process to die")
	}
	r.start()
	r.waitState("msg_1", Dead)
	r.waitQuiet()
	l := r.letters()
	if runs, _ := r.attempts("msg_1"); runs != attempts || len(l) != 1 {
		t.Fatalf("%d runs and %d letters; want %d and 1", runs, len(l), attempts)
	}
	if l[0].Cause != CauseCrash || l[0].Attempts != attempts || !strings.Contains(l[0].LastError, "never came to an end") {
		t.Errorf("letter %+v; want it to say %s after %d attempts", l[0], CauseCrash, attempts)
	}
}

// Who was given fewer attempts meanwhile than it had, and failed in all of them, did not crash.
func TestFewerAttemptsThanWereMadeAreNoCrash(t *testing.T) {
	r := newRig(t, Worker{Attempts: 2}, succeed)
	_, err := r.claims().write(context.Background(), Claim{Key: Key{WebhookID: "msg_1"}, Record: Record{
		State: Waiting, Attempts: 5, FirstError: "the first", LastError: "the ledger is closed",
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.post("msg_1")
	r.start()
	r.waitState("msg_1", Dead)
	if l := r.letters(); len(l) != 1 || l[0].Cause != CauseAttempts || l[0].Attempts != 5 || l[0].FirstError != "the first" || l[0].LastError != "the ledger is closed" {
		t.Errorf("letters %+v; want one with the cause %s and its errors", l, CauseAttempts)
	}
}

// An attempt whose lease ran out because the claims were away does not count, when they are there again soon.
func TestPromise7ALeaseThatIsLostBurnsNoAttempt(t *testing.T) {
	var ahead atomic.Int64 // of the clock: the lease is over when it is asked for
	r := newRig(t, Worker{AckWait: 6 * time.Second}, func(ctx context.Context, _ write) error {
		ahead.Store(int64(time.Hour))
		<-ctx.Done()
		return ctx.Err()
	})
	r.post("msg_1")
	run := r.another(&crash{})
	run.claims = &awayAtFirst{KVClaims: r.claims(), saves: 2}
	run.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if got := run.deliver(hasty{r.next(source.Stream()), new([]time.Duration)}, false); got != lost {
		t.Errorf("the event's fate is %s; want %s", got, lost)
	}
	if rec := r.record(Key{WebhookID: "msg_1"}); rec.State != Waiting || rec.Attempts != 0 {
		t.Errorf("%s after %d attempts; want waiting after none", rec.State, rec.Attempts)
	}
}

// awayAtFirst does not save the first of what it is to: a renewal, and the attempt that is given back.
type awayAtFirst struct {
	*KVClaims
	saves int
}

func (a *awayAtFirst) Save(ctx context.Context, c Claim) (Claim, error) {
	if a.saves--; a.saves >= 0 {
		return c, errAway
	}
	return a.KVClaims.Save(ctx, c)
}

// A claim that cannot be taken because its store does not answer runs nothing and settles nothing.
func TestPromise5WithoutAClaimNothingRuns(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
	r.post("msg_1")
	run := r.another(&crash{})
	run.claims = away{}
	var waits []time.Duration
	if got := run.deliver(hasty{r.next(source.Stream()), &waits}, false); got != unclaimed || len(waits) != 1 {
		t.Errorf("without claims the event's fate is %s after waits %v; want %s after one", got, waits, unclaimed)
	}
	if runs, _ := r.attempts("msg_1"); runs != 0 {
		t.Errorf("%d runs without a claim; want none", runs)
	}
}

// away is a store of claims that does not answer.
type away struct{}

var errAway = errors.New("the claims are away")

func (away) Take(context.Context, Key, Taking) (Claim, error) {
	return Claim{Record: Record{State: Running, Attempts: 1}}, errAway
}

func (away) Save(_ context.Context, c Claim) (Claim, error) {
	return c, fmt.Errorf("save: %w", errAway)
}
func (away) Look(context.Context, Key) (Record, error) { return Record{}, errAway }

// A process that is told to stop while it connects leaves nothing behind: a stop can come in any moment.
func TestPromise7AStopWhileConnectingLeavesNothingOpen(t *testing.T) {
	r := newRig(t, Worker{}, succeed)
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

// What a process took and did not begin goes back at a stop at once, and not when its AckWait is over.
func TestPromise7WhatWasNotBegunIsHandedBackAtOnce(t *testing.T) {
	started, release := make(chan struct{}, 9), make(chan struct{})
	r := newRig(t, Worker{
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
		// Nothing new is taken any more.
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		return err == nil && c.CachedInfo().NumWaiting == 0
	}, "the process to stop")
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("Run = %v; want a clean stop", err)
	}
	r.start()
	for i := range events {
		r.waitState(fmt.Sprintf("msg_%d", i), Done)
	}
}
