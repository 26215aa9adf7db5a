package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress/connlimit"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// acceptAll is a store that stores everything.
type acceptAll struct{}

func (acceptAll) PublishUntil(context.Context, time.Time, *nats.Msg) (stream.Receipt, error) {
	return stream.Receipt{Sequence: 1}, nil
}

// A request costs its connection one read and one deadline, those that wait for it. No byte of a later request is withheld:
// not even a read of a single byte, which net/http does when a line fills its buffer except for the last byte.
func TestServer_ReadsItsConnectionsOnlyForRequests(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // net/http reads ahead only when the handler blocks
	const requests, body = 300, `{"eventType":"company.created"}`
	key, err := signature.ParseKey("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count := &countingListener{Listener: ln}
	handler := newServer(serverOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	handler.handle(routeOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, key), Store: acceptAll{}, Timeout: time.Minute,
		Path: "/", MaxBody: 1 << 10, MaxInFlight: 1,
	})
	limited := connlimit.Listen(count, connlimit.Options{Limit: 9})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ReadTimeout: 2 * time.Minute, IdleTimeout: 3 * time.Minute}
	limited.Attach(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(limited) }()
	defer func() {
		server.Close()
		<-ended
	}()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	in, now := bufio.NewReader(conn), time.Now()
	head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nwebhook-id: a\r\nwebhook-timestamp: %s\r\nwebhook-signature: %s\r\n",
		strconv.FormatInt(now.Unix(), 10), key.Sign("a", now, []byte(body)))
	ask := func(what string, parts ...string) { // each part is read before the next one comes
		t.Helper()
		for i, part := range parts {
			before := count.bytes.Load()
			if _, err := io.WriteString(conn, part); err != nil {
				t.Fatal(err)
			}
			if i < len(parts)-1 {
				streamtest.Wait(t, func() bool { return count.bytes.Load() == before+int64(len(part)) }, what+" is read")
			}
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: %v, %v; want 204", what, resp, err)
		}
	}
	for range requests {
		ask("a request", head+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))+body)
	}
	if reads, deadlines := count.reads.Load(), count.deadlines.Load(); reads > requests*5/4 || deadlines > requests*5/4 {
		t.Errorf("%d reads and %d deadlines for %d requests; want about one of each for one", reads, deadlines, requests)
	}
	const chunked, full = "Transfer-Encoding: chunked\r\n\r\n", 4096 // the size of net/http's buffer
	size := fmt.Sprintf("%x;", len(body))
	ask("a header", head+fmt.Sprintf("Content-Length: %d\r\n", len(body)), "X: "+strings.Repeat("x", full-1-3), "x\r\n\r\n"+body)
	ask("an extension", head+chunked, size+strings.Repeat("x", full-2-len(size))+"\r", "\n"+body+"\r\n0\r\n\r\n")
	ask("a trailer", head+chunked+size+"\r\n"+body+"\r\n0\r\n", "T: "+strings.Repeat("x", full-4-3)+"\r\n\r", "\n")
}

type countingListener struct {
	net.Listener
	reads, bytes, deadlines atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countedConn{conn, l}, err
}

type countedConn struct {
	net.Conn
	count *countingListener
}

func (c countedConn) Read(p []byte) (int, error) {
	c.count.reads.Add(1)
	n, err := c.Conn.Read(p)
	c.count.bytes.Add(int64(n))
	return n, err
}

func (c countedConn) SetReadDeadline(t time.Time) error {
	c.count.deadlines.Add(1)
	return c.Conn.SetReadDeadline(t)
}

