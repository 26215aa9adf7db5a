package stream

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// The metadata from which `nats server check stream` and `nats server check consumer` take their thresholds.
const (
	monitorPrefix         = "io.nats.monitor."
	monitorEnabled        = monitorPrefix + "enabled"
	monitorPeers          = monitorPrefix + "peer-expect"
	monitorPeerLag        = monitorPrefix + "peer-lag-critical"
	monitorPeerSeen       = monitorPrefix + "peer-seen-critical"
	monitorOutstandingAck = monitorPrefix + "outstanding-ack-critical"
	monitorWaiting        = monitorPrefix + "waiting-critical"
)

const (
	maxPeerLag  = "1000" // operations: a replica that catches up is behind by more
	maxPeerSeen = "10s"  // a leader hears of its replicas each second
)

// monitorOfStream returns the monitoring metadata of a stream of this configuration.
func monitorOfStream(c *jetstream.StreamConfig) map[string]string {
	m := map[string]string{monitorEnabled: "true"}
	if c.Replicas > 1 { // with it, the check fails on a server without a cluster
		m[monitorPeers], m[monitorPeerLag], m[monitorPeerSeen] = strconv.Itoa(c.Replicas), maxPeerLag, maxPeerSeen
	}
	return m
}

// monitorOfConsumer returns the monitoring metadata of a consumer of this configuration: nine tenths of its limits.
func monitorOfConsumer(c *jetstream.ConsumerConfig) map[string]string {
	m := map[string]string{monitorEnabled: "true"}
	if c.MaxAckPending > 1 { // the one place of an ordered worker is taken while it works
		m[monitorOutstandingAck] = strconv.Itoa(c.MaxAckPending * 9 / 10)
	}
	if c.MaxWaiting > 1 {
		m[monitorWaiting] = strconv.Itoa(c.MaxWaiting * 9 / 10)
	}
	return m
}

// monitored returns metadata with the monitoring of want. A value that an operator or another version has set stays: only one that is
// missing is added, and one that follows from the present configuration, which have is, is changed. So two versions of provision with different
// thresholds do not undo each other's. The number of copies is always that of want.
func monitored(metadata, have, want map[string]string) map[string]string {
	all := maps.Clone(metadata)
	if all == nil {
		all = map[string]string{}
	}
	for _, key := range []string{monitorEnabled, monitorPeers, monitorPeerLag, monitorPeerSeen, monitorOutstandingAck, monitorWaiting} {
		present, set := all[key]
		value, wanted := want[key]
		switch {
		case set && present != have[key] && key != monitorPeers: // not made of what is there
		case wanted:
			all[key] = value
		default:
			delete(all, key)
		}
	}
	return all
}

// MonitorReplicas returns the metadata of a stream whose number of replicas becomes another one, with the monitoring that provision writes
// for that number. It returns the metadata of a stream that provision does not monitor as it is.
func MonitorReplicas(metadata map[string]string, have, want int) map[string]string {
	if _, is := metadata[monitorEnabled]; !is {
		return metadata
	}
	return monitored(metadata, monitorOfStream(&jetstream.StreamConfig{Replicas: have}), monitorOfStream(&jetstream.StreamConfig{Replicas: want}))
}

// monitoring returns the monitoring metadata as the value of a setting.
func monitoring(metadata map[string]string) any {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if name, is := strings.CutPrefix(key, monitorPrefix); is {
			all = append(all, name+"="+metadata[key])
		}
	}
	return all
}

// What provision compares, and what nothing else does: a worker runs also where it differs.
var (
	provisionedStream = append(slices.Clone(streamSettings), setting[jetstream.StreamConfig]{
		"monitoring", func(c *jetstream.StreamConfig) any { return monitoring(c.Metadata) },
	})
	provisionedConsumer = append(slices.Clone(consumerSettings), setting[jetstream.ConsumerConfig]{
		"monitoring", func(c *jetstream.ConsumerConfig) any { return monitoring(c.Metadata) },
	})
)
