package ingress

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// Why a request was not even tried.
var (
	// ErrTooLarge: the body is over the limit, announced or not.
	ErrTooLarge = errors.New("body is over the limit")
	// ErrSlow: the body had not come when its deadline had.
	ErrSlow = errors.New("body came slower than its deadline")
	// ErrBroken: the body ended early, or is not in the form that its headers announce.
	ErrBroken = errors.New("body is broken off")
	// ErrCrowded: as many requests as are allowed are being stored.
	ErrCrowded = errors.New("too many requests in flight")
	// ErrNoRoom: the bodies in flight have as much memory as is allowed.
	ErrNoRoom = errors.New("no room for the body")
	// ErrAddress: the address is not one from which requests are taken.
	ErrAddress = errors.New("address is not allowed")
	// ErrCertificate: who connected has shown no certificate.
	ErrCertificate = errors.New("client certificate is missing")
	// ErrAuthorization: the header Authorization is missing, or has none of the values that will do.
	ErrAuthorization = errors.New("authorization is missing or wrong")
	// ErrClientID: the header X-Codat-ClientId is missing, or says another client.
	ErrClientID = errors.New("client id is missing or wrong")
	// ErrSpent: the address has sent too much that did not prove.
	ErrSpent = errors.New("too much from this address did not prove")
	// ErrPanic: a mistake of ours. The line of the request has the stack.
	ErrPanic = errors.New("panic")
)

// How a request ended, in the log and in the metrics.
const (
	accepted    = "accepted"    // stored now, on the subject of its type
	duplicate   = "duplicate"   // stored before
	quarantined = "quarantined" // stored now, on the quarantine's subject
	refused     = "refused"     // it would be refused again
	unavailable = "unavailable" // not stored; the sender should try again
	failed      = "failed"      // a mistake of ours
)

type answer struct {
	status  int
	outcome string
	reason  string // why it was not stored, in the log and in the metrics; strangers are not told
}

// answers has the first line that fits an error. The status tells a sender whether to try again, and
// a stranger nothing.
var answers = []struct {
	err error
	answer
}{
	{signature.ErrMissing, answer{http.StatusUnauthorized, refused, "unsigned"}},
	{signature.ErrMalformed, answer{http.StatusUnauthorized, refused, "malformed"}},
	{signature.ErrNoMatch, answer{http.StatusUnauthorized, refused, "no_match"}},
	{signature.ErrTooOld, answer{http.StatusUnauthorized, refused, "too_old"}},
	{signature.ErrTooNew, answer{http.StatusUnauthorized, refused, "too_new"}},
	{ErrTooLarge, answer{http.StatusRequestEntityTooLarge, refused, "body_too_large"}},
	{ErrSlow, answer{http.StatusRequestTimeout, refused, "body_slow"}},
	{ErrBroken, answer{http.StatusBadRequest, refused, "body_broken"}},
	{echo.ErrNotFound, answer{http.StatusNotFound, refused, "path"}},
	{echo.ErrMethodNotAllowed, answer{http.StatusMethodNotAllowed, refused, "method"}},

	{ErrAddress, answer{http.StatusForbidden, refused, "address"}},
	{ErrCertificate, answer{http.StatusForbidden, refused, "client_certificate"}},
	{ErrAuthorization, answer{http.StatusUnauthorized, refused, "authorization"}},
	{ErrClientID, answer{http.StatusUnauthorized, refused, "client_id"}},

	{ErrCrowded, answer{http.StatusServiceUnavailable, unavailable, "crowded"}},
	{ErrNoRoom, answer{http.StatusServiceUnavailable, unavailable, "no_room"}},
	{ErrSpent, answer{http.StatusServiceUnavailable, refused, "address_limit"}},
	{signature.ErrBusy, answer{http.StatusServiceUnavailable, unavailable, "proofs_busy"}},
	{stream.ErrFull, answer{http.StatusServiceUnavailable, unavailable, "stream_full"}},
	{stream.ErrBusy, answer{http.StatusServiceUnavailable, unavailable, "window_full"}},
	{stream.ErrTooLarge, answer{http.StatusServiceUnavailable, unavailable, "max_payload"}},
	{stream.ErrUnavailable, answer{http.StatusServiceUnavailable, unavailable, "stream_unavailable"}},
	{ErrNotStored, answer{http.StatusServiceUnavailable, unavailable, "not_stored"}},

	{ErrPanic, answer{http.StatusInternalServerError, failed, "panic"}},
}

func answerTo(err error) answer {
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return a.answer
		}
	}
	return answer{http.StatusInternalServerError, failed, "internal"}
}

// Status is the one place where an error becomes an answer.
func Status(err error) int {
	if err == nil {
		return http.StatusNoContent
	}
	return answerTo(err).status
}

// outcome is how an accepted request ended.
func (r Receipt) outcome() string {
	switch {
	case r.Duplicate:
		return duplicate
	case r.Quarantine != "":
		return quarantined
	}
	return accepted
}
