package workertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// broker is the part of JetStream that a worker uses: it delivers events, and delivers them again after a NAK or after
// AckWait, keeps parked copies in a queue, and stores dead letters.
type broker struct {
	messages []*message
	ids      []string // message ids that were published
	results  map[claims.Key]*Result
}

// arrive stores an event as the ingress does.
func (b *broker) arrive(e Event, head codat.Head, result *Result) error {
	key := claims.Key{WebhookID: e.WebhookID, Redrive: e.Redrive}
	if b.results[key] != nil {
		return fmt.Errorf("another event has the webhook-id %s too: the stream would store only one of them", e.WebhookID)
	}
	m, err := source.Message(stream.Stored{ID: e.WebhookID, Head: head, Received: e.Received, ContentType: "application/json"}, e.Body)
	if err != nil {
		return err
	}
	if e.Redrive != "" {
		m.Header.Set(stream.HeaderRedrive, e.Redrive)
	}
	*result = Result{Outcome: Unfinished, arrived: e.Received}
	b.results[key] = result
	b.add(m, false, e.Received)
	return nil
}

func (b *broker) add(m *nats.Msg, parked bool, due time.Time) {
	key := claims.Key{WebhookID: m.Header.Get(stream.HeaderWebhookID), Redrive: m.Header.Get(stream.HeaderRedrive)}
	b.messages = append(b.messages, &message{msg: m, key: key, parked: parked, sequence: uint64(len(b.messages) + 1), due: due})
}

// run delivers the messages that are due, one at a time, until each is acked or MaxTime is over.
func (b *broker) run(deliver func(jetstream.Msg) string, ackWait time.Duration) {
	for m := b.next(); m != nil; m = b.next() {
		r := b.results[m.key]
		if m.due.Sub(r.arrived) > MaxTime {
			m.acked, r.Took = true, MaxTime
			continue
		}
		time.Sleep(time.Until(m.due))
		m.deliveries++
		m.due = time.Time{}
		m.lastSign = time.Now()
		outcome := Outcome(deliver(m))
		if m.due.IsZero() {
			m.due = m.lastSign.Add(ackWait)
		}
		switch outcome {
		case NoHandler:
			m.acked = true
			fallthrough
		case Done, Dead:
			r.Outcome, r.Took = outcome, time.Since(r.arrived)
		}
	}
}

// next returns the message that is due first.
func (b *broker) next() (first *message) {
	for _, m := range b.messages {
		if !m.acked && (first == nil || m.due.Before(first.due)) {
			first = m
		}
	}
	return first
}

// Publish implements deadletter.Publisher.
func (b *broker) Publish(_ context.Context, m *nats.Msg) (stream.Receipt, error) {
	id := m.Subject + " " + m.Header.Get(jetstream.MsgIDHeader)
	for i, known := range b.ids {
		if id == known {
			return stream.Receipt{Sequence: uint64(i + 1), Duplicate: true}, nil
		}
	}
	b.ids = append(b.ids, id)
	if m.Header.Get(deadletter.HeaderWorker) == "" {
		b.add(m, true, time.Now())
	} else {
		letter := deadletter.Read(source, m)
		b.results[claims.Key{WebhookID: letter.WebhookID, Redrive: letter.Redrive}].Letter = &letter
	}
	return stream.Receipt{Sequence: uint64(len(b.ids))}, nil
}

// attemptEnded adds an attempt to the result of its event.
func (b *broker) attemptEnded(k claims.Key, attempt int, began time.Time, err error) {
	r := b.results[k]
	r.Attempts = append(r.Attempts, Attempt{Number: attempt, After: began.Sub(r.arrived), Took: time.Since(began), Err: err})
}

// waits records the pause after the last attempt of an event.
func (b *broker) waits(k claims.Key, wait time.Duration) {
	if a := b.results[k].Attempts; len(a) > 0 {
		a[len(a)-1].Wait = wait
	}
}

// message is a stored event or a parked copy.
type message struct {
	msg        *nats.Msg
	key        claims.Key
	parked     bool
	sequence   uint64
	deliveries uint64
	due        time.Time // time of the next delivery; zero while the worker handles the message
	lastSign   time.Time // when the worker reported progress last
	acked      bool
}

var errSettled = errors.New("the message was acknowledged before")

func (m *message) Data() []byte         { return m.msg.Data }
func (m *message) Headers() nats.Header { return m.msg.Header }
func (m *message) Subject() string      { return m.msg.Subject }
func (m *message) Reply() string        { return "" }

func (m *message) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{
		Sequence: jetstream.SequencePair{Stream: m.sequence, Consumer: m.sequence}, NumDelivered: m.deliveries, Stream: source.Stream(),
	}, nil
}

func (m *message) Ack() error {
	if m.acked {
		return errSettled
	}
	m.acked = true
	return nil
}

func (m *message) NakWithDelay(wait time.Duration) error {
	if m.acked {
		return errSettled
	}
	m.due = time.Now().Add(wait)
	return nil
}

func (m *message) InProgress() error {
	m.lastSign = time.Now()
	return nil
}

func (m *message) DoubleAck(context.Context) error { return m.Ack() }
func (m *message) Nak() error                      { return m.NakWithDelay(0) }
func (m *message) Term() error                     { return m.Ack() }
func (m *message) TermWithReason(string) error     { return m.Ack() }
