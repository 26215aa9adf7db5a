package ingress

import (
	"errors"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

const space, part = "headgate", "ingress"

// seconds are the buckets of durations. The last ones are the publish timeout and more.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 8, 10}

// metrics of a source count what the log says, in the same words.
type metrics struct {
	requests      *prometheus.CounterVec
	refusals      *prometheus.CounterVec
	quarantined   *prometheus.CounterVec
	clockRefusals *prometheus.CounterVec
	unmatched     *prometheus.CounterVec
	keys          *prometheus.CounterVec
	streamsRemade prometheus.Counter
	inFlight      prometheus.Gauge
	signatureAge  prometheus.Gauge
	bytes         prometheus.Histogram
	accepting     prometheus.Histogram
	publishing    prometheus.Histogram

	mu             sync.Mutex
	lastAccepted   prometheus.Gauge
	lastAcceptedAt time.Time // of last
	shownKeys      []string  // keys
}

// newMetrics registers the metrics of a source. Every outcome and reason has a series from the start, so that the first
// one is an increase.
func newMetrics(registerer prometheus.Registerer, source stream.Source) *metrics {
	r := prometheus.WrapRegistererWith(prometheus.Labels{"source": string(source)}, registerer)
	m := &metrics{
		requests:      counters(r, "requests_total", requestsHelp, "outcome"),
		refusals:      counters(r, "refusals_total", refusalsHelp, "reason"),
		quarantined:   counters(r, "quarantined_total", "Verified requests that were stored in the quarantine, by reason.", "reason"),
		clockRefusals: counters(r, "clock_refusals_total", "Requests with a matching signature whose time is out of tolerance, in the past or the future: a clock is wrong, or an old request was sent again.", "direction"),
		unmatched:     counters(r, "unmatched_signatures_total", "Requests whose signature no configured key matches, by whether they come from Codat's own addresses: an endpoint that signs with another key, or a forgery.", "from"),
		keys:          counters(r, "key_matches_total", "Verified requests by the fingerprint of the key that matched. Every configured key has a series.", "key"),
		streamsRemade: counters(r, "streams_remade_total", "Streams and buckets that were gone and that --provision made again. The events that they held are lost here.").WithLabelValues(),
		inFlight:      gauge(r, "in_flight", "Requests that are being received or stored now."),
		lastAccepted:  gauge(r, "last_accepted_timestamp_seconds", "Time of the last request that was answered 2xx, in seconds since 1970. After a start, the time of the last message in the stream, and 0 until it is known."),
		signatureAge:  gauge(r, "signature_age_seconds", "Age of the signature of the last verified request when it arrived. A value far from 0 means that a clock is wrong."),
		bytes:         histogram(r, "body_bytes", "Sizes of the request bodies that were read.", prometheus.ExponentialBuckets(256, 4, 7)),
		accepting:     histogram(r, "accept_seconds", "Time from the arrival of a request until it was answered 2xx.", seconds),
		publishing:    histogram(r, "publish_seconds", "Time that the publish of an event took, stored or not.", seconds),
	}
	for _, outcome := range []string{accepted, duplicate, quarantined, refused, unavailable, failed} {
		m.requests.WithLabelValues(outcome)
	}
	for _, r := range responses {
		m.refusals.WithLabelValues(r.reason)
	}
	for _, reason := range quarantineReasons {
		m.quarantined.WithLabelValues(reason)
	}
	for class := range numClasses {
		m.unmatched.WithLabelValues(clientClass(class).String())
	}
	m.clockRefusals.WithLabelValues("past")
	m.clockRefusals.WithLabelValues("future")
	return m
}

// newUnroutedMetrics registers the metrics of requests to paths that no source has. Their label source is empty, so that
// clients that try paths do not change the metrics of a source.
func newUnroutedMetrics(registerer prometheus.Registerer) *metrics {
	r := prometheus.WrapRegistererWith(prometheus.Labels{"source": ""}, registerer)
	m := &metrics{
		requests: counters(r, "requests_total", requestsHelp, "outcome"),
		refusals: counters(r, "refusals_total", refusalsHelp, "reason"),
	}
	m.requests.WithLabelValues(refused)
	for _, err := range []error{echo.ErrNotFound, errSignedPath, errRateLimited} {
		m.refusals.WithLabelValues(responseTo(err).reason)
	}
	return m
}

const (
	requestsHelp = "Requests by outcome: accepted, duplicate, quarantined, refused, unavailable or failed. The source is empty for paths that no source has."
	refusalsHelp = "Requests that were not answered 2xx, by reason."
)

func counters(r prometheus.Registerer, name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: space, Subsystem: part, Name: name, Help: help}, labels)
	r.MustRegister(c)
	return c
}

