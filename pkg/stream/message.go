package stream

import (
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
)

const (
	maxAttribute = 512     // bytes of a header that we write, encoded; a longer one is absent
	maxProof     = 8 << 10 // bytes of a webhook-* header; all headers together must stay under 64 KiB
)

// Stored is what is known of an event when it is stored. Only what is set becomes a header.
type Stored struct {
	ID        string // of the webhook, as the signature covers it
	Timestamp string // as the proving headers carried it
	Signature string // as the proving headers carried it, several of them joined by a space
	MsgID     string // by which the stream knows the event again; ID if empty

	Head     codat.Head
	Received time.Time

	ContentType     string
	ContentEncoding string
	TraceParent     string

	Quarantine string // the reason why it cannot be stored as an event; "" for an event
}

// Message is the message that stores an event: its subject, its headers, and the body as it came. The body is not
// copied and must not change until the message is published. It returns ErrBadType when the event is not for the
// quarantine and its type cannot be a subject.
//
// The values of ce-* headers are percent-encoded as CloudEvents asks for: Attribute reads them. A header that would be
// longer than 512 bytes is absent; the body still says what it would have said.
func (s Source) Message(e Stored, body []byte) (*nats.Msg, error) {
	return new(Builder).Message(s, e, body)
}

// A Builder makes messages one after the other, each in the place of the one before. The zero value is ready for use.
type Builder struct {
	msg    nats.Msg
	values [16]string // of the headers, in the order in which Message sets them
	there  [16]bool   // in msg.Header, whose values are slices of the above: so most messages need no change of the map
	next   int
}

// Message is the same as that of the source. The message is good until the next one is made.
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
		// Without it the stream would store the event again each time that it comes.
		return nil, errors.New("an event without an id, or with one that is too long, to know it again by")
	}

	b.begin()
	b.plain(jetstream.MsgIDHeader, id, maxAttribute)
	b.plain(HeaderWebhookID, e.ID, maxProof)
	b.plain(HeaderWebhookTimestamp, e.Timestamp, maxProof)
	b.plain(HeaderWebhookSignature, e.Signature, maxProof)

	b.plain(HeaderCESpecVersion, "1.0", maxAttribute)
	b.encoded(HeaderCEID, e.ID)
	b.plain(HeaderCESource, "/headgate/"+string(s), maxAttribute)
	b.encoded(HeaderCEType, e.Head.Type)
	b.time(HeaderCETime, e.Head.Generated)
	b.encoded(HeaderCESubject, e.Head.Company)
	b.encoded(HeaderCEConnectionID, e.Head.Connection)
	b.time(HeaderCEReceivedTime, e.Received)

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

// Attribute is the value of a header as it was before Message encoded it, and "" when the header is absent.
func Attribute(h nats.Header, name string) string {
	v := h.Get(name)
	if !strings.HasPrefix(name, "ce-") && name != HeaderQuarantineReason {
		return v
	}
	return decodeAttribute(v)
}

func (b *Builder) begin() {
	if b.msg.Header == nil {
		b.msg.Header = make(nats.Header, len(b.values))
	}
	b.next = 0
}

// set sets a header, or takes it out when value is empty. It is called for each header in each message.
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

// plain sets a header whose value is written as it is. One with a control character is left out: it could not be read
// back as it was.
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

// mustEncode reports whether CloudEvents wants a byte encoded in a header: all but printable ASCII, and of that the
// space, the double quote and the percent sign.
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

// decodeAttribute undoes encodeAttribute. What is not an encoding stays as it is.
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
