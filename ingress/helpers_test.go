package ingress_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const (
	path    = "/webhooks/codat"
	timeout = time.Minute
	maxBody = 1 << 20
)

// A testKey is a key as text, as settings have it, and parsed.
type testKey struct {
	text string
	signature.Key
}

func newKey(t testing.TB, seed string) testKey {
	t.Helper()
	text := "whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the key of %-30s", seed))
	k, err := signature.ParseKey(text)
	if err != nil {
		t.Fatalf("ParseKey: %v", err)
	}
	return testKey{text, k}
}

// post returns a request as Codat sends it, signed now over id and body.
func post(url string, k testKey, id, body string) *http.Request {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		panic(err) // a mistake in the test
	}
	req.Header.Set("Content-Type", "application/json")
	sign(req.Header, k, id, time.Now(), body)
	return req
}

func sign(h http.Header, k testKey, id string, at time.Time, body string) {
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("webhook-signature", k.Sign(id, at, []byte(body)))
}

func event(typ string) string {
	return fmt.Sprintf(`{"id":"7e0ae11c","eventType":%q,"generatedDate":"2026-01-02T03:04:05.1234567Z","payload":{"referenceCompany":{"id":"c-1"},"connectionId":"k-1"}}`, typ)
}

// client makes a connection for each request, so that no response depends on the one before.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	Timeout:       timeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

type reply struct {
	status int
	header http.Header
	body   string
}

func send(t testing.TB, req *http.Request) reply {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// dial connects, sends text, and returns the connection to read the response from.
func dial(t testing.TB, address, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// status reads a response from a connection and returns its status.
func status(t testing.TB, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// head returns the request line and headers of a request as text, without the empty line.
func head(req *http.Request) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: ingress\r\n", req.Method, req.URL.Path)
	_ = req.Header.Write(&b)
	return b.String()
}

// readyz serves the probes, and returns a function that requests /readyz.
func (g *instance) readyz(t *testing.T) func() reply {
	t.Helper()
	admin, err := g.ServeAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close() })
	return func() reply {
		req, err := http.NewRequest(http.MethodGet, "http://"+admin.Addr()+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		return send(t, req)
	}
}

// storeFunc is a store that calls a function.
type storeFunc func(ctx context.Context, msg *nats.Msg) (stream.Receipt, error)

func (f storeFunc) PublishUntil(ctx context.Context, until time.Time, msg *nats.Msg) (stream.Receipt, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return f(ctx, msg)
}

// observed is the log and the metrics of an ingress.
type observed struct {
	logs    *observer.ObservedLogs
	metrics prometheus.Gatherer
}

// lines returns the log lines of requests.
func (o observed) lines() []observer.LoggedEntry { return o.logs.FilterMessage("request").All() }

// line waits for the only log line of a request since the log was last read. That of a request that is diagnosed comes after its
// response.
func (o observed) line(t testing.TB) (zapcore.Level, map[string]any) {
	t.Helper()
	streamtest.Wait(t, func() bool { return len(o.lines()) > 0 }, "the request has its log line")
	var lines []observer.LoggedEntry
	for _, entry := range o.logs.TakeAll() {
		if entry.Message == "request" {
			lines = append(lines, entry)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("%d lines for one request: %v", len(lines), lines)
	}
	return lines[0].Level, lines[0].ContextMap()
}

// value returns the sum of a metric's values, or of the counts of a histogram, over the series that have a label value, or
// over all for "".
func (o observed) value(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != "headgate_ingress_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || hasLabel(m, label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// labels returns the values of a label of a metric.
func (o observed) labels(t testing.TB, name, label string) []string {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, family := range families {
		if family.GetName() != "headgate_ingress_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					values = append(values, l.GetValue())
				}
			}
		}
	}
	return values
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// A testServer is a server with one handler and a fake store, on a real listener.
type testServer struct {
	observed
	url string
}

// loopback is the network that the tests' requests come from.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func serveStore(t testing.TB, keys []signature.Key, maxInFlight int, store ingress.Store) testServer {
	t.Helper()
	return serveStoreWith(t, ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1000}, keys, maxInFlight, store)
}

func serveStoreWith(t testing.TB, o ingress.ServerOptions, keys []signature.Key, maxInFlight int, store ingress.Store) testServer {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	registry := prometheus.NewRegistry()
	s := ingress.NewServer(o, zap.New(core), registry)
	s.Handle(ingress.RouteOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(5*time.Minute, nil, keys...), Store: store, Timeout: timeout,
		Path: path, MaxBody: maxBody, MaxInFlight: maxInFlight,
	})
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return testServer{observed{logs, registry}, server.URL + path}
}

// An instance is a running ingress.
type instance struct {
	observed
	*process.Process
	address string
	url     string
	stop    context.CancelFunc
	ended   <-chan error
}

// settings returns the flags' defaults for a server of the test, without a drain delay.
func settings(t testing.TB, nats string, k testKey, flags ...string) *ingress.Settings {
	t.Helper()
	return parsed(t, append([]string{"--secret", k.text, "--nats-url", nats}, flags...)...)
}

func parsed(t testing.TB, flags ...string) *ingress.Settings {
	t.Helper()
	s := new(ingress.Settings)
	if _, err := process.Parse("ingress", "", s, flags); err != nil {
		t.Fatal(err)
	}
	s.Listen = "127.0.0.1:0"
	s.DrainDelay = 0
	return s
}

func run(t testing.TB, s *ingress.Settings, prepare ...func(*process.Process)) *instance {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	p := process.New("ingress", zap.New(core))
	for _, f := range prepare {
		f(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- ingress.Run(ctx, s, p)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	g := &instance{observed: observed{logs, p.Gatherer}, Process: p, stop: cancel, ended: ended}
	streamtest.Wait(t, func() bool {
		select {
		case err := <-ended:
			t.Fatalf("Run = %v", err)
		default:
		}
		for _, entry := range logs.FilterMessage("public listener").All() {
			g.address, _ = entry.ContextMap()["address"].(string)
		}
		return g.address != ""
	}, "the ingress listens")
	g.url = "http://" + g.address + path
	return g
}

func (g *instance) waitReady(t testing.TB) {
	t.Helper()
	streamtest.Wait(t, func() bool { return g.Health.Ready() == nil }, "the ingress is ready")
}

// waitStored sends an event until it is answered 204. With the shortest publish timeout, on a slow machine the first answer
// can be 503.
func (g *instance) waitStored(t testing.TB, k testKey, id, body string) {
	t.Helper()
	streamtest.Wait(t, func() bool { return send(t, post(g.url, k, id, body)).status == 204 }, id+" is answered 204")
}

// start runs an ingress with a server of its own, and returns when it is ready.
func start(t testing.TB, k testKey) (*instance, *streamtest.Server) {
	t.Helper()
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k))
	g.waitReady(t)
	return g, server
}

// stored returns all messages of the stream, in order.
func stored(t testing.TB, js jetstream.JetStream) []*jetstream.RawStreamMsg {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	st, err := js.Stream(ctx, streamtest.Source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	for sequence := uint64(1); sequence <= st.CachedInfo().State.LastSeq; sequence++ {
		msg, err := st.GetMsg(ctx, sequence)
		if err != nil {
			t.Fatalf("message %d: %v", sequence, err)
		}
		all = append(all, msg)
	}
	return all
}
