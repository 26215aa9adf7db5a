package main

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics of headgate watch. The label worker is the name of a durable consumer: a worker's, or that of a team that
// reads the events itself. A value that does not exist, such as the time of the last event of an empty stream, is absent.
var (
	watchUp      = described("watch_up", "1 when the last look saw everything, 0 when something did not answer: the log says what.", "source")
	watchSeconds = described("watch_look_seconds", "How long the last look took.", "source")

	streamLeader          = described("stream_has_leader", "1 when the stream answers, 0 when it has no leader.", "source", "stream")
	streamMessages        = described("stream_messages", "Messages that the stream holds.", "source", "stream")
	streamBytes           = described("stream_bytes", "Bytes that the stream holds.", "source", "stream")
	streamMaxBytes        = described("stream_max_bytes", "Bytes that the stream may hold; full, it refuses.", "source", "stream")
	streamMaxAge          = described("stream_max_age_seconds", "How long the stream keeps a message.", "source", "stream")
	streamFirst           = described("stream_first_timestamp_seconds", "When the oldest message was stored, in seconds since 1970.", "source", "stream")
	streamLastSequence    = described("stream_last_sequence", "Sequence of the newest message: how many were stored ever.", "source", "stream")
	streamReplicas        = described("stream_replicas", "Copies that the stream should have.", "source", "stream")
	streamReplicasCurrent = described("stream_replicas_current", "Copies, the leader's too, that are online and up to date.", "source", "stream")
	streamReplicaLag      = described("stream_replica_lag", "Operations that a copy is behind the leader.", "source", "stream", "server")

	lastEvent       = described("stream_last_event_timestamp_seconds", "When the newest event was stored, in seconds since 1970. Neither the quarantine nor what is given again counts.", "source")
	quarantineHolds = described("stream_quarantined", "Messages that the quarantine holds, those released from it too.", "source")
	deadLetters     = described("stream_dead_letters", "Dead letters that are kept, those given again too.", "source", "worker")

	consumerLeader     = described("consumer_has_leader", "1 when the durable consumer answers, 0 when it has no leader.", "source", "stream", "worker")
	consumerPending    = described("consumer_pending", "Messages that wait for the first delivery. On the stream of the events that is the worker's lag; on that of the parked ones, what waits for a later attempt.", "source", "stream", "worker")
	consumerAckPending = described("consumer_ack_pending", "Messages that were delivered and are not settled: being worked on, or waiting up to a minute for the next attempt.", "source", "stream", "worker")
	consumerWaiting    = described("consumer_waiting", "Pull requests that wait for a message: 0 when nobody asks for more.", "source", "stream", "worker")
	consumerDelivered  = described("consumer_delivered_total", "Deliveries, repeated ones too.", "source", "stream", "worker")
	consumerOldest     = described("consumer_oldest_unsettled_seconds", "Age of the oldest event that the worker has not settled; 0 when there is none. What is parked counts as settled here: it does not expire.", "source", "stream", "worker")

	workerInstances = described("worker_instances", "Running processes of the worker.", "source", "worker")
	workerBreaker   = described("worker_breaker_open_seconds", "Since how long a process of the worker pauses because something that it needs is unavailable, the longest of all; 0 while all work.", "source", "worker")

	serverUp       = described("server_up", "1 when the server's monitoring address answers.", "monitor")
	serverSync     = described("server_sync_always", "1 when the server writes to its disk before it acknowledges (sync_interval: always), 0 when a loss of power can lose what was acknowledged.", "monitor", "server")
	serverMeta     = described("server_sees_meta_leader", "1 when the server knows a leader of the cluster's JetStream. A server alone has none.", "monitor", "server")
	serverStore    = described("server_store_bytes", "Bytes of all streams on the server's disk.", "monitor", "server")
	serverMaxStore = described("server_store_max_bytes", "Bytes that all streams may have on the server's disk.", "monitor", "server")
)

// watched are all of them.
var watched []*prometheus.Desc

func described(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("headgate_"+name, help, labels, nil)
	watched = append(watched, d)
	return d
}

// A view is what was seen last, as metrics.
type view struct {
	mu   sync.Mutex
	seen []prometheus.Metric
}

func (v *view) replace(seen []prometheus.Metric) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = seen
}

// Describe names every metric that there can be.
func (v *view) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range watched {
		ch <- d
	}
}

// Collect gives what was seen last. Nothing is asked for it.
func (v *view) Collect(ch chan<- prometheus.Metric) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range v.seen {
		ch <- m
	}
}
