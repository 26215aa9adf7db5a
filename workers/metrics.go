package workers

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of one worker, all with the label worker.
type metrics struct {
	deliveries *prometheus.CounterVec
	attempt    prometheus.Histogram
	running    atomic.Int64 // handlers that run, without those that are not waited for any more
	stuck      atomic.Int64 // handlers that do not return although their contexts have ended
	ackErrors  prometheus.Counter
	claimsLost prometheus.Counter
	redrives   *prometheus.CounterVec // that became dead letters again, by source
	paused     prometheus.GaugeFunc
}

func newMetrics(reg prometheus.Registerer, worker string, b *breaker) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_worker_deliveries_total",
			Help: "Deliveries by outcome, in the words of the log: done, already_settled, retry, parked, dead, busy, no_handler, returned, lease_lost, claim_error.",
		}, []string{"outcome"}),
		attempt: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "headgate_worker_attempt_seconds",
			Help:    "Duration of one attempt of a handler.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}),
		ackErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_worker_ack_errors_total",
			Help: "Acks and naks that could not be sent; their events are delivered again and recognised.",
		}),
		claimsLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_worker_claims_lost_total",
			Help: "Times that the worker's claims were lost: their bucket was deleted and made again, or a server came back without its disk.",
		}),
		redrives: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_worker_redrives_dead_total",
			Help: "Redrives that became dead letters again. Their letters are among headgate_stream_dead_letters too.",
		}, []string{"source"}),
		paused: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "headgate_worker_paused_seconds",
			Help: "Time since the worker paused because something that it needs is unavailable; 0 while it is not paused.",
		}, func() float64 {
			since := b.pausedSince()
			if since.IsZero() {
				return 0
			}
			return b.now().Sub(since).Seconds()
		}),
	}
	for _, f := range outcomes {
		m.deliveries.WithLabelValues(string(f))
	}
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"worker": worker}, reg)
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "headgate_worker_running", Help: "Handlers that are running.",
	}, func() float64 { return float64(m.running.Load()) })
	stuck := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "headgate_worker_stuck_handlers",
		Help: "Handlers that do not return although their contexts ended a while ago.",
	}, func() float64 { return float64(m.stuck.Load()) })
	for _, c := range []prometheus.Collector{m.deliveries, m.attempt, running, stuck, m.ackErrors, m.claimsLost, m.redrives, m.paused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
