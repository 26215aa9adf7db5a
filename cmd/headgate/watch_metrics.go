package main

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/watchdog"
)

// The metrics of headgate watch. The label worker is the name of a durable consumer: that of a worker, or of a team that
// reads events itself. A value that does not exist, such as the time of the last event of an empty stream, is absent.
var (
	watchUp      = described("watch_up", "1 when the last collection was complete, 0 when something did not answer: the log says what.", "source")
	watchSeconds = described("watch_collect_seconds", "How long the last collection took.", "source")

	streamLeader          = described("stream_has_leader", "1 when the stream has a leader, 0 when it does not answer or has none.", "source", "stream")
	streamMessages        = described("stream_messages", "Messages in the stream.", "source", "stream")
	streamBytes           = described("stream_bytes", "Bytes in the stream.", "source", "stream")
	streamMaxBytes        = described("stream_max_bytes", "Upper bound of the bytes in the stream; a full stream refuses messages.", "source", "stream")
	streamMaxAge          = described("stream_max_age_seconds", "How long the stream keeps a message.", "source", "stream")
	streamFirst           = described("stream_first_timestamp_seconds", "When the oldest message was stored, in seconds since 1970.", "source", "stream")
	streamLastSequence    = described("stream_last_sequence", "Sequence of the newest message: the number of messages ever stored.", "source", "stream")
	streamReplicas        = described("stream_replicas", "Configured number of copies of the stream.", "source", "stream")
	streamReplicasCurrent = described("stream_replicas_current", "Copies that are online and up to date, the leader's included.", "source", "stream")
	streamReplicaLag      = described("stream_replica_lag", "Operations by which a copy lags behind the leader.", "source", "stream", "server")

	streamCreated   = described("stream_created_timestamp_seconds", "Time at which the stream of the events was made, in seconds since 1970.", "source")
	lastEvent       = described("stream_last_event_timestamp_seconds", "When the newest event was stored, in seconds since 1970. Quarantined messages and redrives do not count.", "source")
	quarantineHolds = described("stream_quarantined", "Messages in the quarantine, released ones included.", "source")
	deadLetters     = described("stream_dead_letters", "Dead letters in the archive, replayed ones included.", "source", "worker")

	consumerLeader     = described("consumer_has_leader", "1 when the durable consumer has a leader, 0 when it does not answer, has none, or is missing although its worker was provisioned.", "source", "stream", "worker")
	consumerPending    = described("consumer_pending", "Messages that wait for their first delivery. On the stream of the events this is the worker's lag, on that of the parked events the number that waits for a later attempt.", "source", "stream", "worker")
	consumerAckPending = described("consumer_ack_pending", "Messages that were delivered and are not settled: an attempt runs, or waits up to a minute for the next one.", "source", "stream", "worker")
	consumerAckLimit   = described("consumer_ack_pending_limit", "Upper bound of the messages that were delivered and are not settled; at the bound nothing new is delivered.", "source", "stream", "worker")
	consumerWaiting    = described("consumer_waiting", "Pull requests that wait for a message: 0 when no process asks for more.", "source", "stream", "worker")
	consumerDelivered  = described("consumer_delivered_total", "Deliveries, repeated ones included.", "source", "stream", "worker")
	consumerOldest     = described("consumer_oldest_unsettled_seconds", "Age of the oldest event that the worker has not settled; 0 when all are settled. Parked events count as settled, because they do not expire.", "source", "stream", "worker")
	consumerPaused     = described("consumer_paused", "1 while the consumer is paused (headgate pause), so that the server delivers nothing to its worker.", "source", "stream", "worker")

	indexBytes  = described("index_bytes", "Memory of the index of headgate find.", "source")
	indexEvents = described("index_events", "Newest events that the index of headgate find has looked at.", "source")
	indexOldest = described("index_oldest_timestamp_seconds", "When the oldest event that the index of headgate find has looked at was stored, in seconds since 1970. It goes back to the oldest one of the stream when there is memory for all.", "source")
	indexFull   = described("index_full", "1 when older events did not fit into the index of headgate find, so that a search for them reads the stream; 0 when all fit so far.", "source")

	workerInstances = described("worker_instances", "Running processes of the worker.", "source", "worker")
	workerUnclaimed = described("worker_cannot_claim", "Running processes of the worker that cannot read or take claims, so that no handler runs in them: headgate workers says why.", "source", "worker")
	workerBreaker   = described("worker_breaker_open_seconds", "How long a process of the worker has been paused because a dependency is unavailable, the longest of all; 0 while none is paused.", "source", "worker")

	copyMessages = described("stream_copy_messages", "Messages in one server's copy of the stream, as its monitoring address reports them.", "source", "stream", "server")
	copyDeleted  = described("stream_copy_deleted", "Sequences between the first and the last that one server's copy does not have: they were deleted, or the server started with a damaged copy.", "source", "stream", "server")

	serverUp       = described("server_up", "1 when the server's monitoring address answers.", "monitor")
	serverHealthy  = described("server_healthy", "1 when the server, its JetStream and its copies of streams are healthy (/healthz), 0 when they are not: the log says why.", "monitor", "server")
	serverSync     = described("server_sync_always", "1 when the server writes to its disk before it acknowledges (sync_interval: always), 0 when a power failure can lose acknowledged messages.", "monitor", "server")
	serverMeta     = described("server_sees_meta_leader", "1 when the server knows a leader of the cluster's JetStream. A single server has none.", "monitor", "server")
	serverStore    = described("server_store_bytes", "Bytes of all streams on the server's disk.", "monitor", "server")
	serverMaxStore = described("server_store_max_bytes", "Upper bound of the bytes of all streams on the server's disk.", "monitor", "server")
)

