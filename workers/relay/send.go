package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/workers"
)

const (
	// maxAnswer is how much of an answer that is no success is kept, in bytes.
	maxAnswer = 256
	// maxDrain is how much of an answer is read so that its connection can be used again.
	maxDrain = 4 << 10
	// maxAnswerHeaders bounds the headers of an answer, in bytes.
	maxAnswerHeaders = 64 << 10
	// defaultType is the content type of an event that was stored without one: all are JSON.
	defaultType = "application/json"
)

// A message is what is posted for an event.
type message struct {
	id, contentType string
	body            []byte
}

// sender posts the events of one route.
type sender struct {
	route     Route
	files     *files
	gate      *gate
	requests  *prometheus.CounterVec
	dialer    *net.Dialer
	transport *http.Transport
	agent     string
}

func newSender(r Route, f *files, requests *prometheus.CounterVec, version string) *sender {
	dialer := &net.Dialer{Timeout: time.Duration(r.Timeout), ControlContext: r.control}
	return &sender{
		route: r, files: f, gate: newGate(r.Rate), requests: requests, dialer: dialer, agent: "headgate/" + version,
		// No Proxy: one from the environment would connect to addresses that nothing here checks. HTTP/1.1 only.
		transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    time.Duration(r.Timeout),
			MaxIdleConnsPerHost:    2 * r.Concurrency,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxAnswerHeaders,
			DisableCompression:     true,
		},
	}
}

func (s *sender) close() { s.transport.CloseIdleConnections() }

// send posts a message once. Its error says what the runtime does with the event.
func (s *sender) send(ctx context.Context, m message) error {
	if strings.ContainsFunc(m.id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return workers.Permanent(errors.New("the webhook-id has a control character, which no header can have"))
	}
	if err := s.gate.enter(ctx); err != nil {
		s.requests.WithLabelValues(answerPaused).Inc()
		return workers.Unavailable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.route.Timeout))
	defer cancel()
	var answered atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { answered.Store(true) }})
	req, err := s.request(ctx, m)
	if err != nil {
		return workers.Permanent(err)
	}
	// Not http.Client: it follows redirects, which would send the event to an address that nobody has configured.
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		if answered.Load() { // net/http quotes what it could not read, which no log may have
			err = errors.New("the answer is broken off, or not HTTP/1.1")
		}
		return s.noAnswer(ctx, err)
	}
	defer resp.Body.Close()
	s.requests.WithLabelValues(strconv.Itoa(resp.StatusCode/100) + "xx").Inc()
	start, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))    // an answer that breaks off has its status all the same
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDrain)) // for the next request
	return s.judge(resp, start)
}

// request returns the request for a message, signed now.
func (s *sender) request(ctx context.Context, m message) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.route.URL.String(), bytes.NewReader(m.body))
	if err != nil {
		return nil, errors.New("no request can be made of the route's url")
	}
	files, now := s.files.current(), time.Now()
	var signatures []string
	for _, key := range files.keys {
		signatures = append(signatures, key.Sign(m.id, now, m.body))
	}
	if m.contentType == "" || strings.ContainsFunc(m.contentType, func(r rune) bool { return r < ' ' || r > '~' }) {
		m.contentType = defaultType
	}
	req.Header = http.Header{
		"Content-Type":      {m.contentType},
		"User-Agent":        {s.agent},
		"Webhook-Id":        {m.id},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Webhook-Signature": {strings.Join(signatures, " ")},
	}
	if files.authorization != "" {
		req.Header.Set("Authorization", files.authorization)
	}
	return req, nil
}

// noAnswer says what the lack of an answer means: the endpoint cannot be reached, whatever the event is.
func (s *sender) noAnswer(ctx context.Context, err error) error {
	answer := answerNone
	if _, refused := errors.AsType[*addressError](err); refused {
		answer = answerRefused
	}
	s.requests.WithLabelValues(answer).Inc()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", s.route.Timeout)
	}
	return workers.Unavailable(err)
}

// judge says what an answer means. start is its first bytes, which no log has: it can repeat what was sent.
func (s *sender) judge(resp *http.Response, start []byte) error {
	status := resp.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	err := fmt.Errorf("the endpoint has answered %d %s", status, http.StatusText(status))
	if len(start) > 0 {
		err = workers.WithDetail(err, strconv.QuoteToASCII(string(start)))
	}
	after, asked := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if asked {
			s.gate.pause(after)
			return workers.Unavailable(workers.RetryAfter(after, err))
		}
		return workers.Unavailable(err)
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return err // a Retry-After in place of the backoff could use up the attempts within seconds
	}
	switch {
	case status >= 500:
		return workers.Unavailable(err)
	case status >= 400:
		return workers.Permanent(err)
	case status >= 300:
		return fmt.Errorf("%w: redirects are not followed: write the final address in url", err)
	}
	return err
}

// retryAfter parses the header Retry-After, in seconds or as a date. The result is at most maxPause.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxPause/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxPause), true
}
