package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The outcomes of calls, in metrics.
const (
	outcomeOK          = "ok"
	outcomeRefused     = "refused"      // 4xx other than 429, and 3xx
	outcomeRateLimited = "rate_limited" // 429
	outcomeServerError = "server_error" // 5xx
	outcomeNoAnswer    = "no_answer"
	outcomeUnreadable  = "unreadable"
	outcomePaused      = "paused"   // not made, after a 429
	outcomeCanceled    = "canceled" // by the caller
	outcomeInvalid     = "invalid"  // not made, an argument is wrong
)

// metrics count the calls by the names of the methods of Client.
type metrics struct {
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	quota    *prometheus.GaugeVec // without labels; a series exists from the first answer with a quota
}

func newMetrics(r prometheus.Registerer) *metrics {
	const space, part = "headgate", "codat_api"
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: part, Name: "calls_total",
			Help: "Calls of Codat's API, by outcome: ok, refused, rate_limited, server_error, no_answer, unreadable, paused, canceled or invalid.",
		}, []string{"call", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: space, Subsystem: part, Name: "call_seconds",
			Help:    "Time of the calls of Codat's API, with the wait for other calls of the company.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"call"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "in_flight",
			Help: "Calls of Codat's API that are made now, or wait for others of their company.",
		}),
		quota: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "quota_remaining",
			Help: "Calls that are left of the daily quota, as the newest answer said.",
		}, nil),
	}
	r.MustRegister(m.calls, m.seconds, m.inFlight, m.quota)
	return m
}

func (m *metrics) count(call string, err error, took time.Duration) {
	o := outcome(err)
	m.calls.WithLabelValues(call, o).Inc()
	if o != outcomePaused && o != outcomeInvalid { // it was made
		m.seconds.WithLabelValues(call).Observe(took.Seconds())
	}
}

// outcome is the one place where an error becomes an outcome.
func outcome(err error) string {
	switch e := err.(type) {
	case nil:
		return outcomeOK
	case *Error:
		switch {
		case e.Status == http.StatusTooManyRequests:
			return outcomeRateLimited
		case e.Status >= 500:
			return outcomeServerError
		}
		return outcomeRefused
	case *pausedError:
		return outcomePaused
	case *unreadableError:
		return outcomeUnreadable
	case *noAnswerError:
		if !errors.Is(err, ErrUnavailable) {
			return outcomeCanceled
		}
		return outcomeNoAnswer
	}
	return outcomeInvalid
}
