// Package claimstest is the conformance suite of claims.Store: what an implementation must do so that the worker runtime
// keeps its promises. Call Run in the implementation's tests.
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

	"github.com/headgate/headgate/pkg/claims"
)

// A Clock is the clock that an implementation under test must use.
type Clock struct{ ahead atomic.Int64 }

// Now returns the clock's time.
func (c *Clock) Now() time.Time { return epoch.Add(time.Duration(c.ahead.Load())) }

// Step moves the clock forward.
func (c *Clock) Step(d time.Duration) { c.ahead.Add(int64(d)) }

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const lease = time.Minute

// Run runs the suite. open returns an implementation over an empty store with the given clock. A second call in the same
// test opens the same store again, as another process does.
func Run(t *testing.T, store func(t *testing.T) (open func(now func() time.Time) claims.Store)) {
	for name, test := range map[string]func(*testing.T, *bench){
		"a first attempt is running, leased and counted":       first,
		"a running claim is busy until its lease and grace":    runningIsBusy,
		"an expired lease is taken over and counts an attempt": takeOver,
		"a take without an answer goes on under its owner":     takeAgain,
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
	a, b  claims.Store
}

var owners atomic.Int64

func taking() claims.TakeRequest {
	return claims.TakeRequest{Owner: fmt.Sprintf("owner-%d", owners.Add(1)), Sequence: 7, Lease: lease}
}

func parkedTaking() claims.TakeRequest {
	t := taking()
	t.Parked = true
	return t
}

func take(t *testing.T, c claims.Store, k claims.Key, by claims.TakeRequest) claims.Claim {
	t.Helper()
	claim, err := c.Take(context.Background(), k, by)
	if err != nil {
		t.Fatalf("Take(%v) = %v; want a claim", k, err)
	}
	return claim
}

func save(t *testing.T, c claims.Store, claim claims.Claim, change func(*claims.Record)) claims.Claim {
	t.Helper()
	change(&claim.Record)
	claim, err := c.Save(context.Background(), claim)
	if err != nil {
		t.Fatalf("Save(%s) = %v; want it saved", claim.Record.State, err)
	}
	return claim
}

func state(s claims.State) func(*claims.Record) {
	return func(r *claims.Record) { r.State = s }
}

func refused(t *testing.T, c claims.Store, k claims.Key, by claims.TakeRequest, want error) {
	t.Helper()
	if _, err := c.Take(context.Background(), k, by); !errors.Is(err, want) {
		t.Errorf("Take(%v) = %v; want %v", k, err, want)
	}
}

func busyUntil(t *testing.T, c claims.Store, k claims.Key, by claims.TakeRequest, want time.Time) {
	t.Helper()
	_, err := c.Take(context.Background(), k, by)
	var busy *claims.BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("Take(%v) = %v; want it busy", k, err)
	}
	if !busy.Until.Equal(want) {
		t.Errorf("Take(%v) is busy until %v; want %v", k, busy.Until, want)
	}
}

var key = claims.Key{WebhookID: "msg_1"}

func first(t *testing.T, b *bench) {
	by := taking()
	got := take(t, b.a, key, by).Record
	want := claims.Record{
		State: claims.Running, Sequence: 7, Attempts: 1, Owner: by.Owner,
		LeaseUntil: epoch.Add(lease), First: epoch, Last: epoch,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record of a first attempt (-want +got):\n%s", diff)
	}
	if seen, err := b.b.Get(context.Background(), key); err != nil || !cmp.Equal(seen, want) {
		t.Errorf("another process sees %+v, %v; want %+v", seen, err, want)
	}
}

func runningIsBusy(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	free := epoch.Add(lease + claims.ClockSkew)
	busyUntil(t, b.b, key, taking(), free)
	busyUntil(t, b.a, key, taking(), free)
	b.clock.Step(lease + claims.ClockSkew - time.Millisecond)
	busyUntil(t, b.b, key, taking(), free)
}

