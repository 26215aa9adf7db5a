package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/connections"
)

// series are metrics by how they are written: name{label="value"}, sorted, without headgate_ and source="codat".
type series map[string]float64

// seriesOf reads what a registry has.
func seriesOf(t testing.TB, g prometheus.Gatherer) series {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := series{}
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
func (s series) wants(t testing.TB, want series) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := s[name]; !ok || got != want[name] {
			t.Errorf("%s = %v, seen: %t; want %v", name, got, ok, want[name])
		}
	}
}

// sees looks once. The values of the time and of sizes are as they are.
func sees(t testing.TB, l *looker) (series, error) {
	t.Helper()
	seen, err := l.look(t.Context())
	v := new(view)
	v.replace(seen)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(v)
	return seriesOf(t, registry), err
}

// wholly looks once, and must see everything.
func wholly(t testing.TB, l *looker) series {
	t.Helper()
	s, err := sees(t, l)
	if err != nil {
		t.Fatalf("look() = %v", err)
	}
	return s
}

const (
	onEvents = `{stream="CODAT",worker="connections"}`
	onParked = `{stream="CODAT_PARKED",worker="connections"}`
)

func TestWatchSeesWhatWaitsWhileNoWorkerRuns(t *testing.T) {
	r := newRig(t, connections.Worker(connections.Store{}).Plan())
	l := newLooker(r.JS, source, nil)
	wholly(t, l).wants(t, series{
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
	s := wholly(t, l)
	s.wants(t, series{
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
	if got, want := s["stream_last_event_timestamp_seconds{}"], unix(r.time(source.Stream(), 3)); got != want {
		t.Errorf("the newest event is of %v; want %v, and not the quarantine's", got, want)
	}
}

// time is when a message was stored.
func (r *rig) time(name string, sequence uint64) time.Time { return r.message(name, sequence).Time }

// The oldest unsettled event is the one behind the last gap, and no other worker's.
func TestWatchSeesTheOldestUnsettledEvent(t *testing.T) {
	r := newRig(t, connections.Worker(connections.Store{}).Plan())
	l := newLooker(r.JS, source, nil)
	for i, typ := range []string{"connection.created", "invoices.write.successful", "connection.connected", "connection.deleted", "read.completed"} {
		r.event(typ, fmt.Sprint("msg_", i))
	}
	c, err := r.JS.Consumer(t.Context(), source.Stream(), connections.Name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(4, jetstream.FetchMaxWait(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var taken []jetstream.Msg
	for m := range batch.Messages() {
		taken = append(taken, m)
	}
	if len(taken) != 4 {
		t.Fatalf("took %d events; want 4: %v", len(taken), batch.Error())
	}
	settle := func(i int) {
		t.Helper()
		if err := taken[i].DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	oldest := func(want uint64) {
		t.Helper()
		wholly(t, l)
		if got := l.oldest[connections.Name].sequence; got != want {
			t.Errorf("the oldest unsettled event is %d; want %d", got, want)
		}
	}
	oldest(1)
	settle(2) // sequence 4
	oldest(1)
	settle(0) // sequence 1
	oldest(3)
	oldest(3)
	wholly(t, l).wants(t, series{"consumer_ack_pending" + onEvents: 2, "consumer_delivered_total" + onEvents: 4})
	st, err := r.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	oldest(5)
	settle(3) // sequence 5
	wholly(t, l).wants(t, series{"consumer_oldest_unsettled_seconds" + onEvents: 0})
}

func TestWatchSeesRunningWorkers(t *testing.T) {
	r := newRig(t, connections.Worker(connections.Store{}).Plan())
	l := newLooker(r.JS, source, nil)
	show := func(i workers.Instance) {
		t.Helper()
		body, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.JS.Publish(t.Context(), instanceSubject(source, i.Worker+"."+i.Instance), body); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	show(workers.Instance{Worker: "connections", Instance: "a", Seen: now})
	show(workers.Instance{Worker: "connections", Instance: "b", Seen: now, Paused: now.Add(-10 * time.Minute)})
	show(workers.Instance{Worker: "connections", Instance: "c", Seen: now, Paused: now.Add(-20 * time.Minute)})
	s := wholly(t, l)
	s.wants(t, series{`worker_instances{worker="connections"}`: 3})
	if open := s[`worker_breaker_open_seconds{worker="connections"}`]; open < 1200 || open > time.Since(now).Seconds()+1200 {
		t.Errorf("the breaker is open for %v s; want the longest of all, 1200", open)
	}
}

// A stream that does not answer is shown as one without a leader, and hides nothing else.
func TestWatchGoesOnWithoutAStream(t *testing.T) {
	r := newRig(t)
	l := newLooker(r.JS, source, nil)
	wholly(t, l)
	for _, name := range []string{source.ParkedStream(), source.Stream()} {
		if err := r.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	s, err := sees(t, l)
	if err == nil || !strings.Contains(err.Error(), "stream CODAT is not there: run headgate provision") {
		t.Errorf("look() = %v; want what is missing, and the cure", err)
	}
	s.wants(t, series{"watch_up{}": 0, `stream_has_leader{stream="CODAT_DEAD"}`: 1})

	r.Stop()
	streamtest.Wait(t, func() bool { return !r.NC.IsConnected() }, "the connection is lost")
	s, err = sees(t, l)
	if err == nil || !strings.Contains(err.Error(), "not connected to NATS") {
		t.Errorf("look() = %v; want it to say that it is not connected", err)
	}
	if len(s) != 2 || s["watch_up{}"] != 0 {
		t.Errorf("without a server it sees %v; want nothing but that", s)
	}
	r.Start()
	streamtest.Wait(t, r.NC.IsConnected, "the connection is back")
}

func TestWatchSeesACluster(t *testing.T) {
	c := streamtest.NewCluster(t, connections.Worker(connections.Store{}).Plan())
	l := newLooker(c.JS, source, nil)
	s := series{}
	streamtest.Wait(t, func() bool {
		s, _ = sees(t, l)
		return s["watch_up{}"] == 1 && s[`stream_replicas_current{stream="CODAT"}`] == 3
	}, "all copies are current")
	s.wants(t, series{
		`stream_has_leader{stream="CODAT"}`: 1, `stream_replicas{stream="CODAT"}`: 3,
		"consumer_has_leader" + onEvents: 1,
	})
	lags := 0
	for name := range s {
		if strings.HasPrefix(name, `stream_replica_lag{server="`) && strings.HasSuffix(name, `stream="CODAT"}`) {
			lags++
		}
	}
	if lags != 2 {
		t.Errorf("it sees the lag of %d copies; want 2", lags)
	}

	leader := c.LeaderOf(source.Stream())
	c.Kill((leader + 1) % 3)
	streamtest.Wait(t, func() bool {
		s, _ = sees(t, l)
		return s[`stream_replicas_current{stream="CODAT"}`] == 2 && s[`stream_has_leader{stream="CODAT"}`] == 1
	}, "a copy is missing")
	c.Kill((leader + 2) % 3)
	streamtest.Wait(t, func() bool {
		s, _ = sees(t, l)
		led, seen := s[`stream_has_leader{stream="CODAT"}`]
		return seen && led == 0 && s["watch_up{}"] == 0
	}, "the stream has no leader")
}

func TestWatchOwns(t *testing.T) {
	l := newLooker(nil, "codat", nil)
	for name, want := range map[string]bool{
		"CODAT": true, "CODAT_DEAD": true, "CODAT_PARKED": true, "CODAT_OPERATOR": true, "KV_CODAT_workers": true,
		"KV_CODAT_claims_writes": true, "CODAT_EU": false, "CODAT_EU_DEAD": false, "KV_CODAT_EU_workers": false,
		"KV_OTHER_workers": false, "KV_CODAT_": false, "ORDERS": false,
	} {
		if got := l.owns(name); got != want {
			t.Errorf("owns(%s) = %t; want %t", name, got, want)
		}
	}
}

// monitor is a server's monitoring address that answers as NATS does.
func monitor(t testing.TB, status int, answer string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/varz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWatchSeesServers(t *testing.T) {
	r := newRig(t)
	safe := monitor(t, 200, `{"server_name":"nats-1","jetstream":{"config":{"sync_always":true,"max_storage":1000},"stats":{"storage":10},"meta":{"leader":"nats-1"}}}`)
	unsafe := monitor(t, 200, `{"server_name":"nats-2","jetstream":{"config":{"max_storage":1000},"stats":{"storage":10},"meta":{"leader":""}}}`)
	core := monitor(t, 200, `{"server_name":"nats-3","jetstream":{}}`)
	broken := monitor(t, 500, "")
	s, err := sees(t, newLooker(r.JS, source, []string{safe, unsafe, core, broken}))
	host := func(address string) string { return strings.TrimPrefix(address, "http://") }
	if err == nil || !strings.Contains(err.Error(), host(broken)+": it answers 500") {
		t.Errorf("look() = %v; want the address that does not answer", err)
	}
	of := func(address, name string) string { return fmt.Sprintf(`{monitor=%q,server=%q}`, host(address), name) }
	s.wants(t, series{
		fmt.Sprintf("server_up{monitor=%q}", host(safe)):   1,
		fmt.Sprintf("server_up{monitor=%q}", host(core)):   1,
		fmt.Sprintf("server_up{monitor=%q}", host(broken)): 0,
		"server_sync_always" + of(safe, "nats-1"):          1,
		"server_sync_always" + of(unsafe, "nats-2"):        0,
		"server_sees_meta_leader" + of(safe, "nats-1"):     1,
		"server_sees_meta_leader" + of(unsafe, "nats-2"):   0,
		"server_store_bytes" + of(safe, "nats-1"):          10,
		"server_store_max_bytes" + of(safe, "nats-1"):      1000,
		`stream_has_leader{stream="CODAT"}`:                1,
	})
	if _, ok := s["server_sync_always"+of(core, "nats-3")]; ok {
		t.Error("a server without JetStream has a setting of it")
	}
}

// The whole command: it is ready, answers Prometheus, and ends cleanly.
func TestWatchServes(t *testing.T) {
	r := newRig(t, connections.Worker(connections.Store{}).Plan())
	c := begin(t, "", "watch", "--admin-listen", "127.0.0.1:0", "--interval", "1s", "--nats-url", r.URL)
	c.err.says(t, `"msg":"watching"`)
	address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(c.err.String())[1]
	get := func(path string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Close = true
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	contains(t, get("/readyz"), "ready\nok    broker")
	contains(t, get("/metrics"), `headgate_consumer_pending{process="watch",source="codat",stream="CODAT",worker="connections"} 0`)
	r.event("connection.connected", "msg_1")
	streamtest.Wait(t, func() bool {
		return strings.Contains(get("/metrics"), `headgate_consumer_pending{process="watch",source="codat",stream="CODAT",worker="connections"} 1`)
	}, "the event is seen to wait")
	c.stop()
	c.exit(0)
}

// What a real server says of itself is what is read.
func TestWatchReadsARealServer(t *testing.T) {
	for _, always := range []bool{true, false} {
		s, err := server.NewServer(&server.Options{
			ServerName: "nats-1", Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: -1,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 20, SyncAlways: always, NoLog: true, NoSigs: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(30 * time.Second) {
			t.Fatal("the server does not start")
		}
		l := newLooker(nil, source, nil)
		g := new(glance)
		address := "http://" + s.MonitorAddr().String()
		if err := l.server(t.Context(), g, address); err != nil {
			t.Fatal(err)
		}
		v := new(view)
		v.replace(g.seen)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(v)
		labels := fmt.Sprintf(`{monitor=%q,server="nats-1"}`, s.MonitorAddr().String())
		seriesOf(t, registry).wants(t, series{
			"server_sync_always" + labels: truth(always), "server_store_max_bytes" + labels: 1 << 20, "server_store_bytes" + labels: 0,
		})
	}
}

func TestWatchRefusesSettingsThatCannotBeMeant(t *testing.T) {
	for args, says := range map[string]string{
		"--interval 10ms":                      "give 1s or more",
		"--monitor-url nats-1:8222":            "http://nats-1:8222",
		"--monitor-url ftp://u:hunter2@nats-1": "--monitor-url",
		"--admin-listen here":                  "--admin-listen",
		"--source Codat":                       "small letter",
	} {
		c := headgate(t, 2, append([]string{"watch"}, strings.Fields(args)...)...)
		contains(t, c.err.String(), says)
		if strings.Contains(c.err.String(), "hunter2") {
			t.Errorf("it shows a password: %s", &c.err)
		}
	}
}