// During the drain delay the process is not ready, requests are still stored, and each response closes its connection. The
// closed listener ends the delay of an hour: without the delay, serve would have shut the server down and returned nil.
func TestServe_KeepsReceivingForTheDrainDelay(t *testing.T) {
	t.Parallel()
	key, err := signature.ParseKey("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(serverOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	s.handle(routeOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, key), Store: acceptAll{}, Timeout: time.Minute,
		Path: "/", MaxBody: 1 << 10, MaxInFlight: 1,
	})
	limit := connlimit.Listen(tcp, connlimit.Options{Limit: 9})
	p := process.New("ingress", zap.NewNop())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, &Settings{DrainDelay: time.Hour, PublishTimeout: time.Minute}, p, s, &publicListener{limit, "http"})
	}()
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	send := func() (closes bool) {
		t.Helper()
		now, body := time.Now(), `{"eventType":"company.created"}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+tcp.Addr().String()+"/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("webhook-id", "msg_1")
		req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
		req.Header.Set("webhook-signature", key.Sign("msg_1", now, []byte(body)))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("answered %d; want 204", resp.StatusCode)
		}
		return resp.Close
	}
	if send() {
		t.Error("the connection is closed before the signal; want it kept")
	}
	stop()
	streamtest.Wait(t, func() bool { return p.Health.Ready() != nil }, "the process is not ready")
	streamtest.Wait(t, send, "a response closes its connection")
	tcp.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "while draining") {
		t.Errorf("serve = %v; want it to drain until the listener is closed", err)
	}
}

func TestSampler_KeepsOneInAHundred(t *testing.T) {
	t.Parallel()
	written := func(s *sampler, lines int, at time.Time) (n int) {
		for range lines {
			if s.sample(at) {
				n++
			}
		}
		return n
	}
	now := time.Unix(1_700_000_000, 0)
	s := sampler{limit: 100}
	if got := written(&s, 100, now); got != 100 {
		t.Errorf("of 100 lines %d are written; want all", got)
	}
	if got := written(&s, 1000, now); got != 10 {
		t.Errorf("of 1000 more %d are written; want one in a hundred", got)
	}
	if got := written(&s, 100, now.Add(time.Second)); got != 100 {
		t.Errorf("of 100 in the next second %d are written; want all", got)
	}
	if got := written(new(sampler), 1000, now); got != 0 {
		t.Errorf("with 0 a second %d are written; want none", got)
	}
}

// BenchmarkHandler measures a request of 600 bytes from its headers to its response, without the network and the stream.
func BenchmarkHandler(b *testing.B) {
	key, err := signature.ParseKey("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		b.Fatal(err)
	}
	s := newServer(serverOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	s.handle(routeOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Hour, nil, key), Store: acceptAll{}, Timeout: time.Minute,
		Path: "/", MaxBody: 1 << 20, MaxInFlight: 8,
	})
	body := []byte(fmt.Sprintf(`{"eventType":"company.created","payload":{"x":%q}}`, strings.Repeat("x", 550)))
	now := time.Now()
	header := http.Header{
		"Webhook-Id":        {"msg_1"},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Webhook-Signature": {key.Sign("msg_1", now, body)},
	}
	reader := bytes.NewReader(nil)
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, &http.Request{
			Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: header, RemoteAddr: "192.0.2.1:4711",
			Body: io.NopCloser(reader), ContentLength: int64(len(body)),
		})
		if w.Code != http.StatusNoContent {
			b.Fatalf("status %d; want 204", w.Code)
		}
	}
}

// blockingStore is a store that stores when it is told to.
type blockingStore struct{ asked, release chan struct{} }

func (s blockingStore) PublishUntil(context.Context, time.Time, *nats.Msg) (stream.Receipt, error) {
	s.asked <- struct{}{}
	<-s.release
	return stream.Receipt{Sequence: 1}, nil
}

// At the limit of connections none is closed whose event is being stored, whatever comes.
func TestServe_KeepsConnectionsWhoseEventsAreBeingStored(t *testing.T) {
	t.Parallel()
	key, err := signature.ParseKey("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 4
	store := blockingStore{make(chan struct{}, most), make(chan struct{})}
	s := newServer(serverOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	s.handle(routeOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, key), Store: store, Timeout: time.Minute,
		Path: "/", MaxBody: 1 << 10, MaxInFlight: most,
	})
	var dropped atomic.Int64
	limit := connlimit.Listen(tcp, connlimit.Options{Limit: most, OnDrop: func() { dropped.Add(1) }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, &Settings{PublishTimeout: time.Minute}, process.New("ingress", zap.NewNop()), s, &publicListener{limit, "http"})
	}()
	dial := func(text string) net.Conn {
		t.Helper()
		nc, err := new(net.Dialer).DialContext(t.Context(), "tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		if _, err := io.WriteString(nc, text); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	now, body := time.Now(), `{"eventType":"company.created"}`
	request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nwebhook-id: a\r\nwebhook-timestamp: %d\r\nwebhook-signature: %s\r\nContent-Length: %d\r\n\r\n%s",
		now.Unix(), key.Sign("a", now, []byte(body)), len(body), body)
	var real []net.Conn
	for range most - 1 {
		real = append(real, dial(request))
		<-store.asked
	}
	var flood []net.Conn
	for range 20 * most {
		flood = append(flood, dial("POST /"))
	}
	streamtest.Wait(t, func() bool { return dropped.Load() >= 20*most-1 }, "all but one of the flood are closed")
	close(store.release)
	for i, nc := range real {
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("real request %d: %v, %v; want 204", i, resp, err)
			continue
		}
		resp.Body.Close()
	}
	for _, nc := range flood { // net/http waits 5 s for a connection without a request
		nc.Close()
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("serve = %v; want nil", err)
	}
}
