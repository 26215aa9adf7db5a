// Package claimstest is the conformance suite of workers.Claims: what every implementation must do so that the
// worker runtime keeps its promises on it. Run it in the implementation's tests.
package claimstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/workers"
)

// A Clock is the time that an implementation under test must use.
type Clock struct{ ahead atomic.Int64 }

// Now is the clock's time.
func (c *Clock) Now() time.Time { return epoch.Add(time.Duration(c.ahead.Load())) }

// Step moves the clock.
func (c *Clock) Step(d time.Duration) { c.ahead.Add(int64(d)) }

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const lease = time.Minute

// Run runs the suite. open returns an implementation over an empty store and the given clock; when it is called
// twice in one test it opens the same store again, as another process would.
func Run(t *testing.T, store func(t *testing.T) (open func(now func() time.Time) workers.Claims)) {
	for name, test := range map[string]func(*testing.T, *bench){
		"a first attempt is running, leased and counted":       first,
		"a running claim is busy until its lease and grace":    runningIsBusy,
		"an expired lease is taken over and counts an attempt": takeOver,
		"one of many takers wins":                              oneWinner,
		"one of many takers wins an expired lease":             oneWinnerOfExpired,
		"a saved claim can be saved again":                     savedTwice,
		"a claim that was taken over cannot be saved":          fenced,
		"what was saved before is saved again":                 savedBefore,
		"done and dead are final":                              final,
		"parked is for the parked copy":                        parkedCopy,
		"waiting is busy until its time":                       waiting,
		"burying is taken over without an attempt":             burying,
		"whatever a process did last, another goes on":         crashes,
		"a claim bound to a handler is saved like any other":   bound,
		"redrives are work of their own":                       redrive,
		"ids of any characters are kept apart":                 anyID,
		"errors and times survive":                             fidelity,
		"what never began has no claim":                        noClaim,
		"an ended context is an error and not an answer":       ended,
	} {
		t.Run(name, func(t *testing.T) {
			clock := &Clock{}
			open := store(t)
			test(t, &bench{clock, open(clock.Now), open(clock.Now)})
		})
	}
}

// bench is two processes on one store.
type bench struct {
	clock *Clock
	a, b  workers.Claims
}

var owners atomic.Int64

func taking() workers.Taking {
	return workers.Taking{Owner: fmt.Sprintf("owner-%d", owners.Add(1)), Sequence: 7, Lease: lease}
}

func parkedTaking() workers.Taking {
	t := taking()
	t.Parked = true
	return t
}

func take(t *testing.T, c workers.Claims, k workers.Key, by workers.Taking) workers.Claim {
	t.Helper()
	claim, err := c.Take(context.Background(), k, by)
	if err != nil {
		t.Fatalf("Take(%v) = %v; want a claim", k, err)
	}
	return claim
}

func save(t *testing.T, c workers.Claims, claim workers.Claim, change func(*workers.Record)) workers.Claim {
	t.Helper()
	change(&claim.Record)
	claim, err := c.Save(context.Background(), claim)
	if err != nil {
		t.Fatalf("Save(%s) = %v; want it saved", claim.Record.State, err)
	}
	return claim
}

func state(s workers.State) func(*workers.Record) {
	return func(r *workers.Record) { r.State = s }
}

func refused(t *testing.T, c workers.Claims, k workers.Key, by workers.Taking, want error) {
	t.Helper()
	if _, err := c.Take(context.Background(), k, by); !errors.Is(err, want) {
		t.Errorf("Take(%v) = %v; want %v", k, err, want)
	}
}

func busyUntil(t *testing.T, c workers.Claims, k workers.Key, by workers.Taking, want time.Time) {
	t.Helper()
	_, err := c.Take(context.Background(), k, by)
	var busy *workers.BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("Take(%v) = %v; want it busy", k, err)
	}
	if !busy.Until.Equal(want) {
		t.Errorf("Take(%v) is busy until %v; want %v", k, busy.Until, want)
	}
}

var key = workers.Key{WebhookID: "msg_1"}

