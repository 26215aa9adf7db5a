package ingress_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Forgeries as large as may be, as many as the machine takes, from the same address, under fifty keys: beside them
// every real request is let in.
func TestAFloodOfForgeriesRefusesNobodyElse(t *testing.T) {
	const floods, real = 16, 150
	var lines []string
	var ours pair
	for n := range 50 {
		ours = key(t, fmt.Sprint("endpoint ", n))
		lines = append(lines, ours.text)
	}
	name := filepath.Join(t.TempDir(), "keys")
	write(t, name, lines...)
	server := streamtest.New(t)
	g := filed(t, server.URL, name)
	g.waitReady(t)

	body := event("company.created") + strings.Repeat(" ", maxBody-1000)
	forged := head(post(g.url, key(t, "nobody"), "msg_forged", body)) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range floods {
		wg.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.Dial("tcp", g.address)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = io.WriteString(conn, forged)
				if n, _ := conn.Read(make([]byte, 16)); n > 0 {
					answered.Add(1)
				}
				stop()
				conn.Close()
			}
		})
	}
	streamtest.Wait(t, func() bool { return answered.Load() > floods }, "the flood has come")
	for n := range real {
		if got := send(t, post(g.url, ours, fmt.Sprintf("msg_%d", n), event("company.created"))); got.status != 204 {
			t.Errorf("a real request beside the flood was answered %d; want 204", got.status)
		}
	}
	cancel()
	wg.Wait()
	if got := g.value(t, "requests_total", "accepted"); got != real {
		t.Errorf("%v requests were accepted; want the %d real ones", got, real)
	}
	if len(stored(t, server.JS)) != real {
		t.Errorf("%d messages are stored; want the %d real ones", len(stored(t, server.JS)), real)
	}
}

// When the bodies of strangers have the room that is theirs, one more that is large is answered 503 at once; small
// ones, and those from Codat's own addresses, come in.
func TestRoomForBodiesIsBounded(t *testing.T) {
	k := key(t, "us")
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
	streamtest.Wait(t, func() bool { return g.value(t, "body_bytes_in_flight", "unproven") >= 1<<20 }, "the slow body has its room")

	g.logs.TakeAll()
	got := send(t, from("192.0.2.2", "msg_1", 300_000))
	if got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("another large body was answered %d; want 503 with Retry-After", got.status)
	}
	if _, line := g.line(t); line["reason"] != "no_room" {
		t.Errorf("logged reason %v; want no_room", line["reason"])
	}
	if got := send(t, from("192.0.2.2", "msg_2", 0)); got.status != 204 {
		t.Errorf("a small body was answered %d; want 204", got.status)
	}
	if got := send(t, from("4.159.114.108", "msg_3", 300_000)); got.status != 204 {
		t.Errorf("a large body of Codat's was answered %d; want 204", got.status)
	}
	conn.Close()
	streamtest.Wait(t, func() bool { return g.value(t, "body_bytes_in_flight", "") == 0 }, "all room is given back")
	if got := send(t, from("192.0.2.2", "msg_1", 300_000)); got.status != 204 {
		t.Errorf("the other large body, sent again, was answered %d; want 204", got.status)
	}
}

// Whoever holds many connections, and sends a byte now and then, keeps nobody else out.
func TestSlowSendersKeepNobodyOut(t *testing.T) {
	t.Parallel()
	k := key(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k, "--max-in-flight", "4"))
	g.waitReady(t)
	const slow = 100
	for n := range slow {
		beginning := "POST " + path + " HTTP/1.1\r\nHost: ingress\r\nwebhook-id: msg_1\r\n"
		if n%2 == 0 {
			beginning = head(post(g.url, k, "msg_slow", event("company.created"))) + "Content-Length: 1000\r\n\r\n{"
		}
		dial(t, g.address, beginning)
	}
	streamtest.Wait(t, func() bool { return g.value(t, "in_flight", "") >= slow/2 }, "the slow ones are there")
	for n := range 20 {
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", n), event("company.created"))); got.status != 204 {
			t.Errorf("answered %d beside slow senders; want 204", got.status)
		}
	}
	// Their deadlines end them.
	streamtest.Wait(t, func() bool { return g.value(t, "refusals_total", "body_slow") == slow/2 }, "the slow ones are refused")
}

// A store that hangs holds as many requests as are allowed; one more is answered at once. Codat's own addresses have
// places for themselves.
func TestPlacesOfStrangersAndOfCodat(t *testing.T) {
	k := key(t, "us")
	asked, release := make(chan struct{}, 8), make(chan struct{})
	d := openDoorWith(t, ingress.FrontOptions{MaxBytes: 64 << 20, LogAccepted: 1000, Proxies: loopback}, []signature.Key{k.Key}, 1,
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
		if got := send(t, ask(address, "msg_more")); got.status != 503 || time.Since(began) > patience/2 {
			t.Errorf("one more from %s was answered %d after %v; want 503 at once", address, got.status, time.Since(began))
		}
	}
	letGo()
	wg.Wait()
}
