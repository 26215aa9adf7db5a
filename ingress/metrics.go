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

// Buckets of times: the last ones are the ingress's own limit and beyond.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 8, 10}

// metrics of a source count what the log says, by the same words.
type metrics struct {
	requests    *prometheus.CounterVec
	refusals    *prometheus.CounterVec
	quarantined *prometheus.CounterVec
	clock       *prometheus.CounterVec
	keys        *prometheus.CounterVec
	unknown     prometheus.Counter
	inFlight    prometheus.Gauge
	age         prometheus.Gauge
	bytes       prometheus.Histogram
	accepting   prometheus.Histogram
	publishing  prometheus.Histogram

	mu    sync.Mutex
	last  prometheus.Gauge
	when  time.Time // of last
	shown []string  // keys
}

// newMetrics registers the metrics of a source. Every outcome and reason is there from the start, so
// that the first one is seen as an increase.
func newMetrics(registerer prometheus.Registerer, source stream.Source) *metrics {
	r := prometheus.WrapRegistererWith(prometheus.Labels{"source": string(source)}, registerer)
	m := &metrics{
		requests:    counters(r, "requests_total", requestsHelp, "outcome"),
		refusals:    counters(r, "refusals_total", refusalsHelp, "reason"),
		quarantined: counters(r, "quarantined_total", "Proven requests that were stored in the quarantine, by reason.", "reason"),
		clock:       counters(r, "clock_refusals_total", "Requests that proved and whose time is out of tolerance, by whether it lies in the past or the future: a clock is wrong, or something old was sent again.", "direction"),
		keys:        counters(r, "key_matches_total", "Proven requests by the fingerprint of the key that matched. Every key that counts now is there.", "key"),
		unknown:     counters(r, "unknown_types_total", "Events whose type is not in the catalog. They are stored as any other.").WithLabelValues(),
		inFlight:    gauge(r, "in_flight", "Requests that are being received or stored now."),
		last:        gauge(r, "last_accepted_timestamp_seconds", "When a request was last answered 2xx, in seconds since 1970. After a start it is when the last message came into the stream, and 0 until that is known."),
		age:         gauge(r, "signature_age_seconds", "How old the signature of the last proven request was when it came. Far from 0 in either direction, a clock is going wrong."),
		bytes:       histogram(r, "body_bytes", "Sizes of the bodies that were read.", prometheus.ExponentialBuckets(256, 4, 7)),
		accepting:   histogram(r, "accept_seconds", "Time from when a request came until it was answered 2xx.", seconds),
		publishing:  histogram(r, "publish_seconds", "Time until the stream had an event, or it was given up.", seconds),
	}
	for _, outcome := range []string{accepted, duplicate, quarantined, refused, unavailable, failed} {
		m.requests.WithLabelValues(outcome)
	}
	for _, a := range answers {
		m.refusals.WithLabelValues(a.reason)
	}
	for _, reason := range []string{
		reasonBadID, reasonEncoded, reasonEmpty, reasonNotJSON, reasonTrailing, reasonNotObject, reasonNoType, reasonBadType, reasonUnread,
	} {
		m.quarantined.WithLabelValues(reason)
	}
	m.clock.WithLabelValues("past")
	m.clock.WithLabelValues("future")
	return m
}

// newElsewhereMetrics registers the metrics of requests that reach no source: they have none in their label, so that
// strangers who try paths are not in the way of whoever looks at a source.
func newElsewhereMetrics(registerer prometheus.Registerer) *metrics {
	r := prometheus.WrapRegistererWith(prometheus.Labels{"source": ""}, registerer)
	m := &metrics{
		requests: counters(r, "requests_total", requestsHelp, "outcome"),
		refusals: counters(r, "refusals_total", refusalsHelp, "reason"),
	}
	m.requests.WithLabelValues(refused)
	m.refusals.WithLabelValues(answerTo(echo.ErrNotFound).reason)
	return m
}

const (
	requestsHelp = "Requests by how they ended: accepted, duplicate, quarantined, refused, unavailable or failed. The source is empty for paths that are no source's."
	refusalsHelp = "Requests that were not answered 2xx, by reason."
)

