package ingress_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A flood sends one request again and again, each time over a new one of n connections, until it is stopped. It counts the
// responses, and those of 503 as busy.
type flood struct {
	answers, busy atomic.Int64
	stop          func()
}

func startFlood(t *testing.T, address, request string, n int) *flood {
	t.Helper()
	f := new(flood)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	f.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(f.stop)
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = io.WriteString(conn, request)
				answer := make([]byte, len("HTTP/1.1 503"))
				if _, err := io.ReadFull(conn, answer); err == nil {
					f.answers.Add(1)
					if strings.HasSuffix(string(answer), "503") {
						f.busy.Add(1)
					}
				}
				stop()
				conn.Close()
			}
		})
	}
	return f
}

// forgery is a request of the largest size whose key is not configured.
func forgery(t *testing.T, url string) string {
	t.Helper()
	body := event("company.created") + strings.Repeat(" ", maxBody-1000)
	return head(post(url, newKey(t, "an invalid address"), "msg_forged", body)) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// sized is an event of that many bytes.
func sized(size int) string {
	e := event("company.created")
	return e + strings.Repeat(" ", size-len(e))
}

// During a flood of forgeries of the largest size, as many as the machine takes, from the same address and under fifty keys,
// every real request is accepted: a small one and a larger one under each of the keys.
func TestRun_AcceptsRequestsDuringAFloodOfForgeries(t *testing.T) {
	t.Parallel()
	const floods = 16
	var lines []string
	var ours []testKey
	for n := range 50 {
		ours = append(ours, newKey(t, fmt.Sprint("endpoint ", n)))
		lines = append(lines, ours[n].text)
	}
	name := filepath.Join(t.TempDir(), "keys")
	write(t, name, lines...)
	server := streamtest.New(t)
	g := runWithFiles(t, server.URL, name)
	g.waitReady(t)

	f := startFlood(t, g.address, forgery(t, g.url), floods)
	streamtest.Wait(t, func() bool { return f.answers.Load() > floods }, "the flood has come")
	real := 2 * len(ours)
	for n := range real {
		body := sized([]int{600, 4096}[n/len(ours)])
		if got := send(t, post(g.url, ours[n%len(ours)], fmt.Sprintf("msg_%d", n), body)); got.status != 204 {
			t.Errorf("a real request of %d bytes beside the flood was answered %d; want 204", len(body), got.status)
		}
	}
	f.stop()
	if got := g.value(t, "requests_total", "accepted"); got != float64(real) {
		t.Errorf("%v requests were accepted; want the %d real ones", got, real)
	}
	if len(stored(t, server.JS)) != real {
		t.Errorf("%d messages are stored; want the %d real ones", len(stored(t, server.JS)), real)
	}
}

// The timeout of a nanosecond refuses a request that would wait for a verification slot. Forgeries hold all slots of public
// addresses; requests from Codat's own addresses, large ones too, find a slot of theirs free.
func TestHandler_VerifiesCodatsRequestsDuringAFloodOfForgeries(t *testing.T) {
	var ours []testKey
	var keys []signature.Key
	for n := range 50 {
		ours = append(ours, newKey(t, fmt.Sprint("endpoint ", n)))
		keys = append(keys, ours[n].Key)
	}
	s := ingress.NewServer(ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1000, TrustedProxies: loopback}, zap.NewNop(), prometheus.NewRegistry())
	s.Handle(ingress.RouteOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(5*time.Minute, nil, keys...), Timeout: time.Nanosecond,
		Path: path, MaxBody: maxBody, MaxInFlight: 8,
		Store: storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
			return stream.Receipt{Sequence: 1}, nil
		}),
	})
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	url := server.URL + path

	f := startFlood(t, server.Listener.Addr().String(), forgery(t, url), 2+runtime.GOMAXPROCS(0))
	for n, k := range ours[40:] {
		before := f.busy.Load()
		streamtest.Wait(t, func() bool { return f.busy.Load() > before }, "all slots are held")
		req := post(url, k, fmt.Sprintf("msg_%d", n), sized(100_000))
		req.Header.Set("X-Forwarded-For", "4.159.114.108")
		if got := send(t, req); got.status != 204 {
			t.Fatalf("a large request of Codat's beside the flood was answered %d; want 204", got.status)
		}
	}
}

