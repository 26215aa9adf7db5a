package ingress

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/stream"
)

// Metrics count what the log says, by the same words.
type Metrics struct {
	requests    *prometheus.CounterVec
	refusals    *prometheus.CounterVec
	quarantined *prometheus.CounterVec
	keys        *prometheus.CounterVec
	unknown     prometheus.Counter
	inFlight    prometheus.Gauge
	last        prometheus.Gauge
	bytes       prometheus.Histogram
	accepting   prometheus.Histogram
	publishing  prometheus.Histogram
}

// NewMetrics registers the metrics of a source. Every outcome and reason is there from the start, so
// that the first one is seen as an increase.
func NewMetrics(registerer prometheus.Registerer, source stream.Source) *Metrics {
	const space, part = "headgate", "ingress"
	labels := prometheus.Labels{"source": string(source)}
	counter := func(name, help string, by ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: part, Name: name, Help: help, ConstLabels: labels,
		}, by)
		registerer.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: name, Help: help, ConstLabels: labels,
		})
		registerer.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: space, Subsystem: part, Name: name, Help: help, ConstLabels: labels, Buckets: buckets,
		})
		registerer.MustRegister(h)
		return h
	}
	seconds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 8, 10}
	m := &Metrics{
		requests:    counter("requests_total", "Requests by how they ended.", "outcome"),
		refusals:    counter("refusals_total", "Requests that were not answered 2xx, by reason.", "reason"),
		quarantined: counter("quarantined_total", "Proven requests that were stored in the quarantine, by reason.", "reason"),
		keys:        counter("key_matches_total", "Proven requests by the fingerprint of the key that matched.", "key"),
		unknown:     counter("unknown_types_total", "Events whose type is not in the catalog. They are stored as any other.").WithLabelValues(),
		inFlight:    gauge("in_flight", "Requests that are being received or stored now."),
		last:        gauge("last_accepted_timestamp_seconds", "When a request was last answered 2xx, in seconds since 1970; 0 for not since the start."),
		bytes:       histogram("body_bytes", "Sizes of the bodies that were read.", prometheus.ExponentialBuckets(256, 4, 7)),
		accepting:   histogram("accept_seconds", "Time from when a request came until it was answered 2xx.", seconds),
		publishing:  histogram("publish_seconds", "Time until the stream had an event, or it was given up.", seconds),
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
	return m
}

// count counts a request at its end.
func (m *Metrics) count(r *request, a answer) {
	m.requests.WithLabelValues(a.outcome).Inc()
	if a.reason != "" {
		m.refusals.WithLabelValues(a.reason).Inc()
	}
	if r.size >= 0 {
		m.bytes.Observe(float64(r.size))
	}
	if r.got.Key != "" {
		m.keys.WithLabelValues(r.got.Key).Inc()
	}
	if r.got.Publishing > 0 {
		m.publishing.Observe(r.got.Publishing.Seconds())
	}
	if a.reason != "" {
		return
	}
	now := time.Now()
	m.accepting.Observe(now.Sub(r.came).Seconds())
	m.last.Set(float64(now.UnixMilli()) / 1000)
	if a.outcome == quarantined {
		m.quarantined.WithLabelValues(r.got.Quarantine).Inc()
	}
	if a.outcome == accepted && !r.got.Known {
		m.unknown.Inc()
	}
}
