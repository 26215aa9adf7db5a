package stream

import (
	"cmp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
)

// Open reads back what Message wrote into the headers of a delivery of this source, and what redrives, parked copies and
// dead letters add. It never fails: a header that is absent or cannot be read leaves its field zero, except these.
//   - Sequence is the event's place in its stream, also for a copy: without HeaderSequence it is the message's own place.
//   - ID is "sequence-", Sequence and the time of storage for a message without a webhook-id, which another publisher than
//     the ingress stored: a stream that is made again counts from 1 again. Copies of such a message have the ID as webhook-id.
//   - Head.Type is the type in the subject, and the one in the headers where the subject has none, as in the quarantine.
//   - MsgID is the message id as stored, also when it equals ID.
//   - Received is the time at which the message was stored, when the headers do not say.
func (s Source) Open(m jetstream.Msg) Stored {
	var place jetstream.SequencePair
	var at time.Time
	if meta, err := m.Metadata(); err == nil {
		place, at = meta.Sequence, meta.Timestamp
	}
	return s.open(m.Subject(), m.Headers(), place.Stream, at)
}

// OpenRaw does the same for a message that was read from a stream by its sequence.
func (s Source) OpenRaw(m *jetstream.RawStreamMsg) Stored {
	return s.open(m.Subject, m.Header, m.Sequence, m.Time)
}

func (s Source) open(subject string, h nats.Header, sequence uint64, at time.Time) Stored {
	e := Stored{
		ID: h.Get(HeaderWebhookID), Timestamp: h.Get(HeaderWebhookTimestamp), Signature: h.Get(HeaderWebhookSignature),
		MsgID: h.Get(jetstream.MsgIDHeader),
		Head: codat.Head{
			Type:    cmp.Or(s.TypeOf(subject), decodeAttribute(h.Get(headerCEType))),
			Company: decodeAttribute(h.Get(headerCESubject)), Connection: decodeAttribute(h.Get(headerCEConnectionID)),
			PushOperation: decodeAttribute(h.Get(headerCEPushKey)),
		},
		ContentType: h.Get(HeaderContentType), ContentEncoding: h.Get(HeaderContentEncoding), TraceParent: h.Get(HeaderTraceParent),
		Quarantine: decodeAttribute(h.Get(HeaderQuarantineReason)), Redrive: h.Get(HeaderRedrive),
	}
	e.Head.Generated, _ = time.Parse(time.RFC3339Nano, h.Get(headerCETime))
	var err error
	if e.Received, err = time.Parse(time.RFC3339Nano, h.Get(headerCEReceivedTime)); err != nil {
		e.Received = at
	}
	if e.Sequence, err = strconv.ParseUint(h.Get(HeaderSequence), 10, 64); err != nil {
		e.Sequence = sequence
	}
	if e.ID == "" {
		e.ID = "sequence-" + strconv.FormatUint(e.Sequence, 10)
		if h.Get(HeaderSequence) == "" && !at.IsZero() {
			e.ID += "-" + strconv.FormatInt(at.UnixNano(), 36)
		}
	}
	return e
}
