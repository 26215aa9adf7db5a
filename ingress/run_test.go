package ingress_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A request whose body is still arriving when the process stops is read and answered. The process is not ready from the
// signal on.
func TestRun_FinishesRequestsInFlight(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	s := settings(t, server.URL, k)
	s.ReadTimeout, s.PublishTimeout = 12*time.Second, 12*time.Second // the request below is slow on purpose
	s.ReadHeaderTimeout = time.Second
	g := run(t, s)
	g.waitReady(t)

	body := event("company.created")
	req := post(g.url, k, "msg_1", body)
	conn := dial(t, g.address, head(req)+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body[:10]))
	streamtest.Wait(t, func() bool { return g.value(t, "in_flight", "") == 1 }, "the request is in flight")

	g.stop()
	streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
	select {
	case err := <-g.ended:
		t.Fatalf("Run = %v, with a request in flight", err)
	default:
	}
	if _, err := io.WriteString(conn, body[10:]); err != nil {
		t.Fatal(err)
	}
	if got := status(t, conn); got != 204 {
		t.Errorf("answered %d; want 204", got)
	}
	if err := <-g.ended; err != nil {
		t.Errorf("Run = %v; want nil", err)
	}
	if n := len(stored(t, server.JS)); n != 1 {
		t.Errorf("%d messages stored; want 1", n)
	}
	if conn, err := net.Dial("tcp", g.address); err == nil {
		conn.Close()
		t.Error("it still listens after Run has ended")
	}
}

func TestRun_Answers408ForASlowBody(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	s := settings(t, server.URL, k)
	s.ReadTimeout = 300 * time.Millisecond
	g := run(t, s)
	body := event("company.created")
	for name, rest := range map[string]string{
		"announced": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body[:10]),
		"chunked":   "Transfer-Encoding: chunked\r\n\r\n5\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, g.address, head(post(g.url, k, "msg_1", body))+rest)
			if got := status(t, conn); got != 408 {
				t.Errorf("answered %d; want 408", got)
			}
			// And the connection is closed: what comes now is not the beginning of a request.
			if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
				t.Errorf("after the answer: %v; want the end", err)
			}
		})
	}
	if got := g.value(t, "refusals_total", "body_slow"); got != 2 {
		t.Errorf("refusals_total{reason=\"body_slow\"} = %v; want 2", got)
	}
	if n := len(stored(t, server.JS)); n != 0 {
		t.Errorf("%d messages stored; want none", n)
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset") }

func TestHandler_StoresNoIncompleteBody(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	body := event("company.created")
	for name, rest := range map[string]string{
		"announced":    fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+1, body),
		"chunked":      fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body),
		"not a chunk":  "Transfer-Encoding: chunked\r\n\r\nhello\r\n",
		"endless size": "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, g.address, head(post(g.url, k, "msg_1", body))+rest)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := status(t, conn); got != 400 {
				t.Errorf("answered %d; want 400", got)
			}
		})
	}
	if n := len(stored(t, server.JS)); n != 0 {
		t.Errorf("%d messages stored; want none", n)
	}
}

func TestRun_ClosesAConnectionWithSlowHeaders(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	s := settings(t, "nats://127.0.0.1:1", k)
	s.ReadHeaderTimeout = 300 * time.Millisecond
	g := run(t, s)
	conn := dial(t, g.address, "POST "+path+" HTTP/1.1\r\nHost: ingress\r\nwebhook-id: msg_1\r\n")
	if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
		t.Errorf("read %v; want the end of the connection", err)
	}
}

func TestRun_RefusesLargeHeaders(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g := run(t, settings(t, "nats://127.0.0.1:1", k))
	req := post(g.url, k, "msg_1", "{}")
	req.Header.Set("padding", strings.Repeat("x", 64<<10))
	if got := send(t, req).status; got != 431 {
		t.Errorf("answered %d; want 431", got)
	}
}

// A client that sends Expect: 100-continue is refused from the headers alone where that is possible.
func TestHandler_AnswersExpectContinue(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, _ := start(t, k)
	body := event("company.created")
	unsigned := post(g.url, k, "msg_1", body)
	unsigned.Header.Del("webhook-signature")
	tests := []struct {
		name   string
		req    *http.Request
		length int
		want   int // the first answer
	}{
		{"signed", post(g.url, k, "msg_1", body), len(body), 100},
		{"unsigned", unsigned, len(body), 401},
		{"too large", post(g.url, k, "msg_1", body), maxBody + 1, 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, g.address, head(tt.req)+fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", tt.length))
			answers := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil || resp.StatusCode != tt.want {
				t.Fatalf("first answered %v, %v; want %d", resp, err, tt.want)
			}
			resp.Body.Close()
			if tt.want != 100 {
				return
			}
			if _, err := io.WriteString(conn, body); err != nil {
				t.Fatal(err)
			}
			resp, err = http.ReadResponse(answers, nil)
			if err != nil || resp.StatusCode != 204 {
				t.Fatalf("then answered %v, %v; want 204", resp, err)
			}
			resp.Body.Close()
		})
	}
}

// A refusal that does not depend on the body does not wait for it.
func TestHandler_RefusesWithoutWaitingForTheBody(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	s := settings(t, "nats://127.0.0.1:1", k)
	s.ReadHeaderTimeout, s.ReadTimeout, s.PublishTimeout = time.Second, 13*time.Second, 13*time.Second
	g := run(t, s)
	unsigned := post(g.url, k, "msg_1", "{}")
	unsigned.Header.Del("webhook-id")
	elsewhere := post(g.url, k, "msg_1", "{}")
	elsewhere.URL.Path = "/"
	for want, req := range map[int]*http.Request{401: unsigned, 404: elsewhere} {
		conn := dial(t, g.address, head(req)+"Content-Length: 1000\r\n\r\n{")
		if got := status(t, conn); got != want { // the rest of the body never comes: 408 if it were waited for
			t.Errorf("answered %d; want %d at once", got, want)
		}
	}
}

