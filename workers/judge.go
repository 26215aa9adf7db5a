package workers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// fate is where a delivery ends; log and metrics use the same words.
type fate string

const (
	done      fate = "done"      // the handler succeeded, and that is remembered
	settled   fate = "settled"   // it was done, dead or parked before: only the ack was missing
	later     fate = "later"     // it is tried again after a wait
	parked    fate = "parked"    // it is tried again after a long wait, on the parked consumer
	dead      fate = "dead"      // it is a dead letter
	busy      fate = "busy"      // another process has it, or its time has not come
	unhandled fate = "unhandled" // this version of the worker has no handler for it
	givenBack fate = "givenback" // the process stopped before the attempt ended
	lost      fate = "lost"      // the lease was lost: somebody else settles it
	unclaimed fate = "unclaimed" // the claim could not be taken or saved
)

// fates are all of them, so that each is a metric from the start.
var fates = []fate{done, settled, later, parked, dead, busy, unhandled, givenBack, lost, unclaimed}

// outcome is what is known when an attempt has ended.
type outcome struct {
	err     error
	attempt int  // 1 for the first
	pauses  int  // how often it was unavailable before, without an attempt being counted
	alone   bool // unavailable again although its handler succeeded with others since
}

// verdict is what becomes of an event.
type verdict struct {
	fate  fate
	wait  time.Duration
	burnt bool // the attempt counts
	cause string
}

// Causes of a dead letter.
const (
	CausePermanent = "permanent" // the handler said that no attempt can mend it
	CauseAttempts  = "attempts"  // the attempts are used up
	CauseCrash     = "crash"     // as CauseAttempts, but the last attempt never came to an end
)

// judge is the whole retry policy. It touches nothing, so a table tests it. jitter is in [0, 1).
func judge(w Worker, o outcome, jitter float64) verdict {
	var again retryAfter
	switch {
	case o.err == nil:
		return verdict{fate: done, burnt: true}
	case errors.As(o.err, new(permanent)):
		return verdict{fate: dead, burnt: true, cause: CausePermanent}
	case errors.As(o.err, new(unavailable)) && !o.alone:
		return verdict{fate: later, wait: w.backoff(o.attempt+o.pauses, jitter)}
	case o.attempt >= w.Attempts:
		return verdict{fate: dead, burnt: true, cause: CauseAttempts}
	case errors.As(o.err, &again):
		return verdict{fate: later, wait: again.pause, burnt: true}
	}
	return verdict{fate: later, wait: w.backoff(o.attempt, jitter), burnt: true}
}

// backoff is full jitter: anywhere between nothing and a window that doubles with every attempt.
func (w Worker) backoff(attempt int, jitter float64) time.Duration {
	window := w.BackoffMin
	for i := 1; i < attempt && window < w.BackoffMax; i++ {
		window *= 2
	}
	window = min(window, w.BackoffMax)
	// A NAK without a delay would come back at once: a millisecond keeps it a delay.
	return max(time.Duration(jitter*float64(window)), time.Millisecond)
}

// jitter is the production's source for judge.
func jitter() float64 { return rand.Float64() }

// lastError is the text that a claim and a dead letter keep of an error: one line, 1 KiB at most.
func lastError(err error) string { return oneLine(fmt.Sprint(err), 1024) }

// oneLine makes a text fit for a header and a log: printable, on one line, at most n bytes.
func oneLine(s string, n int) string {
	out := make([]rune, 0, min(len(s), n))
	size := 0
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if size += len(string(r)); size > n {
			break
		}
		out = append(out, r)
	}
	return string(out)
}
