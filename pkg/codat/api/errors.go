package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

// The marks of errors, for errors.Is. An error can have several.
var (
	// ErrUnavailable marks a 5xx, a 429, a call without an answer, and one that was not made because of an earlier 429: it
	// does not concern what was asked for, and others fail too. A handler returns it as workers.Unavailable.
	ErrUnavailable = errors.New("codat API: unavailable")
	// ErrOutcomeUnknown marks a call that changes something and may have done so although it failed: the request may have been
	// sent, and there was no answer, an unreadable one, or a 5xx. Codat remembers a 5xx for the idempotency key, so another try with
	// the same key returns it again. It also marks a 401, a 402 and a 429 to a request that net/http has sent again.
	ErrOutcomeUnknown = errors.New("codat API: outcome unknown")
	// ErrAccount marks a 401 and a 402: every call fails until an operator has cured the API key or the account.
	ErrAccount = errors.New("codat API: key or account refused")
	// ErrNotFound marks a 404.
	ErrNotFound = errors.New("codat API: not found")
	// ErrInProgress marks a 409 to a call with an idempotency key: the first call with this key is still running, or this
	// answer of the platform is remembered for the key.
	ErrInProgress = errors.New("codat API: a call with this idempotency key is in progress")
	// ErrKeyReused marks a 422 to a call with an idempotency key: the key was used with another body within 90 minutes, or
	// the platform cannot process the content.
	ErrKeyReused = errors.New("codat API: idempotency key reused with another body")
)

// An Error is an answer of Codat that is not a success. Error returns the call, the status, the correlation id and the
// code; Message and Validation can have what the company's users wrote, and belong in no log.
type Error struct {
	Call          string // the method of Client
	Status        int    // of HTTP
	Service       string
	Message       string
	CorrelationID string // for Codat's support
	DetailedCode  int64
	CanBeRetried  string // as Codat says it: True, False or Unknown
	Validation    Validation
	RetryAfter    time.Duration // how long Codat asks to wait, at most a day; 0 when it does not say

	changes, keyed bool
	again          bool // net/http has sent the request more than once, and this answers the last
}

// A Validation is what Codat, or the platform, says of the content of a write.
type Validation struct {
	Errors   []ValidationItem `json:"errors"`
	Warnings []ValidationItem `json:"warnings"`
}

// A ValidationItem is one objection. Its text can be personal data.
type ValidationItem struct {
	ItemID        string `json:"itemId"`
	Message       string `json:"message"`
	ValidatorName string `json:"validatorName"`
}

// Error returns one line without anything that a person wrote.
func (e *Error) Error() string {
	text := fmt.Sprintf("codat API: %s: %d %s", e.Call, e.Status, http.StatusText(e.Status))
	if e.CorrelationID != "" {
		text += ", correlation id " + e.CorrelationID
	}
	if e.DetailedCode != 0 {
		text += ", code " + strconv.FormatInt(e.DetailedCode, 10)
	}
	return strings.TrimSpace(text)
}

// Is reports whether the error has a mark.
func (e *Error) Is(mark error) bool {
	switch mark {
	case ErrUnavailable:
		return e.Status == http.StatusTooManyRequests || e.Status >= 500
	case ErrOutcomeUnknown:
		return e.changes && (e.Status >= 500 || e.again && (e.Is(ErrUnavailable) || e.Is(ErrAccount)))
	case ErrAccount:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusPaymentRequired
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrInProgress:
		return e.keyed && e.Status == http.StatusConflict
	case ErrKeyReused:
		return e.keyed && e.Status == http.StatusUnprocessableEntity
	}
	return false
}

// RetryAfter returns how long Codat asks to wait before the next call, and 0 when an error does not say it.
func RetryAfter(err error) time.Duration {
	if e, is := errors.AsType[*Error](err); is {
		return e.RetryAfter
	}
	if e, is := errors.AsType[*pausedError](err); is {
		return e.left
	}
	return 0
}

// A pausedError is a call that was not made.
type pausedError struct {
	call string
	left time.Duration
}

