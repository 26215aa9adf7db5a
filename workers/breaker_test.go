package workers

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
)

func TestBreaker_OpensAndCloses(t *testing.T) {
	k := func(n int) claims.Key { return claims.Key{WebhookID: fmt.Sprint(n)} }
	down, up, boom, elsewhere := "down", "up", "boom", "up elsewhere"
	for _, tt := range []struct {
		name   string
		events []struct {
			key int
			how string
		}
		paused bool
		alone  bool // the last one
	}{
		{"three different events in a row open it", seq(1, down, 2, down, 3, down), true, false},
		{"two do not", seq(1, down, 2, down), false, false},
		{"nor does one, however often", seq(1, down, 1, down, 1, down, 1, down), false, false},
		{"a success in between breaks the row", seq(1, down, 2, down, 4, up, 3, down), false, false},
		{"and so does any other error: what was needed answered", seq(1, down, 2, down, 4, boom, 3, down), false, false},
		{"any other end of a probe closes it", seq(1, down, 2, down, 3, down, 4, up), false, false},
		{"a failing probe keeps it open", seq(1, down, 2, down, 3, down, 4, down), true, false},
		{"one that is unavailable again after a success of others is alone", seq(1, down, 2, up, 1, down), false, true},
		{"but not after one of another handler", seq(1, down, 2, elsewhere, 1, down), false, false},
		{"and another handler that works does not keep it closed for long", seq(1, down, 9, elsewhere, 1, down, 2, down, 3, down), true, false},
		{"nor after another's error", seq(1, down, 2, boom, 1, down), false, false},
		{"nor at its first time", seq(2, up, 1, down), false, false},
		{"one that answered begins anew", seq(1, down, 2, up, 1, boom, 1, down), false, false},
		{"alone ones do not open it", seq(1, down, 2, down, 3, down, 9, up, 1, down, 2, down, 3, down), false, true},
	} {
		b := newBreaker(time.Now)
		var alone bool
		for _, e := range tt.events {
			switch e.how {
			case down:
				alone = b.recordUnavailable(k(e.key), "it", false)
			case up:
				b.recordAnswer(k(e.key), "it", nil)
			case elsewhere:
				b.recordAnswer(k(e.key), "another", nil)
			case boom:
				b.recordAnswer(k(e.key), "it", errPanic)
			}
		}
		if got := !b.pausedSince().IsZero(); got != tt.paused || alone != tt.alone {
			t.Errorf("%s: paused %v, alone %v; want %v, %v", tt.name, got, alone, tt.paused, tt.alone)
		}
		select {
		case <-b.openChan():
			if !tt.paused {
				t.Errorf("%s: it says that it is open", tt.name)
			}
		default:
			if tt.paused {
				t.Errorf("%s: it does not say that it is open", tt.name)
			}
		}
	}
}

func seq(pairs ...any) (events []struct {
	key int
	how string
},
) {
	for i := 0; i < len(pairs); i += 2 {
		events = append(events, struct {
			key int
			how string
		}{pairs[i].(int), pairs[i+1].(string)})
	}
	return events
}

func TestBreaker_ProbesLessOftenWhileProbesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(time.Now)
		if b.waitForProbe(t.Context()) {
			t.Error("a closed breaker asks for a probe")
		}
		for i := range 3 {
			b.recordUnavailable(claims.Key{WebhookID: fmt.Sprint(i)}, "it", false)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			began := time.Now()
			if !b.waitForProbe(t.Context()) {
				t.Fatalf("probe %d is not asked for", i)
			}
			if got := time.Since(began); got != want*time.Second {
				t.Errorf("probe %d after %v; want %v", i, got, want*time.Second)
			}
			b.recordUnavailable(claims.Key{WebhookID: fmt.Sprint("probe ", i)}, "it", true)
			b.recordUnavailable(claims.Key{WebhookID: fmt.Sprint("began before ", i)}, "it", false)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if b.waitForProbe(ctx) {
			t.Error("a stop does not end the wait for a probe")
		}
		go func() {
			<-time.After(3 * time.Second) // virtual: the other probe of the two consumers
			b.recordAnswer(claims.Key{}, "it", nil)
		}()
		if began := time.Now(); b.waitForProbe(t.Context()) || time.Since(began) != 3*time.Second {
			t.Errorf("a breaker that closes ends the wait after %v; want 3s and no probe", time.Since(began))
		}
	})
}

// One delivery of a key runs at a time and the others keep their order. None is lost, and no key stays busy.
func TestKeyQueues_RunOneDeliveryOfAKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newKeyQueues(rapid.IntRange(1, 4).Draw(t, "length"))
		model := map[string][]jetstream.Msg{}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
				n++
				m := numbered{n: n}
				want := queued
				switch waiting, busy := model[key]; {
				case !busy:
					want, model[key] = admitted, nil
				case len(waiting) >= l.length:
					want = queueFull
				default:
					model[key] = append(waiting, m)
				}
				if got := l.enter(key, m); got != want {
					t.Fatalf("enter(%s) = %v; want %v", key, got, want)
				}
			},
			"leave": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
				lane, busy := model[key]
				if !busy {
					t.Skip("nothing of the key runs")
				}
				got, ok := l.leave(key)
				if len(lane) == 0 {
					delete(model, key)
					if ok {
						t.Fatalf("leave(%s) = %v; want the key free", key, got)
					}
					return
				}
				model[key] = lane[1:]
				if !ok || got != lane[0] {
					t.Fatalf("leave(%s) = %v, %v; want %v", key, got, ok, lane[0])
				}
			},
			"": func(t *rapid.T) {
				want := 0
				for _, lane := range model {
					want += len(lane)
				}
				if got := len(l.queued()); got != want || len(l.busy) != len(model) {
					t.Fatalf("%d wait for %d keys; want %d for %d", got, len(l.busy), want, len(model))
				}
			},
		})
	})
}

type numbered struct {
	jetstream.Msg
	n int
}
