package writes

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/state"
)

// quotaTimeout bounds the request for the quota's record, which a scrape waits for.
const quotaTimeout = time.Second

// metrics are those that only this worker has.
type metrics struct {
	overdue prometheus.Counter
	quota   *quotaCollector
}

func newMetrics(r prometheus.Registerer) metrics {
	const space, part = "headgate", "writes"
	m := metrics{
		overdue: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: space, Subsystem: part, Name: "overdue_total",
			Help: "Writes that were marked overdue, because no outcome had come.",
		}),
		quota: &quotaCollector{exhausted: prometheus.NewDesc(prometheus.BuildFQName(space, part, "quota_exhausted"),
			"1 while an event says that the daily quota of calls of Codat's API is used up, and 0 otherwise; absent while the record cannot be read.", nil, nil)},
	}
	r.MustRegister(m.overdue, m.quota)
	return m
}

// A quotaCollector tells what the record of the quota says, whichever process has written it.
type quotaCollector struct {
	exhausted *prometheus.Desc
	bucket    atomic.Pointer[jetstream.KeyValue]
}

// Describe sends the description of the only metric.
func (c *quotaCollector) Describe(to chan<- *prometheus.Desc) { to <- c.exhausted }

// Collect reads the record. It sends nothing before there is a bucket, and when there is no answer.
func (c *quotaCollector) Collect(to chan<- prometheus.Metric) {
	bucket := c.bucket.Load()
	if bucket == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), quotaTimeout)
	defer cancel()
	var q state.Quota
	e, err := (*bucket).Get(ctx, state.QuotaKey)
	if err == nil {
		err = json.Unmarshal(e.Value(), &q)
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return
	}
	value := 0.0
	if !q.PausedUntil(time.Now()).IsZero() {
		value = 1
	}
	to <- prometheus.MustNewConstMetric(c.exhausted, prometheus.GaugeValue, value)
}