func takeOver(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	for attempt := 2; attempt < 5; attempt++ {
		b.clock.Step(lease + claims.ClockSkew)
		by := taking()
		got := take(t, b.b, key, by).Record
		if got.Attempts != attempt || got.Owner != by.Owner || !got.First.Equal(epoch) || !got.Last.Equal(b.clock.Now()) {
			t.Errorf("takeover %d: %+v; want attempt %d of %s", attempt-1, got, attempt, by.Owner)
		}
	}
}

func takeAgain(t *testing.T, b *bench) {
	by := taking()
	take(t, b.a, key, by)
	b.clock.Step(2 * lease)
	got := take(t, b.a, key, by)
	if r := got.Record; r.Attempts != 1 || r.LastError != "" || !r.LeaseUntil.Equal(b.clock.Now().Add(lease)) {
		t.Errorf("second take of %s: %+v; want attempt 1 with a whole lease", by.Owner, r)
	}
	save(t, b.a, got, state(claims.Done))
}

func oneWinner(t *testing.T, b *bench) { race(t, b, 1) }

func oneWinnerOfExpired(t *testing.T, b *bench) {
	take(t, b.a, key, taking())
	b.clock.Step(lease + claims.ClockSkew)
	race(t, b, 2)
}

func race(t *testing.T, b *bench, attempt int) {
	t.Helper()
	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 16 {
		store := b.a
		if i%2 == 1 {
			store = b.b
		}
		wg.Go(func() {
			claim, err := store.Take(context.Background(), key, taking())
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
		claim = save(t, b.a, claim, func(r *claims.Record) { r.LeaseUntil = b.clock.Now().Add(lease) })
	}
	busyUntil(t, b.b, key, taking(), epoch.Add(2*lease+claims.ClockSkew))
	save(t, b.a, claim, state(claims.Done))
}

func fenced(t *testing.T, b *bench) {
	old := take(t, b.a, key, taking())
	b.clock.Step(lease + claims.ClockSkew)
	current := take(t, b.b, key, taking())
	for _, s := range []claims.State{claims.Running, claims.Done, claims.Waiting, claims.Dead} {
		claim := old
		claim.Record.State = s
		if _, err := b.a.Save(context.Background(), claim); !errors.Is(err, claims.ErrLost) {
			t.Errorf("a zombie's Save(%s) = %v; want ErrLost", s, err)
		}
	}
	save(t, b.b, current, state(claims.Done))
	if _, err := b.a.Save(context.Background(), old); !errors.Is(err, claims.ErrLost) {
		t.Errorf("a zombie's Save after done = %v; want ErrLost", err)
	}
}

// savedBefore tests a lost answer: the same record is passed to Save again with the old revision.
func savedBefore(t *testing.T, b *bench) {
	claim := take(t, b.a, key, taking())
	renewed := claim
	renewed.Record.LeaseUntil = epoch.Add(2 * lease)
	for i := range 2 {
		if _, err := b.a.Save(context.Background(), renewed); err != nil {
			t.Fatalf("Save %d of the same record = %v; want it saved", i+1, err)
		}
	}
	claim.Record.State = claims.Done // with the revision from before the renewal
	if _, err := b.a.Save(context.Background(), claim); err != nil {
		t.Errorf("Save after a renewal whose answer was lost = %v; want it saved", err)
	}
	refused(t, b.b, key, taking(), claims.ErrSettled)
}

func final(t *testing.T, b *bench) {
	for _, s := range []claims.State{claims.Done, claims.Dead} {
		k := claims.Key{WebhookID: "msg_" + string(s)}
		save(t, b.a, take(t, b.a, k, taking()), state(s))
		b.clock.Step(24 * time.Hour)
		refused(t, b.a, k, taking(), claims.ErrSettled)
		refused(t, b.b, k, parkedTaking(), claims.ErrSettled)
	}
}

func parkedCopy(t *testing.T, b *bench) {
	next := epoch.Add(time.Hour)
	save(t, b.a, take(t, b.a, key, taking()), func(r *claims.Record) { r.State, r.Next = claims.Parked, next })
	refused(t, b.b, key, taking(), claims.ErrSettled)
	busyUntil(t, b.b, key, parkedTaking(), next)
	b.clock.Step(time.Hour)
	refused(t, b.b, key, taking(), claims.ErrSettled)
	if got := take(t, b.b, key, parkedTaking()).Record; got.Attempts != 2 || got.State != claims.Running || !got.Next.IsZero() {
		t.Errorf("the parked copy took %+v; want its second attempt running", got)
	}
}

func waiting(t *testing.T, b *bench) {
	next := epoch.Add(10 * time.Second)
	save(t, b.a, take(t, b.a, key, taking()), func(r *claims.Record) {
		r.State, r.Next, r.LeaseUntil = claims.Waiting, next, time.Time{}
	})
	busyUntil(t, b.b, key, taking(), next)
	b.clock.Step(10 * time.Second)
	if got := take(t, b.b, key, taking()).Record; got.Attempts != 2 {
		t.Errorf("attempts after a wait = %d; want 2", got.Attempts)
	}
}

func burying(t *testing.T, b *bench) {
	save(t, b.a, take(t, b.a, key, taking()), func(r *claims.Record) { r.State, r.Cause = claims.Burying, "permanent" })
	busyUntil(t, b.b, key, taking(), epoch.Add(lease+claims.ClockSkew))
	b.clock.Step(lease + claims.ClockSkew)
	claim := take(t, b.b, key, taking())
	if r := claim.Record; r.State != claims.Burying || r.Attempts != 1 || r.Cause != "permanent" {
		t.Errorf("taken over %+v; want it burying still, with its attempt and cause", r)
	}
	save(t, b.b, claim, state(claims.Dead))
}

// crashes tests a process that dies after each of its writes: what it wrote decides what others do, at once and after its
// lease, and a process that lost its claim can write nothing.
func crashes(t *testing.T, b *bench) {
	const free = lease + claims.ClockSkew
	running := func(attempt int) claims.Record { return claims.Record{State: claims.Running, Attempts: attempt} }
	tests := []struct {
		name string
		last func(*claims.Record) // nil: it wrote only the claim
		by   func() claims.TakeRequest
		busy time.Duration // how long the claim is busy; below zero: for ever, it is settled
		then claims.Record // the record that is taken then: its state and attempts
	}{
		{"took it", nil, taking, free, running(2)},
		{"renewed it", func(r *claims.Record) { r.LeaseUntil = r.LeaseUntil.Add(lease) }, taking, lease + free, running(2)},
		{"gave it back", func(r *claims.Record) { r.State, r.Attempts, r.Next = claims.Waiting, 0, r.First }, taking, 0, running(1)},
		{"let it wait", func(r *claims.Record) { r.State, r.Next = claims.Waiting, r.First.Add(time.Second) }, taking, time.Second, running(2)},
		{"parked it, for its copy", func(r *claims.Record) { r.State, r.Next = claims.Parked, r.First.Add(time.Hour) }, parkedTaking, time.Hour, running(2)},
		{"parked it, for the event", func(r *claims.Record) { r.State, r.Next = claims.Parked, r.First.Add(time.Hour) }, taking, -1, claims.Record{}},
		{"began to bury it", state(claims.Burying), taking, free, claims.Record{State: claims.Burying, Attempts: 1}},
		{"did it", state(claims.Done), taking, -1, claims.Record{}},
		{"did it, for the parked copy", state(claims.Done), parkedTaking, -1, claims.Record{}},
		{"buried it", state(claims.Dead), taking, -1, claims.Record{}},
	}
	for _, tt := range tests {
		k := claims.Key{WebhookID: "it " + tt.name}
		began := b.clock.Now()
		zombie := take(t, b.a, k, taking())
		if tt.last != nil {
			zombie = save(t, b.a, zombie, tt.last)
		}
		if tt.busy < 0 {
			refused(t, b.b, k, tt.by(), claims.ErrSettled)
			b.clock.Step(free)
			refused(t, b.b, k, tt.by(), claims.ErrSettled)
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
		for _, s := range []claims.State{claims.Running, claims.Waiting, claims.Parked, claims.Burying, claims.Done, claims.Dead} {
			late := zombie
			late.Record.State = s
			if _, err := b.a.Save(context.Background(), late); !errors.Is(err, claims.ErrLost) {
				t.Errorf("a process that %s comes back, Save(%s) = %v; want ErrLost", tt.name, s, err)
			}
		}
		save(t, b.b, next, state(claims.Done))
	}
}

func bound(t *testing.T, b *bench) {
	binder, ok := b.a.(claims.Binder)
	if !ok {
		return // nothing to bind
	}
	for _, s := range []claims.State{claims.Waiting, claims.Dead, claims.Done} {
		k := claims.Key{WebhookID: "msg_" + string(s)}
		claim := take(t, b.a, k, taking())
		if ctx := binder.Bind(context.Background(), claim); ctx.Err() != nil {
			t.Fatalf("Bind = a context that has ended: %v", ctx.Err())
		}
		claim = save(t, b.a, claim, func(r *claims.Record) { r.LeaseUntil = r.LeaseUntil.Add(lease) })
		save(t, b.a, claim, state(s))
		if got, err := b.b.Get(context.Background(), k); err != nil || got.State != s {
			t.Errorf("Look = %s, %v; want %s", got.State, err, s)
		}
	}
}

func redrive(t *testing.T, b *bench) {
	save(t, b.a, take(t, b.a, key, taking()), state(claims.Done))
	again := claims.Key{WebhookID: key.WebhookID, Redrive: "r1"}
	save(t, b.b, take(t, b.b, again, taking()), state(claims.Done))
	refused(t, b.a, again, taking(), claims.ErrSettled)
	take(t, b.a, claims.Key{WebhookID: key.WebhookID, Redrive: "r2"}, taking())
}

func anyID(t *testing.T, b *bench) {
	for _, id := range []string{"", " ", "msg.1", "msg.1.2", "*", ">", "a\x00b", "a\nb", "ü", "$KV.x", string(make([]byte, 4096))} {
		for _, redrive := range []string{"", id + "r"} {
			if got := take(t, b.a, claims.Key{WebhookID: id, Redrive: redrive}, taking()); got.Record.Attempts != 1 {
				t.Errorf("id %q, redrive %q: attempt %d; want its own first", id, redrive, got.Record.Attempts)
			}
		}
	}
}

func fidelity(t *testing.T, b *bench) {
	claim := take(t, b.a, key, taking())
	want := claims.Record{
		State: claims.Waiting, Sequence: 1 << 60, Attempts: 3, Pauses: 2, Owner: claim.Record.Owner,
		LeaseUntil: epoch, Next: epoch.Add(time.Nanosecond * 1000), First: epoch, Last: epoch.Add(time.Second),
		Cause: "attempts", FirstError: "it said \"no\"; ü", LastError: "it said <no>",
	}
	save(t, b.a, claim, func(r *claims.Record) { *r = want })
	got, err := b.b.Get(context.Background(), key)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Look, %v (-want +got):\n%s", err, diff)
	}
}

func noClaim(t *testing.T, b *bench) {
	if r, err := b.a.Get(context.Background(), key); !errors.Is(err, claims.ErrNoClaim) {
		t.Errorf("Look = %+v, %v; want ErrNoClaim", r, err)
	}
}

func ended(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.a.Take(ctx, key, taking()); err == nil || errors.Is(err, claims.ErrSettled) {
		t.Errorf("Take with an ended context = %v; want an error that settles nothing", err)
	}
	claim := take(t, b.a, claims.Key{WebhookID: "msg_2"}, taking())
	if _, err := b.a.Save(ctx, claim); err == nil || errors.Is(err, claims.ErrLost) {
		t.Errorf("Save with an ended context = %v; want an error that loses nothing", err)
	}
}
