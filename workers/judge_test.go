package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
)

func TestJudge(t *testing.T) {
	boom := errors.New("boom")
	w := Worker{Attempts: 3, BackoffMin: time.Second, BackoffMax: time.Minute}
	for _, tt := range []struct {
		name string
		o    attemptResult
		want verdict
	}{
		{"no error is done", attemptResult{attempt: 1}, verdict{outcome: done, countsAttempt: true}},
		{"no error at the last attempt is done", attemptResult{attempt: 3}, verdict{outcome: done, countsAttempt: true}},
		{"any error is tried again", attemptResult{err: boom, attempt: 1}, verdict{outcome: retry, wait: 750 * time.Millisecond, countsAttempt: true}},
		{"the window doubles", attemptResult{err: boom, attempt: 2}, verdict{outcome: retry, wait: 1500 * time.Millisecond, countsAttempt: true}},
		{"until the attempts are used up", attemptResult{err: boom, attempt: 3}, verdict{outcome: dead, countsAttempt: true, cause: CauseAttempts}},
		{"more attempts than allowed are no reason to go on", attemptResult{err: boom, attempt: 9}, verdict{outcome: dead, countsAttempt: true, cause: CauseAttempts}},
		{"permanent is dead at once", attemptResult{err: Permanent(boom), attempt: 1}, verdict{outcome: dead, countsAttempt: true, cause: CausePermanent}},
		{"a wrapped mark counts", attemptResult{err: fmt.Errorf("x: %w", Permanent(boom)), attempt: 1}, verdict{outcome: dead, countsAttempt: true, cause: CausePermanent}},
		{"permanent without a reason is not a success", attemptResult{err: Permanent(nil), attempt: 1}, verdict{outcome: dead, countsAttempt: true, cause: CausePermanent}},
		{"the handler names the pause", attemptResult{err: RetryAfter(time.Hour, boom), attempt: 1}, verdict{outcome: retry, wait: time.Hour, countsAttempt: true}},
		{"but not for ever", attemptResult{err: RetryAfter(time.Hour, boom), attempt: 3}, verdict{outcome: dead, countsAttempt: true, cause: CauseAttempts}},
		{"a pause is at most MaxPause", attemptResult{err: RetryAfter(1000*time.Hour, boom), attempt: 1}, verdict{outcome: retry, wait: claims.MaxPause, countsAttempt: true}},
		{"a pause is not negative", attemptResult{err: RetryAfter(-time.Hour, boom), attempt: 1}, verdict{outcome: retry, countsAttempt: true}},
		{"unavailable burns nothing", attemptResult{err: Unavailable(boom), attempt: 3}, verdict{outcome: retry, wait: 3 * time.Second}},
		{"unavailable again waits longer", attemptResult{err: Unavailable(boom), attempt: 1, pauses: 3}, verdict{outcome: retry, wait: 6 * time.Second}},
		{"unavailable alone counts", attemptResult{err: Unavailable(boom), attempt: 2, isolated: true}, verdict{outcome: retry, wait: 1500 * time.Millisecond, countsAttempt: true}},
		{"unavailable alone is not tried for ever", attemptResult{err: Unavailable(boom), attempt: 3, isolated: true}, verdict{outcome: dead, countsAttempt: true, cause: CauseAttempts}},
		{"unavailable alone waits for its backoff at least", attemptResult{err: Unavailable(RetryAfter(time.Millisecond, boom)), attempt: 2, isolated: true}, verdict{outcome: retry, wait: 1500 * time.Millisecond, countsAttempt: true}},
		{"and for the pause that was asked for", attemptResult{err: Unavailable(RetryAfter(time.Hour, boom)), attempt: 2, isolated: true}, verdict{outcome: retry, wait: time.Hour, countsAttempt: true}},
		{"permanent wins over unavailable", attemptResult{err: Unavailable(Permanent(boom)), attempt: 1}, verdict{outcome: dead, countsAttempt: true, cause: CausePermanent}},
		{"a time-out is any error", attemptResult{err: context.DeadlineExceeded, attempt: 1}, verdict{outcome: retry, wait: 750 * time.Millisecond, countsAttempt: true}},
	} {
		if got := judge(w, tt.o, 0.5); got != tt.want {
			t.Errorf("%s: judge(%+v) = %+v; want %+v", tt.name, tt.o, got, tt.want)
		}
	}
}

func TestBackoff_StaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Worker{BackoffMin: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "min"))}
		w.BackoffMax = w.BackoffMin + time.Duration(rapid.Int64Range(0, int64(claims.MaxPause)).Draw(t, "more"))
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

func TestLastError_IsOneBoundedLine(t *testing.T) {
	for _, in := range []string{"plain", "two\nlines\r\n\tand a tab", strings.Repeat("ü", 5000), "bad \xff utf8", "\x00\x7f"} {
		got := lastError(errors.New(in))
		if len(got) > 1024 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\t\x00\x7f") {
			t.Errorf("lastError(%.20q) = %.40q, %d bytes", in, got, len(got))
		}
	}
}

// An unavailable event is tried again within maxUnavailablePause, however long the worker's own backoff is.
func TestJudge_BoundsThePauseOfUnavailable(t *testing.T) {
	w := Worker{}.withDefaults()
	got := judge(w, attemptResult{err: Unavailable(errors.New("boom")), attempt: 20, pauses: 20}, 1)
	if want := (verdict{outcome: retry, wait: maxUnavailablePause}); got != want {
		t.Errorf("judge = %+v; want %+v", got, want)
	}
}

// The table of waits in docs/operate.md is what the defaults come to, and they span a day at least.
func TestDefaults_AreTheTableOfTheDocs(t *testing.T) {
	w := Worker{}.withDefaults()
	var least, most time.Duration
	var rows strings.Builder
	for attempt := 2; attempt <= w.Attempts; attempt++ {
		shortest, longest := w.backoff(attempt-1, 0), w.backoff(attempt-1, 1)
		least, most = least+shortest, most+longest
		switch attempt {
		case 2, 5, 10, 15, 20, w.Attempts:
			fmt.Fprintf(&rows, "| %d | %s to %s | %s to %s |\n", attempt, rounded(shortest), rounded(longest), rounded(least), rounded(most))
		}
	}
	if least < 24*time.Hour {
		t.Errorf("the attempts span %s at least; want a day", least)
	}
	page, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), rows.String()) {
		t.Errorf("docs/operate.md does not have the rows\n%s", rows.String())
	}
}

// rounded is a duration with one unit.
func rounded(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}

// judge runs for every delivery.
func BenchmarkJudge(b *testing.B) {
	w := Worker{Name: "b"}.withDefaults()
	err := errors.New("boom")
	for b.Loop() {
		judge(w, attemptResult{err: err, attempt: 3}, 0.5)
	}
}
