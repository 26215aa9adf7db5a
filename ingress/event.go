package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// Reasons for the quarantine, in the log, the metrics and the header headgate-quarantine-reason.
const (
	reasonBadID     = "bad_id"           // outside [A-Za-z0-9_-]{1,128}
	reasonEncoded   = "content_encoding" // the signature covers the encoded bytes, which are stored without decoding
	reasonEmpty     = "empty"
	reasonNotJSON   = "not_json"
	reasonTrailing  = "trailing_bytes"
	reasonNotObject = "not_an_object"
	reasonNoType    = "no_type"
	reasonBadType   = "bad_type" // it cannot be part of a subject
	reasonUnread    = "unreadable"
)

// quarantineReasons are all reasons.
var quarantineReasons = []string{
	reasonBadID, reasonEncoded, reasonEmpty, reasonNotJSON, reasonTrailing, reasonNotObject, reasonNoType, reasonBadType, reasonUnread,
}

// readEvent reads a verified request, and decides whether it is stored as an event or in the quarantine.
func readEvent(v signature.Verified, h http.Header, body []byte) stream.Stored {
	event := stream.Stored{
		ID:              v.ID,
		Timestamp:       v.Timestamp,
		Signature:       v.Signature,
		ContentType:     h.Get("Content-Type"),
		ContentEncoding: strings.Join(h["Content-Encoding"], ", "),
		TraceParent:     traceParent(h["Traceparent"]),
	}
	var err error
	if !event.Encoded() {
		event.ContentEncoding = ""
		event.Head, err = codat.Read(body)
	}
	switch {
	case !validID(v.ID):
		event.Quarantine = reasonBadID
		event.MsgID = contentID(v, body)
	case event.Encoded():
		event.Quarantine = reasonEncoded
	case err != nil:
		event.Quarantine = unreadable(err)
	default:
		if codat.ValidateType(event.Head.Type) != nil {
			event.Quarantine = reasonBadType
		}
	}
	return event
}

// unreadable returns the reason for the quarantine of a body that cannot be read.
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

// validID reports whether an event may have the id: [A-Za-z0-9_-]{1,128}.
func validID(id string) bool {
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

// contentID returns the message id of a request whose webhook-id is not valid. The signature covers id.timestamp.body
// as one text: with a dot in the id, it also matches the same text split elsewhere, with another id. The whole text was
// verified, so the message id is its digest.
func contentID(v signature.Verified, body []byte) string {
	sum := sha256.New()
	_, _ = io.WriteString(sum, v.ID+"."+v.Timestamp+".") // a hash never returns an error
	_, _ = sum.Write(body)
	return "sha256-" + hex.EncodeToString(sum.Sum(nil))
}

// traceParent returns the header traceparent when it occurs once and has the form of W3C's Trace Context, otherwise "".
// It is not signed: it is a hint only.
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
