// Package ingress is the door: a signed request becomes a stored event, or it is refused. No request
// is answered 2xx before the stream has the event, and nothing is stored that did not prove.
package ingress

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// ErrNotStored: the request was proven, and could not be stored in time. It may be stored all the
// same: the sender tries again, and the stream knows the second of two by its id.
var ErrNotStored = errors.New("proven, but not stored")

// A Store keeps a message. It returns no error only when the message is durable, ends with ctx and at
// a time, and touches neither the message nor its data after it returned. [stream.Publisher] is one.
type Store interface {
	PublishUntil(ctx context.Context, until time.Time, msg *nats.Msg) (stream.Receipt, error)
}

// A Receiver turns requests of one source into stored events.
type Receiver struct {
	Source stream.Source
	Keys   *signature.Verifier
	Store  Store
	Budget time.Duration // from when a request came until its event must be stored

	stored atomic.Uint64 // how many events were, now or before
	failed atomic.Pointer[failure]
}

// A failure is of the publish of an event. Only a publish finds out whether the stream takes events, so readiness
// remembers it.
type failure struct {
	err    error
	at     time.Time
	stored uint64 // when the publish began
}

// failureCounts is for how long a failure makes the ingress unready: then a request tries anew.
const failureCounts = 30 * time.Second

// mayStore is nil unless an event could lately not be stored, and none was since its publish began.
func (r *Receiver) mayStore(now time.Time) error {
	if last := r.failed.Load(); last != nil && last.stored == r.stored.Load() && now.Sub(last.at) < failureCounts {
		return last.err
	}
	return nil
}

// learn takes what the publish of an event says of the stream, and how many were stored when it began.
func (r *Receiver) learn(err error, stored uint64) {
	switch {
	case err == nil:
		r.stored.Add(1)
	case r.stored.Load() != stored: // it may have met what was over before another was stored
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, context.Canceled): // nothing of the stream
	case errors.Is(err, stream.ErrFull), errors.Is(err, stream.ErrUnavailable):
		r.failed.Store(&failure{err, time.Now(), stored})
	}
}

// A Receipt says what became of a request. Beside an error it holds what had been found out by then:
// its zero value when the request was not proven.
type Receipt struct {
	signature.Proof
	stream.Receipt

	Type       string        // canonical, "" when none can be read
	Known      bool          // whether the type is in Codat's catalog
	Quarantine string        // why it is in the quarantine; "" for an event
	Publishing time.Duration // how long the store took
}

// Why something proven goes to the quarantine, as the log, the metrics and the header
// headgate-quarantine-reason name it.
const (
	reasonBadID     = "bad_id"           // outside [A-Za-z0-9_-]{1,128}
	reasonEncoded   = "content_encoding" // the signature covers the encoded bytes; nobody decodes them here
	reasonEmpty     = "empty"
	reasonNotJSON   = "not_json"
	reasonTrailing  = "trailing_bytes"
	reasonNotObject = "not_an_object"
	reasonNoType    = "no_type"
	reasonBadType   = "bad_type" // it cannot be a subject
	reasonUnread    = "unreadable"
)

// Accept is the whole of the ingress: prove, read the type, store. It returns without an error only
// when the event is durable, now or since an earlier arrival of the same id. Its errors are those of
// package signature, and ErrNotStored.
//
// A request that was proven is stored even when ctx is cancelled: the sender may have gone, its event
// has come.
func (r *Receiver) Accept(ctx context.Context, h http.Header, body []byte) (Receipt, error) {
	claim, err := r.Keys.Read(h)
	if err != nil {
		return Receipt{}, err
	}
	return r.accept(ctx, time.Now(), h, claim, body, func() error { return nil })
}

