package inspect

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// An Arrival is what a stored event tells of the request that brought it. The process that received it, and requests that brought it
// again, are in the logs of the ingress only.
type Arrival struct {
	// Signed is when Codat made the attempt to deliver that was stored. It is zero when the event does not say.
	Signed time.Time `json:"signed,omitzero"`
	// Made is when Codat made the message: the time in the webhook-id, or else the one in the body. It is zero when neither is there.
	Made time.Time `json:"made,omitzero"`
	// Attempt is about which of Codat's eight attempts it was, as codat.AttemptAfter says, and 0 for none of them, or when a time
	// is not known.
	Attempt int `json:"about_attempt,omitempty"`
	// Key is the fingerprint of the key that verifies the stored bytes. Find leaves it empty, because it has no keys.
	Key string `json:"key,omitempty"`
}

// longestReplay is more than how long after an event Codat can send it again. An id with an earlier time is another sender's.
const longestReplay = 90 * 24 * time.Hour

// arrivalOf returns the arrival of an event.
func arrivalOf(s stream.Source, m *jetstream.RawStreamMsg) (a Arrival) {
	e := s.OpenRaw(m)
	if seconds, err := strconv.ParseInt(e.Timestamp, 10, 64); err == nil && seconds > 0 {
		a.Signed = time.Unix(seconds, 0).UTC()
	}
	a.Made = e.Head.Generated.UTC()
	if at, ok := signature.IDTime(e.ID); ok && a.Signed.Sub(at) > -time.Minute && a.Signed.Sub(at) < longestReplay {
		a.Made = at
	}
	if !a.Signed.IsZero() && !a.Made.IsZero() {
		a.Attempt = codat.AttemptAfter(a.Signed.Sub(a.Made))
	}
	return a
}