func gauge(r prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: space, Subsystem: part, Name: name, Help: help})
	r.MustRegister(g)
	return g
}

func histogram(r prometheus.Registerer, name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: space, Subsystem: part, Name: name, Help: help, Buckets: buckets})
	r.MustRegister(h)
	return h
}

// count counts a request when it ends.
func (m *metrics) count(r *request, resp response, err error) {
	m.requests.WithLabelValues(resp.outcome).Inc()
	if resp.reason != "" {
		m.refusals.WithLabelValues(resp.reason).Inc()
	}
	switch {
	case errors.Is(err, signature.ErrTooOld):
		m.clockRefusals.WithLabelValues("past").Inc()
	case errors.Is(err, signature.ErrTooNew):
		m.clockRefusals.WithLabelValues("future").Inc()
	case errors.Is(err, signature.ErrNoMatch):
		m.unmatched.WithLabelValues(r.class.String()).Inc()
	}
	if r.size >= 0 {
		m.bytes.Observe(float64(r.size))
	}
	if r.verified.Key != "" {
		m.keys.WithLabelValues(r.verified.Key).Inc()
		m.signatureAge.Set(r.received.Sub(r.verified.At).Seconds())
	}
	if r.publishing > 0 {
		m.publishing.Observe(r.publishing.Seconds())
	}
	if resp.reason != "" {
		return
	}
	now := time.Now()
	m.accepting.Observe(now.Sub(r.received).Seconds())
	m.setLastAccepted(now)
	if resp.outcome == quarantined {
		m.quarantined.WithLabelValues(r.quarantine).Inc()
	}
}

// setLastAccepted sets the time of the last accepted event, unless a later one is known.
func (m *metrics) setLastAccepted(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.lastAcceptedAt) {
		m.lastAcceptedAt = at
		m.lastAccepted.Set(float64(at.UnixMilli()) / 1000)
	}
}

// setKeys makes a series for each configured key, and deletes those of keys that are no longer configured. A request in
// flight may make one of these again.
func (m *metrics) setKeys(prints []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := map[string]bool{}
	for _, print := range prints {
		now[print] = true
		m.keys.WithLabelValues(print)
	}
	for _, print := range m.shownKeys {
		if !now[print] {
			m.keys.DeleteLabelValues(print)
		}
	}
	m.shownKeys = prints
}

// serverMetrics are those of the public listener as a whole.
type serverMetrics struct {
	registerer     prometheus.Registerer
	fileProblems   prometheus.Gauge
	tlsFailures    prometheus.Counter
	certificateEnd *prometheus.GaugeVec

	connections prometheus.Gauge
	dropped     prometheus.Counter
	incomplete  prometheus.Counter
}

func newServerMetrics(registerer prometheus.Registerer, budgets [numClasses]*budget) *serverMetrics {
	m := &serverMetrics{
		registerer:   registerer,
		fileProblems: gauge(registerer, "file_problems", "Files of keys, credentials or certificates that cannot be used; their previous content stays in use. The log and /readyz name them."),
		tlsFailures:  counters(registerer, "tls_refusals_total", "Connections whose TLS handshake failed, because of an invalid client certificate or another reason. The log says why.").WithLabelValues(),
		connections:  gauge(registerer, "connections", "Open connections to the public listener."),
		dropped:      counters(registerer, "connections_dropped_total", "Connections that were closed at the limit --max-connections: the one that was without a verified request longest, or the new one.").WithLabelValues(),
		incomplete:   counters(registerer, "unread_requests_total", "Connections that closed without a complete HTTP request: not HTTP, or headers that are too large, incomplete or too slow. No other metric counts them.").WithLabelValues(),
		certificateEnd: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "certificate_end_timestamp_seconds",
			Help: "When the certificate of the public listener expires, in seconds since 1970; absent without TLS.",
		}, nil),
	}
	registerer.MustRegister(m.certificateEnd)
	for i, b := range budgets {
		for state, value := range map[string]func() int64{
			"unverified": b.unverified.Load,
			"verified":   func() int64 { return b.total.Load() - b.unverified.Load() },
		} {
			registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Namespace: space, Subsystem: part, Name: "body_bytes_in_flight",
				Help:        "Memory of the bodies in flight, by whether they are verified and by whether they come from Codat's own addresses.",
				ConstLabels: prometheus.Labels{"state": state, "from": clientClass(i).String()},
			}, func() float64 { return float64(value()) }))
		}
	}
	return m
}

func (m *serverMetrics) setCertificateEnd(at time.Time) {
	m.certificateEnd.WithLabelValues().Set(float64(at.Unix()))
}