// accept calls proven once the request is; what proven returns keeps it from being stored.
func (r *Receiver) accept(ctx context.Context, came time.Time, h http.Header, claim signature.Unproven, body []byte, proven func() error) (Receipt, error) {
	proof, err := r.Keys.Prove(claim, body)
	if err != nil {
		return Receipt{}, err
	}
	event := r.read(proof, h, body)
	event.Received = came
	event.TraceParent = cmp.Or(ownTraceParent(ctx), event.TraceParent)
	got := Receipt{
		Proof:      proof,
		Type:       event.Head.Type,
		Known:      codat.Known(event.Head.Type),
		Quarantine: event.Quarantine,
	}
	if err := proven(); err != nil {
		return got, err
	}
	builder := builders.Get().(*stream.Builder) // after a panic somebody may still hold it: it is never used again
	msg, err := builder.Message(r.Source, event, body)
	if err != nil {
		return got, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	began, stored := time.Now(), r.stored.Load()
	got.Receipt, err = r.Store.PublishUntil(context.WithoutCancel(ctx), came.Add(r.Budget), msg)
	got.Publishing = time.Since(began)
	msg.Data = nil // the body has a pool of its own
	builders.Put(builder)
	late := began.Sub(came) > r.Budget/2 // the time that its sender left it may be too short for any stream
	// For the quarantine it may be another permission, and more depends on this one.
	if event.Quarantine == "" && (err == nil || !late) {
		r.learn(err, stored)
	}
	if err != nil {
		return got, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	return got, nil
}

// builders make the messages: a store keeps nothing of one when it has returned.
var builders = sync.Pool{New: func() any { return new(stream.Builder) }}

// read reads what was proven, and decides whether it is an event or goes to the quarantine.
func (r *Receiver) read(p signature.Proof, h http.Header, body []byte) stream.Stored {
	event := stream.Stored{
		ID:              p.ID,
		Timestamp:       p.Timestamp,
		Signature:       p.Signature,
		ContentType:     h.Get("Content-Type"),
		ContentEncoding: strings.Join(h["Content-Encoding"], ", "),
		TraceParent:     traceParent(h["Traceparent"]),
	}
	var err error
	if event.ContentEncoding == "" {
		event.Head, err = codat.Read(body)
	}
	switch {
	case !plainID(p.ID):
		event.Quarantine = reasonBadID
		event.MsgID = contentID(p, body)
	case event.ContentEncoding != "":
		event.Quarantine = reasonEncoded
	case err != nil:
		event.Quarantine = unreadable(err)
	default:
		if _, err := r.Source.EventSubject(event.Head.Type); err != nil {
			event.Quarantine = reasonBadType
		}
	}
	return event
}

func unreadable(err error) string {
	switch {
	case errors.Is(err, codat.ErrEmpty):
		return reasonEmpty
	case errors.Is(err, codat.ErrNotJSON):
		return reasonNotJSON
	case errors.Is(err, codat.ErrTrailing):
		return reasonTrailing
	case errors.Is(err, codat.ErrNotObject):
		return reasonNotObject
	case errors.Is(err, codat.ErrNoType):
		return reasonNoType
	}
	return reasonUnread
}

const maxID = 128

// plainID reports whether an id can be an event's: [A-Za-z0-9_-]{1,128}.
func plainID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// contentID is by what a message with an odd id is known. The signature covers id.timestamp.body as
// one text: with a dot in the id, the same signature proves the same text cut elsewhere, with another
// id. The text as a whole is what was proven, so the text names it.
func contentID(p signature.Proof, body []byte) string {
	sum := sha256.New()
	_, _ = io.WriteString(sum, p.ID+"."+p.Timestamp+".") // a hash never returns an error
	_, _ = sum.Write(body)
	return "sha256-" + hex.EncodeToString(sum.Sum(nil))
}

// traceParent returns the header traceparent when there is one and it is as W3C's Trace Context has
// it, else "". It is not signed: whoever reads it must take it for a hint.
func traceParent(lines []string) string {
	const form = "00-11111111111111111111111111111111-2222222222222222-33"
	if len(lines) != 1 || len(lines[0]) != len(form) {
		return ""
	}
	s := lines[0]
	for i := range len(s) {
		hexadecimal := s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
		if dash := form[i] == '-'; dash && s[i] != '-' || !dash && !hexadecimal {
			return ""
		}
	}
	return s
}
