package inspect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// An Event is a stored message, without its body.
type Event struct {
	Sequence         uint64    `json:"sequence"`
	Time             time.Time `json:"time"` // when the ingress received it; when it was stored if its headers do not say
	Type             string    `json:"type,omitempty"`
	Company          string    `json:"company,omitempty"`
	Connection       string    `json:"connection,omitempty"`
	PushOperationKey string    `json:"push_operation_key,omitempty"` // of an event about a write
	WebhookID        string    `json:"webhook_id"`
	Subject          string    `json:"subject"`
	Redrive          string    `json:"redrive,omitempty"`
	Original         uint64    `json:"original,omitempty"` // sequence of the event of which this is a redrive
	Reason           string    `json:"quarantine_reason,omitempty"`
	Bytes            int       `json:"bytes"` // length of the body
}

// NewEvent reads a message that was fetched from its stream.
func NewEvent(s stream.Source, m *jetstream.RawStreamMsg) Event {
	e := s.OpenRaw(m)
	event := Event{
		Sequence: m.Sequence, Time: e.Received.UTC(), Type: s.TypeOf(m.Subject), Company: e.Head.Company, Connection: e.Head.Connection,
		PushOperationKey: e.Head.PushOperation,
		WebhookID:        e.ID, Subject: m.Subject, Redrive: e.Redrive, Reason: e.Quarantine, Bytes: len(m.Data),
	}
	if e.Sequence != m.Sequence {
		event.Original = e.Sequence
	}
	return event
}

// Quarantine calls each with every message that is in the quarantine when it begins, oldest first, until each returns
// an error, which it then returns.
func Quarantine(ctx context.Context, js jetstream.JetStream, s stream.Source, each func(Event) error) error {
	_, err := stream.Read(ctx, js, s.Stream(), stream.ReadOptions{Filters: []string{s.QuarantineSubject()}}, func(m *jetstream.RawStreamMsg) error {
		return each(NewEvent(s, m))
	})
	return err
}

// ErrNotQuarantined means that no message of that number is in the quarantine.
var ErrNotQuarantined = errors.New("not in the quarantine: headgate quarantine list shows the numbers")

// Quarantined returns one message of the quarantine by its sequence in the source's stream, or ErrNotQuarantined.
func Quarantined(ctx context.Context, js jetstream.JetStream, s stream.Source, number uint64) (*jetstream.RawStreamMsg, error) {
	m, err := stream.Get(ctx, js, s.Stream(), number)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Subject != s.QuarantineSubject() {
		return nil, fmt.Errorf("message %d is %w", number, ErrNotQuarantined)
	}
	return m, err
}