func counters(r prometheus.Registerer, name, help string, by ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: space, Subsystem: part, Name: name, Help: help}, by)
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

// count counts a request at its end.
func (m *metrics) count(r *request, a answer, err error) {
	m.requests.WithLabelValues(a.outcome).Inc()
	if a.reason != "" {
		m.refusals.WithLabelValues(a.reason).Inc()
	}
	switch {
	case errors.Is(err, signature.ErrTooOld):
		m.clock.WithLabelValues("past").Inc()
	case errors.Is(err, signature.ErrTooNew):
		m.clock.WithLabelValues("future").Inc()
	}
	if r.size >= 0 {
		m.bytes.Observe(float64(r.size))
	}
	if r.got.Key != "" {
		m.keys.WithLabelValues(r.got.Key).Inc()
		m.age.Set(r.came.Sub(r.got.At).Seconds())
	}
	if r.got.Publishing > 0 {
		m.publishing.Observe(r.got.Publishing.Seconds())
	}
	if a.reason != "" {
		return
	}
	now := time.Now()
	m.accepting.Observe(now.Sub(r.came).Seconds())
	m.accepted(now)
	if a.outcome == quarantined {
		m.quarantined.WithLabelValues(r.got.Quarantine).Inc()
	}
	if a.outcome == accepted && !r.got.Known {
		m.unknown.Inc()
	}
}

// accepted notes when something was accepted, unless that is before what is known.
func (m *metrics) accepted(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.when) {
		m.when = at
		m.last.Set(float64(at.UnixMilli()) / 1000)
	}
}

// setKeys shows the keys that count now, before the first request that one matches, and no others but those that
// requests on their way are proven by.
func (m *metrics) setKeys(prints []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := map[string]bool{}
	for _, print := range prints {
		now[print] = true
		m.keys.WithLabelValues(print)
	}
	for _, print := range m.shown {
		if !now[print] {
			m.keys.DeleteLabelValues(print)
		}
	}
	m.shown = prints
}

// frontMetrics are of the public listener as a whole.
type frontMetrics struct {
	registerer prometheus.Registerer
	problems   prometheus.Gauge
	handshakes prometheus.Counter
	ends       *prometheus.GaugeVec

	connections prometheus.Gauge
	dropped     prometheus.Counter
	unread      prometheus.Counter
}

func newFrontMetrics(registerer prometheus.Registerer, rooms [2]*room) *frontMetrics {
	m := &frontMetrics{
		registerer:  registerer,
		problems:    gauge(registerer, "file_problems", "Files of keys, values or certificates that cannot be used as they are now; what they said before still counts. The log and /readyz say which."),
		handshakes:  counters(registerer, "tls_refusals_total", "Connections that did not come to an agreement on TLS, for a client certificate that cannot be believed or another reason. The log says why.").WithLabelValues(),
		connections: gauge(registerer, "connections", "Open connections to the public listener."),
		dropped:     counters(registerer, "connections_dropped_total", "Connections that were closed because there were --max-connections: for a new one, or the new one itself.").WithLabelValues(),
		unread:      counters(registerer, "unread_requests_total", "Connections that ended with something that was no request: not HTTP, or headers that are too large, broken off or too slow. No other metric has them.").WithLabelValues(),
		ends: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "certificate_end_timestamp_seconds",
			Help: "When the certificate of the public listener ends, in seconds since 1970; absent without TLS.",
		}, nil),
	}
	registerer.MustRegister(m.ends)
	for i, from := range []string{"others", "codat"} {
		for state, value := range map[string]func() int64{
			"unproven": rooms[i].unproven.Load,
			"proven":   func() int64 { return rooms[i].all.Load() - rooms[i].unproven.Load() },
		} {
			registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Namespace: space, Subsystem: part, Name: "body_bytes_in_flight",
				Help:        "Memory of the bodies in flight, by whether they are proven and whether they come from Codat's own addresses.",
				ConstLabels: prometheus.Labels{"state": state, "from": from},
			}, func() float64 { return float64(value()) }))
		}
	}
	return m
}

func (m *frontMetrics) certificateEnds(at time.Time) {
	m.ends.WithLabelValues().Set(float64(at.Unix()))
}
