package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestJudge(t *testing.T) {
	boom := errors.New("boom")
	w := Worker{Attempts: 3, BackoffMin: time.Second, BackoffMax: time.Minute}
	for _, tt := range []struct {
		name string
		o    outcome
		want verdict
	}{
		{"no error is done", outcome{attempt: 1}, verdict{fate: done, burnt: true}},
		{"no error at the last attempt is done", outcome{attempt: 3}, verdict{fate: done, burnt: true}},
		{"any error is tried again", outcome{err: boom, attempt: 1}, verdict{fate: later, wait: 500 * time.Millisecond, burnt: true}},
		{"the window doubles", outcome{err: boom, attempt: 2}, verdict{fate: later, wait: time.Second, burnt: true}},
		{"until the attempts are used up", outcome{err: boom, attempt: 3}, verdict{fate: dead, burnt: true, cause: CauseAttempts}},
		{"more attempts than allowed are no reason to go on", outcome{err: boom, attempt: 9}, verdict{fate: dead, burnt: true, cause: CauseAttempts}},
		{"permanent is dead at once", outcome{err: Permanent(boom), attempt: 1}, verdict{fate: dead, burnt: true, cause: CausePermanent}},
		{"a wrapped mark counts", outcome{err: fmt.Errorf("x: %w", Permanent(boom)), attempt: 1}, verdict{fate: dead, burnt: true, cause: CausePermanent}},
		{"permanent without a reason is not a success", outcome{err: Permanent(nil), attempt: 1}, verdict{fate: dead, burnt: true, cause: CausePermanent}},
		{"the handler names the pause", outcome{err: RetryAfter(time.Hour, boom), attempt: 1}, verdict{fate: later, wait: time.Hour, burnt: true}},
		{"but not for ever", outcome{err: RetryAfter(time.Hour, boom), attempt: 3}, verdict{fate: dead, burnt: true, cause: CauseAttempts}},
		{"a pause is at most MaxPause", outcome{err: RetryAfter(1000*time.Hour, boom), attempt: 1}, verdict{fate: later, wait: MaxPause, burnt: true}},
		{"a pause is not negative", outcome{err: RetryAfter(-time.Hour, boom), attempt: 1}, verdict{fate: later, burnt: true}},
		{"unavailable burns nothing", outcome{err: Unavailable(boom), attempt: 3}, verdict{fate: later, wait: 2 * time.Second}},
		{"unavailable again waits longer", outcome{err: Unavailable(boom), attempt: 1, pauses: 3}, verdict{fate: later, wait: 4 * time.Second}},
		{"unavailable alone counts", outcome{err: Unavailable(boom), attempt: 2, alone: true}, verdict{fate: later, wait: time.Second, burnt: true}},
		{"unavailable alone is not tried for ever", outcome{err: Unavailable(boom), attempt: 3, alone: true}, verdict{fate: dead, burnt: true, cause: CauseAttempts}},
		{"permanent wins over unavailable", outcome{err: Unavailable(Permanent(boom)), attempt: 1}, verdict{fate: dead, burnt: true, cause: CausePermanent}},
		{"a time-out is any error", outcome{err: context.DeadlineExceeded, attempt: 1}, verdict{fate: later, wait: 500 * time.Millisecond, burnt: true}},
	} {
		if got := judge(w, tt.o, 0.5); got != tt.want {
			t.Errorf("%s: judge(%+v) = %+v; want %+v", tt.name, tt.o, got, tt.want)
		}
	}
}

func TestBackoffStaysInItsWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Worker{BackoffMin: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "min"))}
		w.BackoffMax = w.BackoffMin + time.Duration(rapid.Int64Range(0, int64(MaxPause)).Draw(t, "more"))
		attempt := rapid.IntRange(1, 1000).Draw(t, "attempt")
		jitter := rapid.Float64Range(0, 1).Draw(t, "jitter")
		got := w.backoff(attempt, jitter)
		if got < time.Millisecond || got > max(w.BackoffMax, time.Millisecond) {
			t.Fatalf("backoff(%d) of %v..%v = %v", attempt, w.BackoffMin, w.BackoffMax, got)
		}
		if most := max(w.BackoffMin, time.Millisecond); attempt == 1 && got > most {
			t.Fatalf("first backoff = %v; want at most %v", got, most)
		}
	})
}

func TestAnErrorIsOneBoundedLine(t *testing.T) {
	for _, in := range []string{"plain", "two\nlines\r\n\tand a tab", strings.Repeat("ü", 5000), "bad \xff utf8", "\x00\x7f"} {
		got := lastError(errors.New(in))
		if len(got) > 1024 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\t\x00\x7f") {
			t.Errorf("lastError(%.20q) = %.40q, %d bytes", in, got, len(got))
		}
	}
}

// judge is asked for every delivery.
func BenchmarkJudge(b *testing.B) {
	w := Worker{Name: "b"}.withDefaults()
	err := errors.New("boom")
	for b.Loop() {
		judge(w, outcome{err: err, attempt: 3}, 0.5)
	}
}
