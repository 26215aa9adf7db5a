package ingress

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

var (
	// errNotStored: the request was verified, and its event was not stored in time.
	errNotStored = errors.New("verified, but not stored")
	// errTooLarge: the body is over the limit, announced or not.
	errTooLarge = errors.New("body is over the limit")
	// errBodyTimeout: the body did not arrive by its deadline.
	errBodyTimeout = errors.New("body did not arrive in time")
	// errBodyIncomplete: the body ended early, or does not have the form that its headers announce.
	errBodyIncomplete = errors.New("body is incomplete")
	// errTooManyInFlight: as many requests as the limit allows are being stored.
	errTooManyInFlight = errors.New("too many requests in flight")
	// errBodyMemory: the bodies in flight use all memory that they may use.
	errBodyMemory = errors.New("no memory for the body")
	// errAddress: requests are not accepted from the client's address.
	errAddress = errors.New("address is not allowed")
	// errCertificate: the client has presented no certificate.
	errCertificate = errors.New("client certificate is missing")
	// errAuthorization: the header Authorization is missing, or has none of the accepted values.
	errAuthorization = errors.New("authorization is missing or wrong")
	// errClientID: the header X-Codat-ClientId is missing, or has none of the accepted values.
	errClientID = errors.New("client id is missing or wrong")
	// errSignedPath: the request has the headers of a signature, and its path is no source's. Most likely the endpoint at Codat
	// has a wrong URL.
	errSignedPath = errors.New("a signed request came to a path that is no source's: compare the endpoint's URL at Codat with --path")
	// errRateLimited: the address has sent too many unauthenticated requests.
	errRateLimited = errors.New("too many unauthenticated requests from this address")
	// errIDStays: for longer than a minute the stream has answered that the event's id is in process, and has stored others
	// meanwhile.
	errIDStays = errors.New("the id stays in process although other events are stored: let another server lead the stream")
	// errPanic: a bug. The log line of the request has the stack.
	errPanic = errors.New("panic")
)

// Outcomes of a request, in the log and in the metrics.
const (
	accepted    = "accepted"    // stored now, on the subject of its type
	duplicate   = "duplicate"   // stored before
	quarantined = "quarantined" // stored now, on the quarantine's subject
	refused     = "refused"     // the same request would be refused again
	unavailable = "unavailable" // not stored; the sender should try again
	failed      = "failed"      // a bug
)

// A response is how a request ends.
type response struct {
	status  int
	outcome string
	reason  string // why it was not stored, in the log and in the metrics; the client does not see it
}

// responses maps errors to responses; the first match counts. The status tells a client whether to try again, and
// nothing else.
var responses = []struct {
	err error
	response
}{
	{signature.ErrMissing, response{http.StatusUnauthorized, refused, "unsigned"}},
	{signature.ErrMalformed, response{http.StatusUnauthorized, refused, "malformed"}},
	{signature.ErrNoMatch, response{http.StatusUnauthorized, refused, "no_match"}},
	{signature.ErrTooOld, response{http.StatusUnauthorized, refused, "too_old"}},
	{signature.ErrTooNew, response{http.StatusUnauthorized, refused, "too_new"}},
	{errTooLarge, response{http.StatusRequestEntityTooLarge, refused, "body_too_large"}},
	{errBodyTimeout, response{http.StatusRequestTimeout, refused, "body_slow"}},
	{errBodyIncomplete, response{http.StatusBadRequest, refused, "body_broken"}},
	{errSignedPath, response{http.StatusNotFound, refused, "path_signed"}},
	{echo.ErrNotFound, response{http.StatusNotFound, refused, "path"}},
	{echo.ErrMethodNotAllowed, response{http.StatusMethodNotAllowed, refused, "method"}},

	{errAddress, response{http.StatusForbidden, refused, "address"}},
	{errCertificate, response{http.StatusForbidden, refused, "client_certificate"}},
	{errAuthorization, response{http.StatusUnauthorized, refused, "authorization"}},
	{errClientID, response{http.StatusUnauthorized, refused, "client_id"}},

	{errTooManyInFlight, response{http.StatusServiceUnavailable, unavailable, "too_many_in_flight"}},
	{errBodyMemory, response{http.StatusServiceUnavailable, unavailable, "body_memory"}},
	{errRateLimited, response{http.StatusServiceUnavailable, refused, "rate_limited"}},
	{signature.ErrBusy, response{http.StatusServiceUnavailable, unavailable, "verification_busy"}},
	{stream.ErrFull, response{http.StatusServiceUnavailable, unavailable, "stream_full"}},
	{stream.ErrBusy, response{http.StatusServiceUnavailable, unavailable, "publish_window_full"}},
	{stream.ErrTooLarge, response{http.StatusServiceUnavailable, unavailable, "max_payload"}},
	{errIDStays, response{http.StatusServiceUnavailable, unavailable, "id_stays_in_process"}},
	{stream.ErrInProcess, response{http.StatusServiceUnavailable, unavailable, "id_in_process"}},
	{stream.ErrUnavailable, response{http.StatusServiceUnavailable, unavailable, "stream_unavailable"}},
	{errNotStored, response{http.StatusServiceUnavailable, unavailable, "not_stored"}},

	{errPanic, response{http.StatusInternalServerError, failed, "panic"}},
}

// responseTo returns the response to an error.
func responseTo(err error) response {
	for _, r := range responses {
		if errors.Is(err, r.err) {
			return r.response
		}
	}
	return response{http.StatusInternalServerError, failed, "internal"}
}

// outcome returns the outcome of a request that was stored.
func (r *request) outcome() string {
	switch {
	case r.stored.Duplicate:
		return duplicate
	case r.quarantine != "":
		return quarantined
	}
	return accepted
}