// descriptions are all metrics of headgate watch.
var descriptions []*prometheus.Desc

func described(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("headgate_"+name, help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}

// metricsView holds the metrics of the last snapshot and of the watchdog's last report. A scrape asks NATS for nothing.
type metricsView struct {
	mu      sync.Mutex
	metrics []prometheus.Metric
	report  []prometheus.Metric // of the watchdog
	index   func() []prometheus.Metric
}

// show replaces the metrics by those of a snapshot, and returns their number.
func (v *metricsView) show(s inspect.Snapshot) int {
	metrics := metricsOf(s)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.metrics = metrics
	return len(metrics)
}

// showReport replaces the metrics of the watchdog by those of a report.
func (v *metricsView) showReport(source stream.Source, r watchdog.Report, complete bool) {
	metrics := reportMetrics(source, r, complete)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report = metrics
}

// showIndex shows the metrics of an index as they are at each scrape.
func (v *metricsView) showIndex(of stream.Source, index *inspect.Index) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.index = func() []prometheus.Metric {
		source, s, l := string(of), index.State(), &metricList{}
		l.gauge(indexBytes, float64(s.Bytes), source)
		l.gauge(indexEvents, float64(s.Events), source)
		l.gauge(indexFull, boolGauge(s.Full), source)
		if !s.Oldest.IsZero() {
			l.gauge(indexOldest, unixSeconds(s.Oldest), source)
		}
		return l.all
	}
}

// Describe names every metric that can occur.
func (v *metricsView) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
}

// Collect returns the metrics of the last snapshot and report.
func (v *metricsView) Collect(ch chan<- prometheus.Metric) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var index []prometheus.Metric
	if v.index != nil {
		index = v.index()
	}
	for _, m := range slices.Concat(v.metrics, v.report, index) {
		ch <- m
	}
}

