package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const (
	source = streamtest.Source
	secret = "whsec_3UrFiHsCnvxXwb0MbJLvvCLtUvTLtvXI"
)

// spec is a worker as those that are built in.
var spec = stream.WorkerSpec{Name: "connections", Types: []codat.Pattern{"connection.created", "connection.deleted"}, State: []string{"connections", "quota"}}

// An installation is a server on which all is well, with what is around it.
type installation struct {
	*streamtest.Server
	testing.TB
	Options
	running   []inspect.Instance // whose entries are written before each look: they expire after a minute
	monitors  []*monitored
	endpoints []Endpoint
	processes []Process
}

// newInstallation starts a server with a stored event, a running worker, and what headgate watch writes.
func newInstallation(t testing.TB) *installation {
	t.Helper()
	in := &installation{Server: streamtest.New(t, spec), TB: t}
	in.describe()
	in.publish("codat.events.company.created", "{}")
	in.publish("$KV.CODAT_expected.learned.company.created", "{}")
	in.running = []inspect.Instance{{Worker: "connections", Instance: "a", Version: "v1"}}
	return in
}

// describe sets the options.
func (in *installation) describe() {
	in.Helper()
	file := filepath.Join(in.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		in.Fatal(err)
	}
	key, err := signature.ParseKey(secret)
	if err != nil {
		in.Fatal(err)
	}
	in.endpoints = []Endpoint{{ID: "ep_1"}}
	in.processes = []Process{
		{Address: "ingress:9090", Metrics: []Metric{
			{Name: "headgate_ready", Value: 1},
			{Name: "headgate_ingress_key_matches_total", Labels: map[string]string{"key": key.Fingerprint()}, Value: 7},
			{Name: "headgate_ingress_signature_age_seconds", Value: 1},
			{Name: "headgate_ingress_file_problems"},
			{Name: "headgate_ingress_certificate_end_timestamp_seconds", Value: float64(time.Now().Add(60 * 24 * time.Hour).Unix())},
			{Name: "headgate_ingress_unmatched_signatures_total", Labels: map[string]string{"from": "codat"}},
		}},
		{Address: "worker:9090", Metrics: []Metric{{Name: "headgate_ready", Value: 1}, {Name: "headgate_worker_stuck_handlers", Labels: map[string]string{"worker": "connections"}}}},
	}
	in.Options = Options{
		Source: source, NATS: stream.NATS{NATSURL: in.URL}, Layout: stream.Layout{Source: source, Workers: []stream.WorkerSpec{spec}},
		Connect: in.connect(in.URL), ServerMemory: 1 << 30, MaxBody: 1 << 20, SecretFiles: []string{file}, MaxEndpoints: 50,
		Endpoints: func(context.Context) ([]Endpoint, error) { return in.endpoints, nil },
		Processes: func(context.Context) []Process { return in.processes },
	}
	for i := range 2 {
		m := &monitored{name: fmt.Sprintf("nats-%d", i+1), version: "2.15.2", healthy: true, syncs: true, leader: "nats-1", storage: 10, memory: 1 << 20, messages: 7, bytes: 700}
		in.monitors = append(in.monitors, m)
		in.Monitors = append(in.Monitors, m.serve(in))
	}
}

// connect returns a function that connects as headgate does.
func (in *installation) connect(url string) func(context.Context) (jetstream.JetStream, func(), error) {
	return func(ctx context.Context) (jetstream.JetStream, func(), error) {
		nc, err := stream.Connect(ctx, stream.NATS{NATSURL: url}, "headgate", nil)
		if err != nil {
			return nil, nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := stream.Connected(ctx, nc); err != nil {
			nc.Close()
			return nil, nil, err
		}
		js, err := jetstream.New(nc)
		return js, nc.Close, err
	}
}

// publish stores a message.
func (in *installation) publish(subject, body string, headers ...string) {
	in.Helper()
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	if _, err := in.JS.PublishMsg(in.Context(), m); err != nil {
		in.Fatal(err)
	}
}

// record stores v in a bucket.
func (in *installation) record(bucket, key string, v any) {
	in.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		in.Fatal(err)
	}
	in.publish("$KV."+bucket+"."+key, string(body))
}

// editStream changes the configuration of a stream.
func (in *installation) editStream(name string, change func(*jetstream.StreamConfig)) {
	in.Helper()
	st, err := in.JS.Stream(in.Context(), name)
	if err != nil {
		in.Fatal(err)
	}
	config := st.CachedInfo().Config
	change(&config)
	if _, err := in.JS.UpdateStream(in.Context(), config); err != nil {
		in.Fatal(err)
	}
}

// editConsumer changes the configuration of the worker's consumer.
func (in *installation) editConsumer(name string, change func(*jetstream.ConsumerConfig)) jetstream.Consumer {
	in.Helper()
	c, err := in.JS.Consumer(in.Context(), name, "connections")
	if err != nil {
		in.Fatal(err)
	}
	config := c.CachedInfo().Config
	change(&config)
	if c, err = in.JS.UpdateConsumer(in.Context(), name, config); err != nil {
		in.Fatal(err)
	}
	return c
}

// metric sets the value of a metric.
func (in *installation) metric(name string, value float64) {
	in.Helper()
	for _, p := range in.processes {
		for i := range p.Metrics {
			if p.Metrics[i].Name == name {
				p.Metrics[i].Value = value
				return
			}
		}
	}
	in.Fatalf("no process has %s", name)
}

// secretFile is the file of the signing secret.
func (in *installation) secretFile(text string) {
	in.Helper()
	if err := os.WriteFile(in.SecretFiles[0], []byte(text), 0o600); err != nil {
		in.Fatal(err)
	}
}

// A monitored is what the monitoring address of a NATS server answers.
type monitored struct {
	name, version            string
	clock                    time.Duration
	healthy, syncs           bool
	leader                   string
	storage, memory          int64
	messages, bytes, deleted int
}

func (m *monitored) serve(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		switch r.URL.Path {
		case "/healthz":
			if !m.healthy {
				w.WriteHeader(http.StatusServiceUnavailable)
				answer = map[string]any{"status": "unavailable", "error": "JetStream is not current"}
				break
			}
			answer = map[string]any{"status": "ok"}
		case "/jsz":
			state := map[string]any{"messages": m.messages, "bytes": m.bytes, "num_deleted": m.deleted}
			answer = map[string]any{"account_details": []any{map[string]any{"stream_detail": []any{map[string]any{"name": "CODAT", "state": state}}}}}
		default:
			answer = map[string]any{
				"server_name": m.name, "version": m.version, "now": time.Now().Add(m.clock), "mem": m.memory,
				"jetstream": map[string]any{
					"config": map[string]any{"sync_always": m.syncs, "max_storage": 1000}, "stats": map[string]any{"storage": m.storage},
					"meta": map[string]any{"leader": m.leader},
				},
			}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}
