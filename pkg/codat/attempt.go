package codat

import "time"

// attemptPauses are the pauses before each of Codat's attempts to deliver a message, from the end of the one before.
var attemptPauses = [...]time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}

// AttemptAfter returns which of Codat's eight attempts to deliver a message is made so long after the message was made, and 0 for a
// time at which it makes none by itself: a person has resent it. It is about so: a pause can be a fifth shorter or longer, is at least a
// minute after a timeout, and a person can resend a message at any time.
func AttemptAfter(d time.Duration) (attempt int) {
	const early, late = -time.Minute, 36 * time.Hour // clocks differ; the last attempt, with pauses and timeouts that are long
	if d < early || d > late {
		return 0
	}
	var sum time.Duration
	for _, pause := range attemptPauses {
		if sum += pause; d < sum*4/5 {
			break
		}
		attempt++
	}
	return max(attempt, 1)
}
