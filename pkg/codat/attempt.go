package codat

import (
	"math/big"
	"strings"
	"time"
)

// ksuidEpoch is where the time of a KSUID begins.
const ksuidEpoch = 1_400_000_000

// MessageTime returns when Svix made the message of a webhook-id, to the second. Its ids are msg_ and a KSUID, which begins with
// the time. It returns false for another id, and for a time that Codat cannot have sent anything at.
func MessageTime(webhookID string) (time.Time, bool) {
	text, ok := strings.CutPrefix(webhookID, "msg_")
	if !ok || len(text) != 27 {
		return time.Time{}, false
	}
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	number := new(big.Int)
	for i := range len(text) {
		d := strings.IndexByte(digits, text[i])
		if d < 0 {
			return time.Time{}, false
		}
		number.Add(number.Mul(number, big.NewInt(int64(len(digits)))), big.NewInt(int64(d)))
	}
	seconds := number.Rsh(number, 128) // the other 16 bytes are random
	if seconds.BitLen() > 32 {
		return time.Time{}, false
	}
	at := time.Unix(ksuidEpoch+seconds.Int64(), 0).UTC()
	return at, at.Year() >= 2020
}

// attemptPauses are the pauses before each of Codat's attempts to deliver a message, from the end of the one before.
var attemptPauses = [...]time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}

// AttemptAfter returns which of Codat's eight attempts to deliver a message is made so long after the message was made, and 0 for a
// time at which it makes none by itself: somebody has resent it. It is about so: a pause can be a fifth shorter or longer, is at least a
// minute after a timeout, and anybody can resend a message at any time.
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
