package workers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// outcome says how a delivery ended. The log field "outcome" and the metric label "outcome" carry the same word.
type outcome string

const (
	done           outcome = "done"            // the handler succeeded and the claim says so
	alreadySettled outcome = "already_settled" // the event was done, dead or parked before: only the ack was missing
	retry          outcome = "retry"           // the next attempt follows after a wait on the worker's own consumer
	parked         outcome = "parked"          // the next attempt follows after a wait on the parked consumer
	dead           outcome = "dead"            // the dead letter is stored
	busy           outcome = "busy"            // another process holds the claim, or the next attempt is not due
	noHandler      outcome = "no_handler"      // this version of the worker has no handler for the type
	returned       outcome = "returned"        // the process stopped before an attempt ended or began
	leaseLost      outcome = "lease_lost"      // the lease was lost: the process that holds the claim settles the event
	claimError     outcome = "claim_error"     // the claim could not be taken or saved
)

// outcomes are all outcomes, so that each has a series from the start.
var outcomes = []outcome{done, alreadySettled, retry, parked, dead, busy, noHandler, returned, leaseLost, claimError}

// attemptResult is what judge needs to know of an attempt that ended.
type attemptResult struct {
	err      error
	attempt  int  // 1 for the first
	pauses   int  // how many attempts before it in a row were unavailable and not counted
	isolated bool // the event is unavailable again although its handler succeeded with others since
}

// verdict says what happens with an event after an attempt.
type verdict struct {
	outcome       outcome
	wait          time.Duration
	countsAttempt bool // the attempt is counted
	cause         string
}

// Causes of a dead letter.
const (
	CausePermanent = "permanent" // the handler returned Permanent
	CauseAttempts  = "attempts"  // the attempts are used up
	CauseCrash     = "crash"     // the attempts are used up, and the last one never ended
)

// judge is the retry policy. It has no side effects. jitter is in [0, 1).
func judge(w Worker, o attemptResult, jitter float64) verdict {
	var again retryAfter
	asked, unavailable := errors.As(o.err, &again), errors.As(o.err, new(unavailable))
	switch {
	case o.err == nil:
		return verdict{outcome: done, countsAttempt: true}
	case errors.As(o.err, new(permanent)):
		return verdict{outcome: dead, countsAttempt: true, cause: CausePermanent}
	case unavailable && !o.isolated:
		wait := min(w.backoff(o.attempt+o.pauses, jitter), maxUnavailablePause)
		return verdict{outcome: retry, wait: max(wait, again.pause)}
	case o.attempt >= w.Attempts && errors.Is(o.err, errAbandoned):
		return verdict{outcome: dead, countsAttempt: true, cause: CauseCrash}
	case o.attempt >= w.Attempts:
		return verdict{outcome: dead, countsAttempt: true, cause: CauseAttempts}
	case asked && !unavailable:
		return verdict{outcome: retry, wait: again.pause, countsAttempt: true}
	}
	// A short pause that a service asks for must not use up the attempts within seconds.
	return verdict{outcome: retry, wait: max(w.backoff(o.attempt, jitter), again.pause), countsAttempt: true}
}

// maxUnavailablePause bounds the pause of an event that was unavailable: it is soon tried again when what its handler needs
// is there again.
const maxUnavailablePause = 15 * time.Minute

// backoff returns the pause after an attempt: between half of a window and the window, which doubles with every attempt.
func (w Worker) backoff(attempt int, jitter float64) time.Duration {
	window := w.BackoffMin
	for i := 1; i < attempt && window < w.BackoffMax; i++ {
		window *= 2
	}
	window = min(window, w.BackoffMax)
	// A NAK without a delay comes back at once, so the pause is at least a millisecond.
	return max(time.Duration((1+jitter)/2*float64(window)), time.Millisecond)
}

// jitter returns a random number in [0, 1).
func jitter() float64 { return rand.Float64() }

// maxErrorText is the longest text of an error, and the longest detail, that is kept: in bytes.
const maxErrorText = 1024

// lastError returns the text of an error as claims, dead letters and logs keep it: one line of at most 1 KiB.
func lastError(err error) string { return oneLine(fmt.Sprint(err), maxErrorText) }

// oneLine returns at most n bytes of a text, with a space for each control character: fit for a header and a log.
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