// When the bodies of public addresses use all of their memory, one more large body takes the place of the one that has been
// received longest. Small bodies, and those from Codat's own addresses, have memory of their own.
func TestRun_LimitsTheMemoryOfBodies(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k, "--max-bytes", "4MiB", "--trusted-proxy", "127.0.0.1",
		"--read-timeout", "13s", "--publish-timeout", "13s", "--read-header-timeout", "1s"))
	g.waitReady(t)
	from := func(address, id string, size int) *http.Request {
		req := post(g.url, k, id, event("company.created")+strings.Repeat(" ", size))
		req.Header.Set("X-Forwarded-For", address)
		return req
	}
	// A body of 300,000 bytes needs a buffer of 1 MiB, of which there is room for one: half of 4 MiB, of that three
	// quarters, less what it has grown from.
	slow := from("192.0.2.1", "msg_slow", 0)
	conn := dial(t, g.address, head(slow)+"Content-Length: 1000000\r\n\r\n"+strings.Repeat("x", 300_000))
	streamtest.Wait(t, func() bool { return g.value(t, "body_bytes_in_flight", "unverified") >= 1<<20 }, "the slow body has its memory")

	if got := send(t, from("192.0.2.2", "msg_2", 0)); got.status != 204 {
		t.Errorf("a small body was answered %d; want 204", got.status)
	}
	if got := send(t, from("4.159.114.108", "msg_3", 300_000)); got.status != 204 {
		t.Errorf("a large body of Codat's was answered %d; want 204", got.status)
	}
	if g.value(t, "connections_dropped_total", "") != 0 {
		t.Error("the slow body's connection was closed before its memory was needed")
	}
	if got := send(t, from("192.0.2.2", "msg_1", 300_000)); got.status != 204 {
		t.Errorf("another large body was answered %d; want 204", got.status)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
		t.Errorf("read %v; want the end of the slow body's connection", err)
	}
	if got := g.value(t, "connections_dropped_total", ""); got != 1 {
		t.Errorf("%v connections were closed for the memory of their bodies; want the slow one", got)
	}
	streamtest.Wait(t, func() bool { return g.value(t, "body_bytes_in_flight", "") == 0 }, "all memory is released")
}

// A client with many connections that sends a byte now and then does not keep out other clients.
func TestRun_AcceptsRequestsBesideSlowClients(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k, "--max-in-flight", "4", "--read-timeout", "2s"))
	g.waitReady(t)
	const slow = 100
	for n := range slow {
		beginning := "POST " + path + " HTTP/1.1\r\nHost: ingress\r\nwebhook-id: msg_1\r\n"
		if n%2 == 0 {
			beginning = head(post(g.url, k, "msg_slow", event("company.created"))) + "Content-Length: 1000\r\n\r\n{"
		}
		dial(t, g.address, beginning)
	}
	streamtest.Wait(t, func() bool {
		return g.value(t, "in_flight", "")+g.value(t, "refusals_total", "body_slow") >= slow/2
	}, "the slow ones have come")
	for n := range 20 {
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", n), event("company.created"))); got.status != 204 {
			t.Errorf("answered %d beside slow senders; want 204", got.status)
		}
	}
	// Their deadlines end them.
	streamtest.Wait(t, func() bool { return g.value(t, "refusals_total", "body_slow") == slow/2 }, "the slow ones are refused")
}

// A store that blocks holds as many requests as the limit allows. One more is answered at once. Codat's own addresses have a
// limit of their own.
func TestRun_CountsInFlightByClientClass(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	asked, release := make(chan struct{}, 8), make(chan struct{})
	d := serveStoreWith(t, ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1000, TrustedProxies: loopback}, []signature.Key{k.Key}, 1,
		storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
			asked <- struct{}{}
			<-release
			return stream.Receipt{Sequence: 1}, nil
		}))
	var wg sync.WaitGroup
	ask := func(address, id string) *http.Request {
		req := post(d.url, k, id, event("company.created"))
		req.Header.Set("X-Forwarded-For", address)
		return req
	}
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	for _, address := range []string{"192.0.2.1", "4.159.114.108"} {
		answered := make(chan struct{})
		wg.Go(func() {
			defer close(answered)
			if got := send(t, ask(address, "msg_"+address[:1])); got.status != 204 {
				t.Errorf("from %s answered %d; want 204", address, got.status)
			}
		})
		select {
		case <-asked:
		case <-answered:
			t.Fatalf("from %s answered without asking the store", address)
		}
	}
	for _, address := range []string{"192.0.2.2", "20.117.190.191"} {
		began := time.Now()
		if got := send(t, ask(address, "msg_more")); got.status != 503 || time.Since(began) > timeout/2 {
			t.Errorf("one more from %s was answered %d after %v; want 503 at once", address, got.status, time.Since(began))
		}
	}
	letGo()
	wg.Wait()
}
