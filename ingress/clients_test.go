package ingress_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A request with more header lines than the limit is answered 431, counted and logged, before its headers end.
func TestRun_LimitsHeaderLines(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, _ := start(t, k)
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: x\r\n", i)
		}
		return b.String()
	}
	body := event("company.created")
	request := head(post(g.url, k, "msg_1", body))
	request += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	most := 100 - strings.Count(request, "\n") + 1
	if got := status(t, dial(t, g.address, request+lines(most)+"\r\n"+body)); got != 204 {
		t.Errorf("100 header lines are answered %d; want 204", got)
	}
	if got := status(t, dial(t, g.address, request+lines(most+1))); got != 431 {
		t.Errorf("101 header lines are answered %d; want 431", got)
	}
	g.waitUnread(t, 1)
	logged := g.logs.FilterMessageSnippet(unreadLine).All()
	if !strings.Contains(fmt.Sprint(logged[0].ContextMap()["error"]), "100 lines") {
		t.Errorf("logged %v; want one line that names the limit", logged)
	}
}

// Bodies that do not come keep no connection from real requests: they are closed first.
func TestRun_AcceptsRequestsWhenSlowBodiesHoldAllConnections(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	const most = 64
	s := settings(t, server.URL, k)
	s.MaxConnections = most
	s.ReadTimeout, s.PublishTimeout, s.ReadHeaderTimeout = 12*time.Second, 12*time.Second, time.Second
	g := run(t, s)
	g.waitReady(t)
	slow := head(post(g.url, k, "msg_slow", event("company.created"))) + "Content-Length: 1000\r\n\r\n{"
	for n := range 10 {
		for range most {
			dial(t, g.address, slow)
		}
		streamtest.Wait(t, func() bool { return g.value(t, "in_flight", "") >= most/2 }, "the slow ones are there")
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", n), event("company.created"))); got.status != 204 {
			t.Fatalf("request %d beside slow bodies is answered %d; want 204", n, got.status)
		}
	}
}

// A flood of refusals has as many lines and spans as the limit, and one line that counts the rest. The metric counts all.
func TestRun_LimitsLogLinesAndSpansOfRefusals(t *testing.T) {
	t.Parallel()
	const clients, flood, limit = 50, 2000, 100
	spans := tracetest.NewInMemoryExporter()
	k := newKey(t, "us")
	g := run(t, settings(t, "nats://127.0.0.1:1", k), func(p *process.Process) {
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
		p.Traces = provider
	})
	began := time.Now()
	var wg sync.WaitGroup
	for range clients {
		conn := dial(t, g.address, "")
		wg.Go(func() {
			in := bufio.NewReader(conn)
			for range flood / clients {
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != 404 {
					t.Errorf("answered %v, %v; want 404", resp, err)
					return
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	seconds := int(time.Since(began)/time.Second) + 2
	summary := func() (n int) {
		for _, line := range g.logs.FilterMessage("refusals without a log line").All() {
			n += int(line.ContextMap()["count"].(int64))
		}
		return n
	}
	streamtest.Wait(t, func() bool { return len(g.lines())+summary() == flood }, "each refusal has a line or is counted in one")
	if lines := len(g.lines()); lines > seconds*limit || lines != len(spans.GetSpans()) {
		t.Errorf("%d lines and %d spans in %d seconds; want %d a second at most", lines, len(spans.GetSpans()), seconds, limit)
	}
	if got := g.value(t, "refusals_total", "path"); got != flood {
		t.Errorf("%v refusals are counted; want %d", got, flood)
	}
}
