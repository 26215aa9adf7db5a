package workers

import "github.com/prometheus/client_golang/prometheus"

// metrics are a worker's; every one carries the label worker.
type metrics struct {
	deliveries *prometheus.CounterVec
	attempt    prometheus.Histogram
	running    prometheus.Gauge
	ackErrors  prometheus.Counter
	paused     prometheus.GaugeFunc
}

func newMetrics(reg prometheus.Registerer, worker string, b *breaker) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_worker_deliveries_total",
			Help: "Deliveries by the fate that the log names too: done, settled, later, parked, dead, busy, unhandled, givenback, lost, unclaimed.",
		}, []string{"fate"}),
		attempt: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "headgate_worker_attempt_seconds",
			Help:    "How long a handler ran.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "headgate_worker_running", Help: "Handlers that run now.",
		}),
		ackErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_worker_ack_errors_total",
			Help: "Acks and naks that the server did not confirm; their events come again and are recognised.",
		}),
		paused: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "headgate_worker_paused_seconds",
			Help: "Since how long the worker pauses because something that it needs is unavailable; 0 while it works.",
		}, func() float64 {
			since := b.paused()
			if since.IsZero() {
				return 0
			}
			return b.now().Sub(since).Seconds()
		}),
	}
	for _, f := range fates {
		m.deliveries.WithLabelValues(string(f))
	}
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"worker": worker}, reg)
	for _, c := range []prometheus.Collector{m.deliveries, m.attempt, m.running, m.ackErrors, m.paused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
