// Package codat is what Codat sends: the names of its event types, the payloads that
// belong to them, and the reading of a body whose type is not known yet. It promises to
// be lenient with whatever may change without notice (members, values of enumerations,
// types, dates), to change no byte of a body, and to quote no body in an error.
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
	Payload    P
	Body       []byte    // as it came, to the byte; do not change it
	WebhookID  string    // the id that the signature covered; Codat's own id of the event is another
	Type       string    // canonical, e.g. invoices.write.successful
	Company    string    // company id, "" when the event has none
	Connection string    // connection id, "" when there is none or several
	Generated  time.Time // zero when the event does not say, or says it unreadably
	Received   time.Time // when it was first stored
	Sequence   uint64    // of the event in its stream: orders events without a date
	Attempt    int       // 1 for the first
	Redrive    string    // "" unless an operator gave the event again
}

// IsFirstRead reports whether an event of type typ tells of the first read after a
// connection was authorised. Its datasets say that no records were modified, whatever
// was read.
func IsFirstRead(typ string) bool {
	switch typ {
	case string(ReadCompletedInitial), string(ReadCompletedSuccessfulInitial), string(NewCompanySynchronized):
		return true
	}
	return false
}

// ErrPayload is the error of a body that is readable as an event, but whose payload has
// a member of another kind than documented.
var ErrPayload = errors.New("codat: payload is not of the documented shape")

// Decode decodes the payload: the member "payload" where the body has one, else the body
// itself, as legacy rules need. Unknown members are ignored, absent and null ones leave
// the zero value. Errors are ErrPayload or, where Read would fail for the same reason,
// ErrUnreadable; beside an error the payload is zero. A body without a type is decoded:
// the caller knows the type.
func Decode[P any](body []byte) (P, error) {
	var payload, none P
	top, err := object(body, func(_, _ []byte) {})
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

// payloadError says what is wrong without the value, which encoding/json would quote.
func payloadError(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		found, _, _ := strings.Cut(kind.Value, " ")
		where := "it"
		if kind.Field != "" {
			where = kind.Field
		}
		return fmt.Errorf("%w: %s is of kind %s", ErrPayload, where, found)
	}
	return fmt.Errorf("%w: a number is written in a way that is none", ErrPayload)
}

// Why a body cannot be read as an event. Each is an ErrUnreadable, and none quotes the body.
var (
	ErrUnreadable = errors.New("codat: unreadable body")
	ErrEmpty      = fmt.Errorf("%w: empty", ErrUnreadable)
	ErrNotJSON    = fmt.Errorf("%w: not JSON", ErrUnreadable)
	ErrTrailing   = fmt.Errorf("%w: something follows the JSON", ErrUnreadable)
	ErrNotObject  = fmt.Errorf("%w: not a JSON object", ErrUnreadable)
	ErrNoType     = fmt.Errorf("%w: no event type", ErrUnreadable)
)

// object returns body from its opening brace, and refuses what is not one JSON object. It calls visit for each member,
// also of a body that it then refuses.
func object(body []byte, visit func(name, value []byte)) ([]byte, error) {
	top := bytes.TrimLeft(body, " \t\r\n")
	if len(top) == 0 {
		return nil, ErrEmpty
	}
	var end int
	var ok bool
	if top[0] == '{' {
		end, ok = visitMembers(top, visit)
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