func first(t *testing.T, b *bench) {
	by := taking()
	got := take(t, b.a, key, by).Record
	want := workers.Record{
		State: workers.Running, Sequence: 7, Attempts: 1, Owner: by.Owner,
		LeaseUntil: epoch.Add(lease), First: epoch, Last: epoch,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record of a first attempt (-want +got):\n%s", diff)
	}
	if seen, err := b.b.Look(context.Background(), key); err != nil || !cmp.Equal(seen, want) {
		t.Errorf("another process sees %+v, %v; want %+v", seen, err, want)
	}
}

func runningIsBusy(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	free := epoch.Add(lease + workers.Grace)
	busyUntil(t, b.b, key, taking(), free)
	busyUntil(t, b.a, key, taking(), free)
	b.clock.Step(lease + workers.Grace - time.Millisecond)
	busyUntil(t, b.b, key, taking(), free)
}

func takeOver(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	for attempt := 2; attempt < 5; attempt++ {
		b.clock.Step(lease + workers.Grace)
		by := taking()
		got := take(t, b.b, key, by).Record
		if got.Attempts != attempt || got.Owner != by.Owner || !got.First.Equal(epoch) || !got.Last.Equal(b.clock.Now()) {
			t.Errorf("takeover %d: %+v; want attempt %d of %s", attempt-1, got, attempt, by.Owner)
		}
	}
}

func oneWinner(t *testing.T, b *bench) { race(t, b, 1) }

func oneWinnerOfExpired(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	b.clock.Step(lease + workers.Grace)
	race(t, b, 2)
}

