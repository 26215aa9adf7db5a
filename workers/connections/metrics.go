package connections

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// The results of the reconciliation of a company, in metrics.
const (
	resultOK       = "ok"
	resultNotFound = "not_found" // Codat does not know the company any more
	resultPaused   = "paused"    // not called, because Codat wants no calls
	resultFailed   = "failed"
)

// The changes that reconciliation finds, in metrics.
const (
	changeDisconnected = "disconnected"
	changeDeleted      = "deleted"
	changeUnknown      = "unknown" // no event had told of the status, or of the connection
	changeOther        = "other"   // such as a connection that is linked again
)

// metrics are those that only this worker has.
type metrics struct {
	results  *prometheus.CounterVec
	silent   *prometheus.CounterVec
	complete *prometheus.GaugeVec // without labels; a series exists from the first round
	period   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	const space, part = "headgate", "connections"
	m := &metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: part, Name: "reconciliations_total",
			Help: "Companies that were reconciled with Codat, by result: ok, not_found, paused or failed.",
		}, []string{"result"}),
		silent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: part, Name: "silent_changes_total",
			Help: "Changes of connections that reconciliation has found before an event told of them: disconnected, deleted, unknown or other.",
		}, []string{"change"}),
		complete: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "reconciled_timestamp_seconds",
			Help: "When the last reconciliation of all companies ended, in seconds since 1970; before the first has ended, when it began.",
		}, nil),
		period: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: space, Subsystem: part, Name: "reconcile_period_seconds",
			Help: "The time after which connections are reconciled again (--reconcile); 0 when they are not, also without an API key.",
		}),
	}
	r.MustRegister(m.results, m.silent, m.complete, m.period)
	for _, result := range []string{resultOK, resultNotFound, resultPaused, resultFailed} {
		m.results.WithLabelValues(result)
	}
	for _, change := range []string{changeDisconnected, changeDeleted, changeUnknown, changeOther} {
		m.silent.WithLabelValues(change)
	}
	return m
}

func (m *metrics) reconciled(result string) { m.results.WithLabelValues(result).Inc() }

// found counts what an answer has changed in a record.
func (m *metrics) found(before, after state.Connection) {
	change := changeOther
	switch {
	case len(before.Timeline) == 0 && before.Status == "" && !before.Deleted:
		change = changeUnknown
	case before.Deleted == after.Deleted && before.Status == after.Status:
		return
	case after.Deleted:
		change = changeDeleted
	case before.Status == codat.Linked:
		change = changeDisconnected
	}
	m.silent.WithLabelValues(change).Inc()
}

// show shows when the last round ended.
func (m *metrics) show(r round) {
	t := r.Completed
	if t.IsZero() {
		t = r.Began
	}
	if !t.IsZero() {
		m.complete.WithLabelValues().Set(float64(t.UnixNano()) / float64(time.Second))
	}
}
