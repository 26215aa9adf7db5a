package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// A Released message was stored as an event.
type Released struct {
	Number    uint64 `json:"number"` // in the quarantine
	WebhookID string `json:"webhook_id"`
	Type      string `json:"type"`
	Sequence  uint64 `json:"sequence"` // of the event
	// Readable is false when the body is not a JSON object: a worker that takes the event makes a dead letter of it.
	Readable bool `json:"-"`
}

// Release stores a message of the quarantine as an event of a type. The event is as the ingress would have stored it:
// the same id, signature and bytes, and the time at which it was first received. The message stays in the quarantine. A
// second release of it is an error. Release returns inspect.ErrNotQuarantined for a number that is not in the
// quarantine, and codat.ErrBadType for a type that cannot be a subject.
func (o *Operator) Release(ctx context.Context, number uint64, typ string) (Released, error) {
	m, err := inspect.Quarantined(ctx, o.js, o.source, number)
	if err != nil {
		return Released{}, err
	}
	msg, readable, err := o.eventOf(m, typ)
	if err != nil {
		return Released{}, err
	}
	r := Released{Number: number, WebhookID: m.Header.Get(stream.HeaderWebhookID), Type: typ, Readable: readable}
	e := Entry{
		Command: "quarantine release", Step: StepBegin, Count: 1,
		Chosen: map[string]any{"number": number, "type": typ, "webhook_id": r.WebhookID},
	}
	if err := o.Record(ctx, e); err != nil {
		return r, err
	}
	r.Sequence, err = o.release(ctx, msg, number)
	e.Step, e.Given = StepEnd, 1
	if err != nil {
		e.Given, e.Error = 0, err.Error()
	}
	return r, errors.Join(err, o.Record(ctx, e))
}

// eventOf returns the event to store. Its body is read again, because it can hold a company although it has no type.
func (o *Operator) eventOf(m *jetstream.RawStreamMsg, typ string) (msg *nats.Msg, readable bool, err error) {
	e := o.source.OpenRaw(m)
	e.MsgID, e.Head, e.Quarantine = fmt.Sprintf("release:%s:%d", e.MsgID, m.Sequence), codat.Head{}, ""
	if !e.Encoded() {
		e.Head, err = codat.Read(m.Data)
		readable = err == nil || errors.Is(err, codat.ErrNoType)
	}
	e.Head.Type = typ
	msg, err = o.source.Message(e, m.Data)
	return msg, readable, err
}

func (o *Operator) release(ctx context.Context, msg *nats.Msg, number uint64) (uint64, error) {
	r, err := o.publish(ctx, msg)
	if err != nil {
		return 0, fmt.Errorf("release of %d: %w", number, err)
	}
	if r.Duplicate {
		return 0, fmt.Errorf("message %d was released before, as sequence %d", number, r.Sequence)
	}
	return r.Sequence, nil
}
