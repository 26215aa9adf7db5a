package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/connections"
)

// metricValues are metrics by how they are written: name{label="value"}, sorted, without headgate_ and source="codat".
type metricValues map[string]float64

// gatherValues reads what a registry has.
func gatherValues(t testing.TB, g prometheus.Gatherer) metricValues {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := metricValues{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetName() != "source" {
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
			}
			all[strings.TrimPrefix(f.GetName(), "headgate_")+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

// wants reports every value that is not as wanted.
func (s metricValues) wants(t testing.TB, want metricValues) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := s[name]; !ok || got != want[name] {
			t.Errorf("%s = %v, seen: %t; want %v", name, got, ok, want[name])
		}
	}
}

// collectSeries collects once and returns the metrics.
func collectSeries(t testing.TB, c *inspect.Collector) (metricValues, error) {
	t.Helper()
	s, err := c.Collect(t.Context())
	v := new(metricsView)
	v.show(s)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(v)
	return gatherValues(t, registry), err
}

// mustCollectSeries collects until no request took too long, and everything must answer.
func mustCollectSeries(t testing.TB, c *inspect.Collector) metricValues {
	t.Helper()
	s, err := collectSeries(t, c)
	for errors.Is(err, context.DeadlineExceeded) && t.Context().Err() == nil {
		s, err = collectSeries(t, c)
	}
	if err != nil {
		t.Fatalf("Collect = %v", err)
	}
	return s
}

const (
	onEvents = `{stream="CODAT",worker="connections"}`
	onParked = `{stream="CODAT_PARKED",worker="connections"}`
)

func TestWatch_CountsPendingWithoutWorker(t *testing.T) {
	t.Parallel()
	r := newBroker(t, connections.Worker(connections.Store{}).Spec())
	l := inspect.NewCollector(r.JS, source)
	mustCollectSeries(t, l).wants(t, metricValues{
		"watch_up{}":                                        1,
		`stream_has_leader{stream="CODAT"}`:                 1,
		`stream_messages{stream="CODAT"}`:                   0,
		`stream_max_bytes{stream="CODAT"}`:                  float64(stream.DefaultMaxBytes),
		`stream_max_age_seconds{stream="CODAT"}`:            (16 * 24 * time.Hour).Seconds(),
		`stream_replicas{stream="CODAT"}`:                   1,
		`stream_replicas_current{stream="CODAT"}`:           1,
		"stream_quarantined{}":                              0,
		`stream_dead_letters{worker="connections"}`:         0,
		"consumer_pending" + onEvents:                       0,
		"consumer_pending" + onParked:                       0,
		"consumer_waiting" + onEvents:                       0,
		"consumer_oldest_unsettled_seconds" + onEvents:      0,
		`worker_instances{worker="connections"}`:            0,
		`worker_breaker_open_seconds{worker="connections"}`: 0,
		`stream_has_leader{stream="KV_CODAT_connections"}`:  1,
	})

	r.event("invoices.write.successful", "msg_1") // the worker does not take it
	began := time.Now()
	r.event("connection.connected", "msg_2")
	r.event("connection.deleted", "msg_3")
	r.quarantined("msg_4", "not_json", []byte("{"))
	if _, err := r.JS.Publish(t.Context(), source.DeadSubject("connections", "connection.created"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.JS.Publish(t.Context(), source.ParkedSubject("connections", "connection.created"), nil); err != nil {
		t.Fatal(err)
	}
	streamtest.WaitPending(t, r.JS, source.Stream(), "connections", 2)
	streamtest.WaitPending(t, r.JS, source.ParkedStream(), "connections", 1)
	s := mustCollectSeries(t, l)
	s.wants(t, metricValues{
		`stream_messages{stream="CODAT"}`:           4,
		`stream_last_sequence{stream="CODAT"}`:      4,
		"stream_quarantined{}":                      1,
		`stream_dead_letters{worker="connections"}`: 1,
		"consumer_pending" + onEvents:               2,
		"consumer_pending" + onParked:               1, // and no lag of the events
		"consumer_delivered_total" + onEvents:       0,
	})
	if age := s["consumer_oldest_unsettled_seconds"+onEvents]; age <= 0 || age > time.Since(began).Seconds() {
		t.Errorf("the oldest event is %v s old; want it since %v", age, time.Since(began))
	}
	if got, want := s["stream_last_event_timestamp_seconds{}"], unixSeconds(r.time(source.Stream(), 3)); got != want {
		t.Errorf("the newest event is of %v; want %v, and not the quarantine's", got, want)
	}
}

// time is when a message was stored.
func (r *broker) time(name string, sequence uint64) time.Time { return r.message(name, sequence).Time }

func TestWatch_CountsRunningWorkers(t *testing.T) {
	t.Parallel()
	r := newBroker(t, connections.Worker(connections.Store{}).Spec())
	l := inspect.NewCollector(r.JS, source)
	show := func(i inspect.Instance) {
		t.Helper()
		body, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.JS.Publish(t.Context(), "$KV.CODAT_workers."+i.Worker+"."+i.Instance, body); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	show(inspect.Instance{Worker: "connections", Instance: "a", Seen: now})
	show(inspect.Instance{Worker: "connections", Instance: "b", Seen: now, Paused: now.Add(-10 * time.Minute)})
	show(inspect.Instance{Worker: "connections", Instance: "c", Seen: now, Paused: now.Add(-20 * time.Minute)})
	show(inspect.Instance{Worker: "connections", Instance: "d", Seen: now, CannotClaim: "bucket not found"})
	s := mustCollectSeries(t, l)
	s.wants(t, metricValues{`worker_instances{worker="connections"}`: 4, `worker_cannot_claim{worker="connections"}`: 1})
	contains(t, r.headgate(0, "workers").out.String(), "\trunning\t", "\tpaused\t", "\tcannot claim\t", "\tbucket not found\n")
	if open := s[`worker_breaker_open_seconds{worker="connections"}`]; open < 1200 || open > time.Since(now).Seconds()+1200 {
		t.Errorf("the breaker is open for %v s; want the longest of all, 1200", open)
	}
}

// monitor is a server's monitoring address that answers as NATS does.
func monitor(t testing.TB, status int, answer string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz" && strings.Contains(answer, `"leader":""`):
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"status":"unavailable","error":"JetStream not enabled"}`)
			return
		case r.URL.Path == "/healthz":
			_, _ = io.WriteString(w, `{"status":"ok"}`)
			return
		case r.URL.Path == "/jsz" && r.URL.RawQuery == "streams=true":
			_, _ = io.WriteString(w, `{"account_details":[{"stream_detail":[{"name":"CODAT","state":{"messages":7,"num_deleted":2}},{"name":"OTHER","state":{"messages":1}}]}]}`)
			return
		case r.URL.Path != "/varz":
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWatch_ReadsServers(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	safe := monitor(t, 200, `{"server_name":"nats-1","jetstream":{"config":{"sync_always":true,"max_storage":1000},"stats":{"storage":10},"meta":{"leader":"nats-1"}}}`)
	unsafe := monitor(t, 200, `{"server_name":"nats-2","jetstream":{"config":{"max_storage":1000},"stats":{"storage":10},"meta":{"leader":""}}}`)
	core := monitor(t, 200, `{"server_name":"nats-3","jetstream":{}}`)
	broken := monitor(t, 500, "")
	s, err := collectSeries(t, inspect.NewCollector(r.JS, source, safe, unsafe, core, broken))
	host := func(address string) string { return strings.TrimPrefix(address, "http://") }
	if err == nil || !strings.Contains(err.Error(), host(broken)+": it answers 500") {
		t.Errorf("Collect = %v; want the address that does not answer", err)
	}
	of := func(address, name string) string { return fmt.Sprintf(`{monitor=%q,server=%q}`, host(address), name) }
	s.wants(t, metricValues{
		fmt.Sprintf("server_up{monitor=%q}", host(safe)):   1,
		fmt.Sprintf("server_up{monitor=%q}", host(core)):   1,
		fmt.Sprintf("server_up{monitor=%q}", host(broken)): 0,
		"server_healthy" + of(safe, "nats-1"):              1,
		"server_healthy" + of(unsafe, "nats-2"):            0,
		"server_sync_always" + of(safe, "nats-1"):          1,
		"server_sync_always" + of(unsafe, "nats-2"):        0,
		"server_sees_meta_leader" + of(safe, "nats-1"):     1,
		"server_sees_meta_leader" + of(unsafe, "nats-2"):   0,
		"server_store_bytes" + of(safe, "nats-1"):          10,
		"server_store_max_bytes" + of(safe, "nats-1"):      1000,
		`stream_has_leader{stream="CODAT"}`:                1,

		`stream_copy_messages{server="nats-1",stream="CODAT"}`: 7,
		`stream_copy_deleted{server="nats-1",stream="CODAT"}`:  2,
	})
	if _, ok := s[`stream_copy_messages{server="nats-1",stream="OTHER"}`]; ok {
		t.Error("a stream of another program has a copy of the source")
	}
	if _, ok := s["server_sync_always"+of(core, "nats-3")]; ok {
		t.Error("a server without JetStream has a setting of it")
	}
}

// The whole command: it is ready, answers Prometheus, and ends cleanly.
func TestWatch_ServesMetrics(t *testing.T) {
	t.Parallel()
	r := newBroker(t, connections.Worker(connections.Store{}).Spec())
	c := begin(t, "", "watch", "--admin-listen", "127.0.0.1:0", "--interval", "1s", "--nats-url", r.URL)
	c.err.says(t, `"msg":"watching"`)
	address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(c.err.String())[1]
	get := func(path string) string { return get(t, "http://"+address+path) }
	contains(t, get("/readyz"), "ready\nok    broker")
	contains(t, get("/metrics"), `headgate_consumer_pending{process="watch",source="codat",stream="CODAT",worker="connections"} 0`)
	r.event("connection.connected", "msg_1")
	streamtest.Wait(t, func() bool {
		return strings.Contains(get("/metrics"), `headgate_consumer_pending{process="watch",source="codat",stream="CODAT",worker="connections"} 1`)
	}, "the event is seen to wait")
	c.stop()
	c.exit(0)
}

func TestWatch_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"--interval 10ms":                         "must be at least 1s",
		"--monitor-url nats-1:8222":               "http://nats-1:8222",
		"--monitor-url ftp://u:hunter2@nats-1":    "--monitor-url",
		"--monitor-url http://u:1/hunter2@nats-1": "--monitor-url",
		"--monitor-url http://u:1#hunter2@nats-1": "--monitor-url",
		"--admin-listen here":                     "--admin-listen",
		"--source Codat":                          "small letter",
	} {
		c := headgate(t, 2, append([]string{"watch"}, strings.Fields(args)...)...)
		contains(t, c.err.String(), says)
		if strings.Contains(c.err.String(), "hunter2") {
			t.Errorf("it shows a password: %s", &c.err)
		}
	}
}

// What keeps the index from all events is logged once while it stays, and again when it comes back.
func TestLogIndex_LogsEachChangeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, seen := observer.New(zap.WarnLevel)
		failed := logIndex(zap.New(core))
		for _, step := range []struct {
			text  string
			after time.Duration
			lines int
		}{{"a", 0, 1}, {"a", time.Minute, 1}, {"a", time.Minute, 1}, {"b", time.Minute, 2}, {"a", time.Minute, 3}, {"a", 2 * time.Minute, 4}} {
			time.Sleep(step.after) // of the bubble's clock
			failed(errors.New(step.text))
			if n := seen.Len(); n != step.lines {
				t.Errorf("after %q, %v later, there are %d lines; want %d", step.text, step.after, n, step.lines)
			}
		}
	})
}
