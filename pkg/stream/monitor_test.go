package stream_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// monitorOf returns the metadata that nats server check reads.
func monitorOf(metadata map[string]string) map[string]string {
	monitor := maps.Clone(metadata)
	maps.DeleteFunc(monitor, func(key, _ string) bool { return !strings.HasPrefix(key, "io.nats.monitor.") })
	return monitor
}

func TestProvision_WritesThresholdsOfMonitoring(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	wantStream := map[string]string{"io.nats.monitor.enabled": "true"}
	for _, name := range []string{"CODAT", "CODAT_DEAD", "CODAT_PARKED", "CODAT_OPERATOR", "KV_CODAT_claims_connections", "KV_CODAT_workers"} {
		if diff := cmp.Diff(wantStream, monitorOf(config(t, s.JS, name).Metadata)); diff != "" {
			t.Errorf("stream %s (-want +got):\n%s", name, diff)
		}
	}
	want := map[string]string{
		"io.nats.monitor.enabled": "true", "io.nats.monitor.outstanding-ack-critical": "4500", "io.nats.monitor.waiting-critical": "1843",
	}
	if diff := cmp.Diff(want, monitorOf(consumerConfig(t, s.JS, "CODAT", "connections").Metadata)); diff != "" {
		t.Errorf("the consumer (-want +got):\n%s", diff)
	}
	want["io.nats.monitor.outstanding-ack-critical"] = "18000"
	if diff := cmp.Diff(want, monitorOf(consumerConfig(t, s.JS, "CODAT_PARKED", "connections").Metadata)); diff != "" {
		t.Errorf("the consumer of parked copies (-want +got):\n%s", diff)
	}
}

// A threshold that an operator or another version has set stays, and one that is missing comes back; a worker runs without them.
func TestProvision_KeepsThresholdsOfOthers(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections)
	c := consumerConfig(t, s.JS, "CODAT", "connections")
	c.Metadata = map[string]string{"owner": "headgate", "io.nats.monitor.waiting-critical": "7", "io.nats.monitor.last-ack-critical": "1h"}
	if _, err := s.JS.UpdateConsumer(t.Context(), "CODAT", c); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stream.Bind(t.Context(), s.JS, codatSource, connections); err != nil {
		t.Errorf("Bind without some thresholds = %v; want nil", err)
	}
	layout := stream.Layout{Workers: []stream.WorkerSpec{connections}}
	if got := change(t, provision(t, s, layout), "consumer connections on CODAT"); got.Action != stream.Update {
		t.Errorf("Provision() = %v; want an update", got)
	}
	want := map[string]string{
		"io.nats.monitor.enabled": "true", "io.nats.monitor.outstanding-ack-critical": "4500",
		"io.nats.monitor.waiting-critical": "7", "io.nats.monitor.last-ack-critical": "1h",
	}
	if diff := cmp.Diff(want, monitorOf(consumerConfig(t, s.JS, "CODAT", "connections").Metadata)); diff != "" {
		t.Errorf("the consumer (-want +got):\n%s", diff)
	}
	if got := change(t, provision(t, s, layout), "consumer connections on CODAT"); got.Action != stream.Same {
		t.Errorf("Provision() again = %v; want no change", got)
	}
}

// With replicas, a check asks for each copy; the number follows that of the stream.
func TestProvision_MonitorsReplicas(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	for _, replicas := range []string{"3", ""} {
		n := 1
		if replicas != "" {
			n = 3
		}
		if _, err := stream.Provision(within(t, patience), c.JS, stream.Layout{Source: "codat-uk", Replicas: n, AllowLoss: true}, false); err != nil {
			t.Fatal(err)
		}
		monitor := monitorOf(jetstreamConfig(t, c.JS, "CODAT_UK").Metadata)
		if monitor["io.nats.monitor.peer-expect"] != replicas || (monitor["io.nats.monitor.peer-seen-critical"] == "") != (replicas == "") {
			t.Errorf("with %d replicas the metadata is %v", n, monitor)
		}
	}
}

func jetstreamConfig(t *testing.T, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	st, err := js.Stream(within(t, patience), name)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo().Config
}
