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
	subject := s.QuarantineSubject()
	if e.Quarantine == "" {
		var err error
		if subject, err = s.EventSubject(e.Head.Type); err != nil {
			return nil, err
		}
	}
	id := e.MsgID
	if id == "" {
		id = e.ID
	}
	if id == "" || len(id) > maxAttribute {
		// Without it the stream would store the event again each time that it comes.
		return nil, errors.New("an event without an id, or with one that is too long, to know it again by")
	}

	h := headers{msg: make(nats.Header, 16)}
	h.plain(jetstream.MsgIDHeader, id, maxAttribute)
	h.plain(HeaderWebhookID, e.ID, maxProof)
	h.plain(HeaderWebhookTimestamp, e.Timestamp, maxProof)
	h.plain(HeaderWebhookSignature, e.Signature, maxProof)

	h.plain(HeaderCESpecVersion, "1.0", maxAttribute)
	h.encoded(HeaderCEID, e.ID)
	h.plain(HeaderCESource, "/headgate/"+string(s), maxAttribute)
	h.encoded(HeaderCEType, e.Head.Type)
	h.time(HeaderCETime, e.Head.Generated)
	h.encoded(HeaderCESubject, e.Head.Company)
	h.encoded(HeaderCEConnectionID, e.Head.Connection)
	h.time(HeaderCEReceivedTime, e.Received)

	h.plain(HeaderContentType, e.ContentType, maxAttribute)
	h.plain(HeaderContentEncoding, e.ContentEncoding, maxAttribute)
	h.plain(HeaderTraceParent, e.TraceParent, maxAttribute)
	h.encoded(HeaderQuarantineReason, e.Quarantine)
	return &nats.Msg{Subject: subject, Header: h.msg, Data: body}, nil
}

// Attribute is the value of a header as it was before Message encoded it, and "" when the header is absent.
func Attribute(h nats.Header, name string) string {
	v := h.Get(name)
	if !strings.HasPrefix(name, "ce-") && name != HeaderQuarantineReason {
		return v
	}
	return decodeAttribute(v)
}

// headers collects the headers of a message. All values of one message share one array.
type headers struct {
	msg    nats.Header
	values [16]string
	used   int
}

func (h *headers) set(name, value string) {
	h.values[h.used] = value
	h.msg[name] = h.values[h.used : h.used+1 : h.used+1]
	h.used++
}

// plain sets a header whose value is written as it is. One with a control character is left out: it could not be read
// back as it was.
func (h *headers) plain(name, value string, limit int) {
	if value == "" || len(value) > limit {
		return
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return
		}
	}
	h.set(name, value)
}

func (h *headers) encoded(name, value string) {
	if value == "" || len(value) > maxAttribute {
		return
	}
	if value = encodeAttribute(value); len(value) <= maxAttribute {
		h.set(name, value)
	}
}

func (h *headers) time(name string, t time.Time) {
	if !t.IsZero() {
		h.set(name, t.UTC().Format(time.RFC3339Nano))
	}
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
