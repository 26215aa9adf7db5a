package stream

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
)

const (
	maxAttribute = 512 // bytes of a header, encoded; a longer one is absent
	// Bytes of the webhook-* headers; a longer one is absent. The id may be as long as the headers of a request, because
	// without it the body could not be verified again. All headers together must stay under HeaderRoom.
	maxWebhookID = 32 << 10
	maxSignature = 8 << 10
)

// Stored is what the subject and the headers of a stored message say. Message writes them, and only what is set becomes a
// header; Open reads them. Of Head, both know Type, Company, Connection, PushOperation and Generated.
type Stored struct {
	ID        string // of the webhook, as the signature covers it
	Timestamp string // as in the verified headers
	Signature string // of version 1, several joined by a space
	MsgID     string // by which the stream recognizes the event; ID if empty

	Head     codat.Head
	Received time.Time

	ContentType     string
	ContentEncoding string
	TraceParent     string

	Quarantine string // the reason why it cannot be stored as an event; "" for an event

	// Message does not write these: redrives, parked copies and dead letters set them on a copy of the event.

	Redrive  string // of the redrive that gave the event to a worker again; "" for the event itself
	Sequence uint64 // of the event in the source's stream
}

// Encoded reports whether the body is encoded. The coding identity is no encoding.
func (e Stored) Encoded() bool {
	for coding := range strings.SplitSeq(e.ContentEncoding, ",") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
			return true
		}
	}
	return false
}

// Message returns the message that stores an event: its subject, its headers, and the body unchanged. It does not copy
// the body, which must not change until the message is published. It returns codat.ErrBadType when the event is not for
// the quarantine and its type cannot be part of a subject.
//
// The values of ce-* headers are percent-encoded, as CloudEvents specifies; Open decodes them. A header that would be
// longer than 512 bytes is absent; the webhook-* headers may be longer.
func (s Source) Message(e Stored, body []byte) (*nats.Msg, error) {
	return new(Builder).Message(s, e, body)
}

// A Builder makes messages and reuses the memory of one for the next. The zero value is ready to use.
type Builder struct {
	msg    nats.Msg
	values [17]string // of the headers, in the order in which Message sets them
	there  [17]bool   // whether msg.Header has the value: most messages need no change of the map
	next   int
}

// Message does what Source.Message does. The message is valid until the next call.
func (b *Builder) Message(s Source, e Stored, body []byte) (*nats.Msg, error) {
	subject, err := s.subject(e)
	if err != nil {
		return nil, err
	}
	id := e.MsgID
	if id == "" {
		id = e.ID
	}
	if id == "" || len(id) > maxAttribute {
		// Without it the stream would store every delivery of the event.
		return nil, fmt.Errorf("the message id of an event must have 1 to %d bytes (got %d)", maxAttribute, len(id))
	}

	b.begin()
	b.plain(jetstream.MsgIDHeader, id, maxAttribute)
	b.plain(HeaderWebhookID, e.ID, maxWebhookID)
	b.plain(HeaderWebhookTimestamp, e.Timestamp, maxSignature)
	b.plain(HeaderWebhookSignature, e.Signature, maxSignature)

	b.plain(headerCESpecVersion, "1.0", maxAttribute)
	b.encoded(headerCEID, e.ID)
	b.plain(headerCESource, "/headgate/"+string(s), maxAttribute)
	b.encoded(headerCEType, e.Head.Type)
	b.time(headerCETime, e.Head.Generated)
	b.encoded(headerCESubject, e.Head.Company)
	b.encoded(headerCEConnectionID, e.Head.Connection)
	b.encoded(headerCEPushKey, e.Head.PushOperation)
	b.time(headerCEReceivedTime, e.Received)

	b.plain(HeaderContentType, e.ContentType, maxAttribute)
	b.plain(HeaderContentEncoding, e.ContentEncoding, maxAttribute)
	b.plain(HeaderTraceParent, e.TraceParent, maxAttribute)
	b.encoded(HeaderQuarantineReason, e.Quarantine)
	b.msg.Subject, b.msg.Data = subject, body
	return &b.msg, nil
}

func (s Source) subject(e Stored) (string, error) {
	if e.Quarantine != "" {
		return s.QuarantineSubject(), nil
	}
	return s.EventSubject(e.Head.Type)
}

func (b *Builder) begin() {
	if b.msg.Header == nil {
		b.msg.Header = make(nats.Header, len(b.values))
	}
	b.next = 0
}

// set sets a header, and deletes it when value is empty. It is called for every header of every message.
func (b *Builder) set(name, value string) {
	i := b.next
	b.next++
	b.values[i] = value
	switch there := value != ""; {
	case there == b.there[i]:
		return
	case there:
		b.msg.Header[name] = b.values[i : i+1 : i+1]
	default:
		delete(b.msg.Header, name)
	}
	b.there[i] = !b.there[i]
}

// plain sets a header without encoding it. It omits a value with a control character, which could not be read back.
func (b *Builder) plain(name, value string, limit int) {
	if len(value) > limit {
		value = ""
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			value = ""
		}
	}
	b.set(name, value)
}

func (b *Builder) encoded(name, value string) {
	if len(value) <= maxAttribute {
		value = encodeAttribute(value)
	}
	if len(value) > maxAttribute {
		value = ""
	}
	b.set(name, value)
}

func (b *Builder) time(name string, t time.Time) {
	value := ""
	if !t.IsZero() {
		value = t.UTC().Format(time.RFC3339Nano)
	}
	b.set(name, value)
}

const hexDigits = "0123456789ABCDEF"

// mustEncode reports whether CloudEvents encodes a byte in a header: everything except printable ASCII, and the space, the
// double quote and the percent sign.
func mustEncode(c byte) bool {
	return c <= ' ' || c >= 0x7f || c == '"' || c == '%'
}

func encodeAttribute(v string) string {
	n := 0
	for i := 0; i < len(v); i++ {
		if mustEncode(v[i]) {
			n++
		}
	}
	if n == 0 {
		return v
	}
	b := make([]byte, 0, len(v)+2*n)
	for i := 0; i < len(v); i++ {
		if c := v[i]; mustEncode(c) {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// decodeAttribute is the inverse of encodeAttribute. A percent sign that begins no encoding stays as it is.
func decodeAttribute(v string) string {
	if strings.IndexByte(v, '%') < 0 {
		return v
	}
	b := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			if hi, lo := strings.IndexByte(hexDigits, upper(v[i+1])), strings.IndexByte(hexDigits, upper(v[i+2])); hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, v[i])
	}
	return string(b)
}

func upper(c byte) byte {
	if c >= 'a' && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}