func TestHandler_KeepsTheConnectionOpen(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, _ := start(t, k)
	body := event("company.created")
	conn := dial(t, g.address, "")
	answers := bufio.NewReader(conn)
	forged := post(g.url, k, "msg_forged", body+" ")
	for i, req := range []*http.Request{post(g.url, k, "msg_1", body), forged, post(g.url, k, "msg_2", body)} {
		if _, err := io.WriteString(conn, head(req)+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		resp.Body.Close()
		if want := []int{204, 401, 204}[i]; resp.StatusCode != want {
			t.Errorf("request %d: answered %d; want %d", i, resp.StatusCode, want)
		}
	}
}

func TestHandler_Answers503AtOnceForTooManyInFlight(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	asked, release := make(chan struct{}), make(chan struct{})
	d := serveStore(t, []signature.Key{k.Key}, 1, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
		close(asked)
		<-release
		return stream.Receipt{Sequence: 1}, nil
	}))
	first := make(chan reply, 1)
	go func() { first <- send(t, post(d.url, k, "msg_1", event("company.created"))) }()
	<-asked
	got := send(t, post(d.url, k, "msg_2", event("company.created")))
	if got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("answered %d, Retry-After %q; want 503 and some", got.status, got.header.Get("Retry-After"))
	}
	if _, line := d.line(t); line["reason"] != "too_many_in_flight" {
		t.Errorf("logged reason %v; want too_many_in_flight", line["reason"])
	}
	close(release)
	if got := <-first; got.status != 204 {
		t.Errorf("the first was answered %d; want 204", got.status)
	}
}

func TestHandler_Answers500AndLogsTheStackOfAPanic(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	var calls atomic.Int64
	d := serveStore(t, []signature.Key{k.Key}, 1, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
		if calls.Add(1) == 1 {
			panic("a mistake")
		}
		return stream.Receipt{Sequence: 1}, nil
	}))
	if got := send(t, post(d.url, k, "msg_1", event("company.created"))); got.status != 500 || got.body != "" {
		t.Errorf("answered %d %q; want 500 and nothing", got.status, got.body)
	}
	_, line := d.line(t)
	stack, _ := line["stack"].(string)
	if line["outcome"] != "failed" || line["reason"] != "panic" || !strings.Contains(stack, "ingress_test") {
		t.Errorf("logged %v; want the panic and where it was", line)
	}
	if got := send(t, post(d.url, k, "msg_1", event("company.created"))); got.status != 204 {
		t.Errorf("the next request was answered %d; want 204", got.status)
	}
	if got := d.value(t, "requests_total", "failed"); got != 1 {
		t.Errorf("requests_total{outcome=\"failed\"} = %v; want 1", got)
	}
}

func TestRun_RefusesSettingsBeforeItConnects(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	s := settings(t, "nats://127.0.0.1:1", k)
	s.Secret = nil
	err := ingress.Run(t.Context(), s, process.New("ingress", zap.NewNop()))
	if process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "--secret-file") {
		t.Errorf("Run without a key = %v, exit %d; want the cure and 2", err, process.ExitCode(err))
	}
}

func TestRun_NamesAPortThatIsInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := settings(t, "nats://127.0.0.1:1", newKey(t, "us"))
	s.Listen = taken.Addr().String()
	_, port, _ := net.SplitHostPort(s.Listen)
	err = ingress.Run(t.Context(), s, process.New("ingress", zap.NewNop()))
	if err == nil || !strings.Contains(err.Error(), port) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("Run = %v; want an error that names port %s and --listen", err, port)
	}
}

func TestRun_ReadinessNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	bare, err := embedded.Start(embedded.Options{Dir: t.TempDir(), LazySync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bare.Shutdown(); err != nil {
			t.Error(err)
		}
	}()
	waitFor := func(t *testing.T, g *instance, says string) {
		t.Helper()
		var last error
		streamtest.Wait(t, func() bool {
			last = g.Health.Ready()
			return last != nil && strings.Contains(last.Error(), says)
		}, "readiness says "+says)
	}

	t.Run("no broker", func(t *testing.T) {
		g := run(t, settings(t, "nats://127.0.0.1:1", k))
		waitFor(t, g, "broker: not connected")
	})
	t.Run("no stream", func(t *testing.T) {
		g := run(t, settings(t, bare.ClientURL(), k))
		waitFor(t, g, "stream: stream CODAT")
	})
	t.Run("messages that are too small", func(t *testing.T) {
		s := settings(t, bare.ClientURL(), k)
		s.MaxBody = 8 << 20
		waitFor(t, run(t, s), "max_payload")
	})
	t.Run("nothing, once it has provisioned", func(t *testing.T) {
		s := settings(t, bare.ClientURL(), k)
		s.Provision = true
		g := run(t, s)
		g.waitReady(t)
		if got := send(t, post(g.url, k, "msg_1", event("company.created"))); got.status != 204 {
			t.Errorf("answered %d; want 204", got.status)
		}
	})
}

func TestRun_StartsBeforeTheServer(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	server.Stop()
	s := settings(t, server.URL, k)
	s.Provision = true
	g := run(t, s)
	if g.Health.Ready() == nil {
		t.Error("ready without a server")
	}
	server.Start()
	g.waitReady(t)
	if got := send(t, post(g.url, k, "msg_1", event("company.created"))); got.status != 204 {
		t.Errorf("answered %d; want 204", got.status)
	}
	g.stop()
	if err := <-g.ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want nil", err)
	}
}