func (e *pausedError) Error() string {
	return fmt.Sprintf("codat API: %s: not called: Codat asked to wait, %v more", e.call, e.left.Round(time.Second))
}

func (e *pausedError) Is(mark error) bool { return mark == ErrUnavailable }

// A noAnswerError is a call without an answer.
type noAnswerError struct {
	call        call
	sent        bool // at least, it had a connection
	unavailable bool // the caller has not ended the call
	err         error
}

func (e *noAnswerError) Error() string {
	return fmt.Sprintf("codat API: %s: no answer: %v", e.call.name, e.err)
}

func (e *noAnswerError) Unwrap() error { return e.err }

func (e *noAnswerError) Is(mark error) bool {
	return mark == ErrUnavailable && e.unavailable || mark == ErrOutcomeUnknown && e.sent && e.call.changes()
}

// An unreadableError is a success whose answer is not as documented.
type unreadableError struct {
	call   call
	reason string
}

func (e *unreadableError) Error() string {
	return fmt.Sprintf("codat API: %s: unreadable answer: %s", e.call.name, e.reason)
}

func (e *unreadableError) Is(mark error) bool {
	return mark == ErrOutcomeUnknown && e.call.changes()
}

// An invalidError is a call that cannot be made with its arguments.
type invalidError struct {
	call string
	err  error
}

func (e *invalidError) Error() string { return fmt.Sprintf("codat API: %s: %v", e.call, e.err) }
func (e *invalidError) Unwrap() error { return e.err }

func (k call) changes() bool { return k.method != http.MethodGet }

// loggable matches correlation ids that can be in a log line as they are.
var loggable = regexp.MustCompile(`^[A-Za-z0-9._:|-]{1,128}$`)

// readError reads an answer that is not a success. A body that is not Codat's leaves the members empty.
func readError(k call, resp *http.Response, now time.Time) *Error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer)) // what has arrived is enough
	e := parseError(body)
	e.Call, e.Status, e.RetryAfter = k.name, resp.StatusCode, retryAfter(resp.Header, now)
	e.changes, e.keyed = k.changes(), k.key != ""
	return e
}

// parseError reads Codat's error body. Members of other types than documented are left out.
func parseError(body []byte) *Error {
	var wire struct {
		Service       string      `json:"service"`
		Error         string      `json:"error"`
		CorrelationID string      `json:"correlationId"`
		Validation    *Validation `json:"validation"`
		CanBeRetried  string      `json:"canBeRetried"`
		DetailedCode  int64       `json:"detailedErrorCode"`
	}
	_ = json.Unmarshal(body, &wire) // a member of another type does not keep out the others
	e := &Error{Service: wire.Service, Message: wire.Error, CanBeRetried: wire.CanBeRetried, DetailedCode: wire.DetailedCode}
	if wire.Validation != nil {
		e.Validation = *wire.Validation
	}
	if loggable.MatchString(wire.CorrelationID) {
		e.CorrelationID = wire.CorrelationID
	}
	return e
}

// maxRetryAfter bounds a Retry-After: the quota is renewed at 00:00 UTC.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header Retry-After, in seconds or a date. It is 0 without one, or when it cannot be read.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// readQuota reads the headers X-Rate-Limit-*, and returns false without a limit and what remains of it.
func readQuota(h http.Header) (Quota, bool) {
	limit, err := strconv.ParseInt(h.Get("X-Rate-Limit-Limit"), 10, 64)
	if err != nil {
		return Quota{}, false
	}
	remaining, err := strconv.ParseInt(h.Get("X-Rate-Limit-Remaining"), 10, 64)
	if err != nil {
		return Quota{}, false
	}
	reset := h.Get("X-Rate-Limit-Reset")
	at, err := http.ParseTime(reset)
	if err != nil {
		var t codat.Time
		_ = t.UnmarshalJSON([]byte(strconv.Quote(reset))) // it never fails
		at = t.Time
	}
	return Quota{Limit: limit, Remaining: remaining, Reset: at}, true
}