func race(t *testing.T, b *bench, attempt int) {
	t.Helper()
	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 16 {
		claims := b.a
		if i%2 == 1 {
			claims = b.b
		}
		wg.Go(func() {
			claim, err := claims.Take(context.Background(), key, taking())
			switch {
			case err == nil && claim.Record.Attempts == attempt:
				won.Add(1)
			case err == nil:
				t.Errorf("the winner has attempt %d; want %d", claim.Record.Attempts, attempt)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d takers won; want 1", won.Load())
	}
}

func savedTwice(t *testing.T, b *bench) {
	claim := take(t, b.a, key, taking())
	for range 3 {
		b.clock.Step(lease / 3)
		claim = save(t, b.a, claim, func(r *workers.Record) { r.LeaseUntil = b.clock.Now().Add(lease) })
	}
	busyUntil(t, b.b, key, taking(), epoch.Add(2*lease+workers.Grace))
	save(t, b.a, claim, state(workers.Done))
}

func fenced(t *testing.T, b *bench) {
	old := take(t, b.a, key, taking())
	b.clock.Step(lease + workers.Grace)
	current := take(t, b.b, key, taking())
	for _, s := range []workers.State{workers.Running, workers.Done, workers.Waiting, workers.Dead} {
		claim := old
		claim.Record.State = s
		if _, err := b.a.Save(context.Background(), claim); !errors.Is(err, workers.ErrLost) {
			t.Errorf("a zombie's Save(%s) = %v; want ErrLost", s, err)
		}
	}
	save(t, b.b, current, state(workers.Done))
	if _, err := b.a.Save(context.Background(), old); !errors.Is(err, workers.ErrLost) {
		t.Errorf("a zombie's Save after done = %v; want ErrLost", err)
	}
}

// savedBefore is the answer that was lost: the same record is given to Save again with the old fence.
func savedBefore(t *testing.T, b *bench) {
	claim := take(t, b.a, key, taking())
	renewed := claim
	renewed.Record.LeaseUntil = epoch.Add(2 * lease)
	for i := range 2 {
		if _, err := b.a.Save(context.Background(), renewed); err != nil {
			t.Fatalf("Save %d of the same record = %v; want it saved", i+1, err)
		}
	}
	claim.Record.State = workers.Done // with the fence from before the renewal
	if _, err := b.a.Save(context.Background(), claim); err != nil {
		t.Errorf("Save after a renewal whose answer was lost = %v; want it saved", err)
	}
	refused(t, b.b, key, taking(), workers.ErrSettled)
}

func final(t *testing.T, b *bench) {
	for _, s := range []workers.State{workers.Done, workers.Dead} {
		k := workers.Key{WebhookID: "msg_" + string(s)}
		save(t, b.a, take(t, b.a, k, taking()), state(s))
		b.clock.Step(24 * time.Hour)
		refused(t, b.a, k, taking(), workers.ErrSettled)
		refused(t, b.b, k, parkedTaking(), workers.ErrSettled)
	}
}

func parkedCopy(t *testing.T, b *bench) {
	next := epoch.Add(time.Hour)
	save(t, b.a, take(t, b.a, key, taking()), func(r *workers.Record) { r.State, r.Next = workers.Parked, next })
	refused(t, b.b, key, taking(), workers.ErrSettled)
	busyUntil(t, b.b, key, parkedTaking(), next)
	b.clock.Step(time.Hour)
	refused(t, b.b, key, taking(), workers.ErrSettled)
	if got := take(t, b.b, key, parkedTaking()).Record; got.Attempts != 2 || got.State != workers.Running || !got.Next.IsZero() {
		t.Errorf("the parked copy took %+v; want its second attempt running", got)
	}
}

func waiting(t *testing.T, b *bench) {
	next := epoch.Add(10 * time.Second)
	save(t, b.a, take(t, b.a, key, taking()), func(r *workers.Record) {
		r.State, r.Next, r.LeaseUntil = workers.Waiting, next, time.Time{}
	})
	busyUntil(t, b.b, key, taking(), next)
	b.clock.Step(10 * time.Second)
	if got := take(t, b.b, key, taking()).Record; got.Attempts != 2 {
		t.Errorf("attempts after a wait = %d; want 2", got.Attempts)
	}
}

func burying(t *testing.T, b *bench) {
	save(t, b.a, take(t, b.a, key, taking()), func(r *workers.Record) { r.State, r.Cause = workers.Burying, "permanent" })
	busyUntil(t, b.b, key, taking(), epoch.Add(lease+workers.Grace))
	b.clock.Step(lease + workers.Grace)
	claim := take(t, b.b, key, taking())
	if r := claim.Record; r.State != workers.Burying || r.Attempts != 1 || r.Cause != "permanent" {
		t.Errorf("taken over %+v; want it burying still, with its attempt and cause", r)
	}
	save(t, b.b, claim, state(workers.Dead))
}

// crashes is a process that dies after each of its writes: what it has left decides what others do, at once and when
// nobody holds the claim any more, and then it is a zombie that can write nothing.
func crashes(t *testing.T, b *bench) {
	const free = lease + workers.Grace
	running := func(attempt int) workers.Record { return workers.Record{State: workers.Running, Attempts: attempt} }
	tests := []struct {
		name string
		last func(*workers.Record) // nil: the claim is all that it wrote
		by   func() workers.Taking
		busy time.Duration  // for how long nobody gets it; below zero: never, it is settled
		then workers.Record // what is taken then: its state and attempts
	}{
		{"took it", nil, taking, free, running(2)},
		{"renewed it", func(r *workers.Record) { r.LeaseUntil = r.LeaseUntil.Add(lease) }, taking, lease + free, running(2)},
		{"gave it back", func(r *workers.Record) { r.State, r.Attempts, r.Next = workers.Waiting, 0, r.First }, taking, 0, running(1)},
		{"let it wait", func(r *workers.Record) { r.State, r.Next = workers.Waiting, r.First.Add(time.Second) }, taking, time.Second, running(2)},
		{"parked it, for its copy", func(r *workers.Record) { r.State, r.Next = workers.Parked, r.First.Add(time.Hour) }, parkedTaking, time.Hour, running(2)},
		{"parked it, for the event", func(r *workers.Record) { r.State, r.Next = workers.Parked, r.First.Add(time.Hour) }, taking, -1, workers.Record{}},
		{"began to bury it", state(workers.Burying), taking, free, workers.Record{State: workers.Burying, Attempts: 1}},
		{"did it", state(workers.Done), taking, -1, workers.Record{}},
		{"did it, for the parked copy", state(workers.Done), parkedTaking, -1, workers.Record{}},
		{"buried it", state(workers.Dead), taking, -1, workers.Record{}},
	}
	for _, tt := range tests {
		k := workers.Key{WebhookID: "it " + tt.name}
		began := b.clock.Now()
		zombie := take(t, b.a, k, taking())
		if tt.last != nil {
			zombie = save(t, b.a, zombie, tt.last)
		}
		if tt.busy < 0 {
			refused(t, b.b, k, tt.by(), workers.ErrSettled)
			b.clock.Step(free)
			refused(t, b.b, k, tt.by(), workers.ErrSettled)
			continue
		}
		if tt.busy > 0 {
			busyUntil(t, b.b, k, tt.by(), began.Add(tt.busy))
			b.clock.Step(tt.busy)
		}
		next := take(t, b.b, k, tt.by())
		if got := next.Record; got.State != tt.then.State || got.Attempts != tt.then.Attempts {
			t.Errorf("a process that %s and died: the next takes %+v; want %s, attempt %d", tt.name, got, tt.then.State, tt.then.Attempts)
		}
		for _, s := range []workers.State{workers.Running, workers.Waiting, workers.Parked, workers.Burying, workers.Done, workers.Dead} {
			late := zombie
			late.Record.State = s
			if _, err := b.a.Save(context.Background(), late); !errors.Is(err, workers.ErrLost) {
				t.Errorf("a process that %s comes back, Save(%s) = %v; want ErrLost", tt.name, s, err)
			}
		}
		save(t, b.b, next, state(workers.Done))
	}
}

func bound(t *testing.T, b *bench) {
	binder, ok := b.a.(workers.Binder)
	if !ok {
		return // nothing to bind
	}
	for _, s := range []workers.State{workers.Waiting, workers.Dead, workers.Done} {
		k := workers.Key{WebhookID: "msg_" + string(s)}
		claim := take(t, b.a, k, taking())
		if ctx := binder.Bind(context.Background(), claim); ctx.Err() != nil {
			t.Fatalf("Bind = a context that has ended: %v", ctx.Err())
		}
		claim = save(t, b.a, claim, func(r *workers.Record) { r.LeaseUntil = r.LeaseUntil.Add(lease) })
		save(t, b.a, claim, state(s))
		if got, err := b.b.Look(context.Background(), k); err != nil || got.State != s {
			t.Errorf("Look = %s, %v; want %s", got.State, err, s)
		}
	}
}

func redrive(t *testing.T, b *bench) {
	save(t, b.a, take(t, b.a, key, taking()), state(workers.Done))
	again := workers.Key{WebhookID: key.WebhookID, Redrive: "r1"}
	save(t, b.b, take(t, b.b, again, taking()), state(workers.Done))
	refused(t, b.a, again, taking(), workers.ErrSettled)
	take(t, b.a, workers.Key{WebhookID: key.WebhookID, Redrive: "r2"}, taking())
}

func anyID(t *testing.T, b *bench) {
	for _, id := range []string{"", " ", "msg.1", "msg.1.2", "*", ">", "a\x00b", "a\nb", "ü", "$KV.x", string(make([]byte, 4096))} {
		for _, redrive := range []string{"", id + "r"} {
			if got := take(t, b.a, workers.Key{WebhookID: id, Redrive: redrive}, taking()); got.Record.Attempts != 1 {
				t.Errorf("id %q, redrive %q: attempt %d; want its own first", id, redrive, got.Record.Attempts)
			}
		}
	}
}

func fidelity(t *testing.T, b *bench) {
	claim := take(t, b.a, key, taking())
	want := workers.Record{
		State: workers.Waiting, Sequence: 1 << 60, Attempts: 3, Pauses: 2, Owner: claim.Record.Owner,
		LeaseUntil: epoch, Next: epoch.Add(time.Nanosecond * 1000), First: epoch, Last: epoch.Add(time.Second),
		Cause: "attempts", FirstError: "it said \"no\"; ü", LastError: "it said <no>",
	}
	save(t, b.a, claim, func(r *workers.Record) { *r = want })
	got, err := b.b.Look(context.Background(), key)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Look, %v (-want +got):\n%s", err, diff)
	}
}

func noClaim(t *testing.T, b *bench) {
	if r, err := b.a.Look(context.Background(), key); !errors.Is(err, workers.ErrNoClaim) {
		t.Errorf("Look = %+v, %v; want ErrNoClaim", r, err)
	}
}

func ended(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.a.Take(ctx, key, taking()); err == nil || errors.Is(err, workers.ErrSettled) {
		t.Errorf("Take with an ended context = %v; want an error that settles nothing", err)
	}
	claim := take(t, b.a, workers.Key{WebhookID: "msg_2"}, taking())
	if _, err := b.a.Save(ctx, claim); err == nil || errors.Is(err, workers.ErrLost) {
		t.Errorf("Save with an ended context = %v; want an error that loses nothing", err)
	}
}
