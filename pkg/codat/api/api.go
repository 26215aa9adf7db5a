// Package api calls Codat's API: push operations, connections, reads and webhook consumers. It is a handful of calls on
// net/http. This package repeats no call: its caller decides by the error, with errors.Is and the marks of this package.
// net/http sends a GET, and a request with an idempotency key, again when a connection that was idle breaks. Values of
// enumerations and members that Codat adds later are kept or ignored, and no body of a request or an answer is in an error's
// text, a log line or a metric.
package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxAnswer is the largest answer that is read, in bytes: some tens of times a page of 100 push operations.
	maxAnswer = 16 << 20
	// maxErrorAnswer is how much is read of an answer that is not a success.
	maxErrorAnswer = 64 << 10
	userAgent      = "headgate"
)

// A Client calls Codat's API with one API key. It is safe for concurrent use. Every call ends with its context, and after
// --codat-timeout at the latest; the wait for other calls of the same company comes before and ends with the context only.
type Client struct {
	base    *url.URL
	timeout time.Duration
	http    *http.Client
	keys    keyFile
	gate    gate
	metrics *metrics
	quota   atomic.Pointer[Quota]
}

// New returns a client with valid settings, whose metrics are registered with r. The error names a file of the API key that
// cannot be used, and the cure. Close it after the last call.
func New(s Settings, r prometheus.Registerer) (*Client, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if !s.Enabled() {
		return nil, errors.New("--codat-key-file must name the file with Codat's API key")
	}
	base, err := url.Parse(s.CodatURL)
	if err != nil {
		return nil, errors.New("--codat-url is not a URL")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	c := &Client{
		base:    base,
		timeout: s.CodatTimeout,
		http: &http.Client{
			Transport: transport,
			// A redirect would send the body, and possibly the key, to another address.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		gate: gate{limit: s.CodatConcurrency, now: time.Now, lanes: map[string]*lane{}},
	}
	if err := c.keys.open(s.CodatKeyFile); err != nil {
		return nil, err
	}
	c.metrics = newMetrics(r)
	return c, nil
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Quota is what Codat has last said of the client's daily quota of calls.
type Quota struct {
	Limit     int64
	Remaining int64
	Reset     time.Time // zero when Codat has not said it in a form that is known
}

// Quota returns the quota in the newest answer that had one, and false before the first.
func (c *Client) Quota() (Quota, bool) {
	if q := c.quota.Load(); q != nil {
		return *q, true
	}
	return Quota{}, false
}

// PausedUntil returns until when calls for a company fail without being made, because Codat has answered 429 with a
// Retry-After. It is in the past, or zero, when calls are made. The company "" asks for calls that concern none.
func (c *Client) PausedUntil(company string) time.Time { return c.gate.pausedUntil(company) }

// A call is one request. Its path is in segments, which are escaped.
type call struct {
	name        string // of the method, for errors and metrics
	method      string
	path        []string
	query       url.Values
	company     string // "" when the call concerns the whole client
	key         string // Idempotency-Key, "" for none
	body        []byte // nil for none
	contentType string
	mayBeEmpty  bool // the answer
}

// do makes a call and decodes the answer into answer, a pointer or nil.
func (c *Client) do(ctx context.Context, k call, answer any) error {
	began := time.Now()
	c.metrics.inFlight.Inc()
	err := c.limited(ctx, k, answer)
	c.metrics.inFlight.Dec()
	c.metrics.count(k.name, err, time.Since(began))
	return err
}

// limited makes a call when the company has a free slot and is not paused.
func (c *Client) limited(ctx context.Context, k call, answer any) error {
	target, err := c.url(k)
	if err != nil {
		return &invalidError{k.name, err}
	}
	leave, err := c.gate.enter(ctx, k.company)
	switch paused, is := errors.AsType[*pausedError](err); {
	case is:
		paused.call = k.name
		return paused
	case err != nil:
		return &noAnswerError{call: k, err: err}
	}
	defer leave()
	within, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within --codat-timeout (%v)", c.timeout))
	defer cancel()
	err = c.send(within, k, target, answer)
	if no, is := errors.AsType[*noAnswerError](err); is && ctx.Err() == nil {
		no.unavailable = true // not the caller has ended it
		if within.Err() != nil {
			no.err = context.Cause(within)
		}
	}
	return err
}

// url returns the address of a call. A segment that is empty or would leave the path is an error.
func (c *Client) url(k call) (string, error) {
	segments := []string{strings.TrimSuffix(c.base.String(), "/")}
	for _, s := range k.path {
		switch s {
		case "":
			return "", errors.New("an id in the path is empty")
		case ".", "..":
			return "", fmt.Errorf("an id in the path is %q", s)
		}
		segments = append(segments, url.PathEscape(s))
	}
	target := strings.Join(segments, "/")
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	return target, nil
}

// send makes the request and reads the answer.
func (c *Client) send(ctx context.Context, k call, target string, answer any) error {
	// A request that has a connection may be on its way, whatever error follows.
	var sent atomic.Int32
	var answered atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { sent.Add(1) }, GotFirstResponseByte: func() { answered.Store(true) },
	})
	req, err := c.request(ctx, k, target)
	if err != nil {
		return &invalidError{k.name, err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		// The text of a url.Error has the whole address.
		if outer, is := errors.AsType[*url.Error](err); is {
			err = outer.Err
		}
		if answered.Load() && ctx.Err() == nil { // net/http quotes what it could not read, which no log may have
			err = errors.New("the answer is broken off, or not HTTP/1.1")
		}
		return &noAnswerError{call: k, sent: sent.Load() > 0, err: err}
	}
	defer resp.Body.Close()
	c.learn(k.company, resp)
	if resp.StatusCode/100 != 2 {
		e := readError(k, resp, time.Now())
		e.again = sent.Load() > 1
		return e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return &noAnswerError{call: k, sent: true, err: err}
	case len(body) > maxAnswer:
		return &unreadableError{call: k, reason: "larger than 16 MiB"}
	case answer == nil, k.mayBeEmpty && len(body) == 0:
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return &unreadableError{call: k, reason: unreadableReason(resp, err)}
	}
	return nil
}

func (c *Client) request(ctx context.Context, k call, target string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, k.method, target, bytes.NewReader(k.body))
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.keys.current())))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if k.key != "" {
		req.Header.Set("Idempotency-Key", k.key)
	}
	if k.body != nil {
		req.Header.Set("Content-Type", k.contentType)
	}
	return req, nil
}

