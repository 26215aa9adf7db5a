// Package codat describes the events that Codat sends: the names of their types, their
// payloads, and the head of a body whose type is not known yet. It accepts what Codat may
// change without notice (members, values of enumerations, types, dates), changes no byte
// of a body, and quotes no body in an error.
package codat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Event is one delivery of an event to a handler.
type Event[P any] struct {
	Payload     P
	Body        []byte    // the bytes that Codat sent; do not change them
	ContentType string    // of the body, as it was sent; "" when it is not known
	WebhookID   string    // the id that the signature covered; Codat's own id of the event is another
	Type        string    // canonical, e.g. invoices.write.successful
	Company     string    // company id, "" when the event has none
	Connection  string    // connection id, "" without one, or with several
	Generated   time.Time // zero when absent or unreadable
	Received    time.Time // when it was first stored
	Sequence    uint64    // of the event in its stream: orders events without a date
	Attempt     int       // 1 for the first
	Redrive     string    // "" unless an operator redrove the event
}

// ErrPayload means that a member of the payload has another JSON type than documented.
var ErrPayload = errors.New("codat: payload does not have the documented types")

// Decode decodes the payload: the member "payload", or the whole body without one,
// as in legacy rules. It ignores unknown members; absent and null members are zero. Its
// errors are ErrPayload and ErrUnreadable, and with an error the payload is zero. The
// body needs no type.
func Decode[P any](body []byte) (P, error) {
	var payload, none P
	top, err := object(body, func(_, rest []byte) int { return valueEnd(rest, maxDepth-1) })
	if err != nil {
		return none, err
	}
	raw := top
	for name, value := range members(top) {
		if string(name) == "payload" {
			raw = value
		}
	}
	if err := json.Unmarshal(raw, &payload); err != nil {
		return none, payloadError(err)
	}
	return payload, nil
}

// payloadError is an error of encoding/json without the value that it quotes.
func payloadError(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		found, _, _ := strings.Cut(kind.Value, " ")
		where := "the payload"
		if kind.Field != "" {
			where = kind.Field
		}
		return fmt.Errorf("%w: %s has the JSON type %s", ErrPayload, where, found)
	}
	return fmt.Errorf("%w: a number is invalid", ErrPayload)
}

// The errors of a body that cannot be read as an event. Each is an ErrUnreadable, and none
// quotes the body.
var (
	ErrUnreadable = errors.New("codat: unreadable body")
	ErrEmpty      = fmt.Errorf("%w: empty", ErrUnreadable)
	ErrNotJSON    = fmt.Errorf("%w: not JSON", ErrUnreadable)
	ErrTrailing   = fmt.Errorf("%w: data after the JSON value", ErrUnreadable)
	ErrNotObject  = fmt.Errorf("%w: not a JSON object", ErrUnreadable)
	ErrNoType     = fmt.Errorf("%w: no event type", ErrUnreadable)
)

// object returns body from its opening brace, and an error for a body that is not one JSON object. It calls visit as
// visitMembers does, also for a body for which it then returns an error.
func object(body []byte, visit func(name, rest []byte) int) ([]byte, error) {
	top := bytes.TrimLeft(body, " \t\r\n")
	if len(top) == 0 {
		return nil, ErrEmpty
	}
	var end int
	var ok bool
	if top[0] == '{' {
		end = visitMembers(top, visit)
		ok = end >= 0
	} else {
		end, ok = document(top, maxDepth)
	}
	switch {
	case !ok:
		return nil, ErrNotJSON
	case blank(top, end) < len(top):
		return nil, ErrTrailing
	case top[0] != '{':
		return nil, ErrNotObject
	}
	return top, nil
}
