package stream

import (
	"testing"
	"testing/synctest"
	"time"
)

// A try that begins late can be blocked by nats.go until after the time at which a publish has to end.
func TestBeforeTry_BeginsNoneInTheLastSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(8 * time.Second)
		last := lastTry(until)
		time.Sleep(6500 * time.Millisecond)
		for pause, want := range map[time.Duration]time.Duration{
			250 * time.Millisecond: 250 * time.Millisecond,
			time.Second:            1500 * time.Millisecond, // the end
		} {
			if got := beforeTry(pause, last, until); got != want {
				t.Errorf("the pause of %s, 1.5 s before the end, is %s; want %s", pause, got, want)
			}
		}
		if got := beforeTry(time.Second, lastTry(time.Time{}), time.Time{}); got != time.Second {
			t.Errorf("the pause of a second without an end is %s", got)
		}
		until = time.Now().Add(500 * time.Millisecond)
		if got := lastTry(until); got != until.Add(-250*time.Millisecond) {
			t.Errorf("of 500 ms the last try begins %s before the end; want half", until.Sub(got))
		}
	})
}