// learn takes the quota from an answer, and pauses after a 429 with a Retry-After: the whole client when the daily quota is
// used up or the call concerns no company, and otherwise the company, because the platform's limits are answered 429 too.
func (c *Client) learn(company string, resp *http.Response) {
	quota, ok := readQuota(resp.Header)
	if ok {
		c.quota.Store(&quota)
		c.metrics.quota.WithLabelValues().Set(float64(quota.Remaining))
	}
	if resp.StatusCode != http.StatusTooManyRequests {
		return
	}
	if ok && quota.Remaining <= 0 {
		company = ""
	}
	c.gate.pause(company, retryAfter(resp.Header, time.Now()))
}

// unreadableReason says why an answer cannot be decoded, without a byte of it.
func unreadableReason(resp *http.Response, err error) string {
	if kind, _, parseErr := mime.ParseMediaType(resp.Header.Get("Content-Type")); parseErr != nil || !strings.HasSuffix(kind, "json") {
		return "not JSON: is --codat-url the API's, and does no proxy answer in its place?"
	}
	if errors.Is(err, errNoOperationKey) {
		return errNoOperationKey.Error()
	}
	if _, is := errors.AsType[*json.UnmarshalTypeError](err); is {
		return "JSON with other types than documented"
	}
	return "invalid JSON"
}