// metricsOf returns a snapshot as metrics. A value that the snapshot does not have is absent.
func metricsOf(s inspect.Snapshot) []prometheus.Metric {
	source := string(s.Source)
	l := &metricList{}
	l.gauge(watchUp, boolGauge(s.Complete), source)
	l.gauge(watchSeconds, s.Took.Seconds(), source)
	for _, st := range s.Streams {
		l.stream(st, source, st.Name)
	}
	for _, c := range s.Consumers {
		l.consumer(c, source, c.Stream, c.Name)
	}
	for _, w := range s.Workers {
		l.gauge(workerInstances, float64(w.Instances), source, w.Name)
		l.gauge(workerUnclaimed, float64(w.CannotClaim), source, w.Name)
		l.gauge(workerBreaker, w.PausedFor.Seconds(), source, w.Name)
	}
	for w, n := range s.DeadLetters {
		l.gauge(deadLetters, float64(n), source, w)
	}
	if s.Quarantined != nil {
		l.gauge(quarantineHolds, float64(*s.Quarantined), source)
	}
	if !s.Created.IsZero() {
		l.gauge(streamCreated, unixSeconds(s.Created), source)
	}
	if !s.LastEvent.IsZero() {
		l.gauge(lastEvent, unixSeconds(s.LastEvent), source)
	}
	for _, server := range s.Servers {
		l.server(server)
		for _, c := range server.Copies {
			l.gauge(copyMessages, float64(c.Messages), source, c.Stream, server.Name)
			l.gauge(copyDeleted, float64(c.Deleted), source, c.Stream, server.Name)
		}
	}
	return l.all
}

// metricList collects metrics.
type metricList struct{ all []prometheus.Metric }

func (l *metricList) gauge(d *prometheus.Desc, value float64, labels ...string) {
	l.all = append(l.all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
}

func (l *metricList) counter(d *prometheus.Desc, value float64, labels ...string) {
	l.all = append(l.all, prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...))
}

func (l *metricList) stream(st inspect.Stream, labels ...string) {
	l.gauge(streamLeader, boolGauge(st.HasLeader), labels...)
	if !st.Answered {
		return
	}
	l.gauge(streamMessages, float64(st.Messages), labels...)
	l.gauge(streamBytes, float64(st.Bytes), labels...)
	l.counter(streamLastSequence, float64(st.LastSequence), labels...)
	if st.MaxBytes > 0 {
		l.gauge(streamMaxBytes, float64(st.MaxBytes), labels...)
	}
	if st.MaxAge > 0 {
		l.gauge(streamMaxAge, st.MaxAge.Seconds(), labels...)
	}
	if !st.First.IsZero() {
		l.gauge(streamFirst, unixSeconds(st.First), labels...)
	}
	l.gauge(streamReplicas, float64(st.Replicas), labels...)
	l.gauge(streamReplicasCurrent, float64(st.ReplicasCurrent), labels...)
	for server, lag := range st.ReplicaLag {
		l.gauge(streamReplicaLag, float64(lag), append(labels, server)...)
	}
}

func (l *metricList) consumer(c inspect.Consumer, labels ...string) {
	l.gauge(consumerLeader, boolGauge(c.HasLeader), labels...)
	if !c.Answered {
		return
	}
	l.gauge(consumerPending, float64(c.Pending), labels...)
	l.gauge(consumerAckPending, float64(c.AckPending), labels...)
	l.gauge(consumerAckLimit, float64(c.AckPendingLimit), labels...)
	l.gauge(consumerWaiting, float64(c.Waiting), labels...)
	l.counter(consumerDelivered, float64(c.Delivered), labels...)
	l.gauge(consumerPaused, boolGauge(c.Pause.Paused), labels...)
	if c.OldestUnsettled != nil {
		l.gauge(consumerOldest, c.OldestUnsettled.Seconds(), labels...)
	}
}

func (l *metricList) server(s inspect.Server) {
	l.gauge(serverUp, boolGauge(s.Answered), s.Monitor)
	if s.Healthy != nil {
		l.gauge(serverHealthy, boolGauge(*s.Healthy), s.Monitor, s.Name)
	}
	if s.SyncAlways != nil {
		l.gauge(serverSync, boolGauge(*s.SyncAlways), s.Monitor, s.Name)
	}
	if s.HasMetaLeader != nil {
		l.gauge(serverMeta, boolGauge(*s.HasMetaLeader), s.Monitor, s.Name)
	}
	if s.Storage != nil {
		l.gauge(serverStore, float64(*s.Storage), s.Monitor, s.Name)
	}
	if s.MaxStorage != nil {
		l.gauge(serverMaxStore, float64(*s.MaxStorage), s.Monitor, s.Name)
	}
}

// boolGauge is 1 for true and 0 for false.
func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unixSeconds is a time in seconds since 1970.
func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
