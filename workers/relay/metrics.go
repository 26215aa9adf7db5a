package relay

import "github.com/prometheus/client_golang/prometheus"

// The values of the label answer, beside the classes of statuses.
const (
	answerNone    = "none"            // no answer in time, no connection, no address
	answerRefused = "refused_address" // not connected to, because the address is not allowed
	answerPaused  = "paused"          // not sent, because the endpoint has asked for a pause
)

// newMetrics registers the metrics of a route and returns the counter of its requests.
func newMetrics(reg prometheus.Registerer, worker string, f *files) *prometheus.CounterVec {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "headgate_relay_requests_total",
		Help: "Requests to the endpoint by answer: 2xx, 3xx, 4xx, 5xx; none; refused_address; paused, which was not sent.",
	}, []string{"answer"})
	for _, answer := range []string{"2xx", "3xx", "4xx", "5xx", answerNone, answerRefused, answerPaused} {
		requests.WithLabelValues(answer)
	}
	problems := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "headgate_relay_file_problems",
		Help: "Files of secrets or of the Authorization value that cannot be used; their previous content stays in use. The log and /readyz name them.",
	}, func() float64 { return float64(len(f.current().problems)) })
	prometheus.WrapRegistererWith(prometheus.Labels{"worker": worker}, reg).MustRegister(requests, problems)
	return requests
}
