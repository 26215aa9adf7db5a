package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A deadline holds for the read that waits and for the next one, whenever it is set.
func TestAGuestKeepsItsDeadlines(t *testing.T) {
	const never = time.Duration(0)
	for name, test := range map[string]struct {
		before, during time.Duration // from the begin of the read, to which the deadline is set; during after a second
		want           time.Duration // when the read ends
	}{
		"set before":            {3 * time.Second, 3 * time.Second, 3 * time.Second},
		"set while it waits":    {never, 3 * time.Second, 3 * time.Second},
		"brought forward":       {time.Hour, 3 * time.Second, 3 * time.Second},
		"put off":               {3 * time.Second, time.Hour, time.Hour},
		"over before it begins": {-time.Second, time.Hour, 0},
		"over while it waits":   {time.Hour, -time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, other := net.Pipe()
				defer other.Close()
				defer conn.Close()
				g := &guest{Conn: conn}
				set := func(d time.Duration, began time.Time) {
					deadline := began.Add(d)
					if d == never {
						deadline = time.Time{}
					}
					if err := g.SetReadDeadline(deadline); err != nil {
						t.Error(err)
					}
				}
				for range 2 { // what holds for one read holds for the next one
					began := time.Now()
					if err := g.SetReadDeadline(began.Add(time.Minute)); err != nil {
						t.Error(err)
					}
					set(test.before, began)
					later := time.AfterFunc(time.Second, func() { set(test.during, began) })
					n, err := g.Read(make([]byte, 1))
					if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != test.want {
						t.Errorf("%d bytes, %v after %v; want its deadline after %v", n, err, took, test.want)
					}
					later.Stop()
					if err := g.SetDeadline(time.Time{}); err != nil {
						t.Error(err)
					}
					go func() { _, _ = other.Write([]byte("x")) }()
					if n, err := g.Read(make([]byte, 1)); n != 1 || err != nil {
						t.Errorf("%d bytes, %v; want what was sent", n, err)
					}
				}
			})
		})
	}
}

type takesAll struct{}

func (takesAll) PublishUntil(context.Context, time.Time, *nats.Msg) (stream.Receipt, error) {
	return stream.Receipt{Sequence: 1}, nil
}

// A request costs its connection no read and no deadline but those that wait for it, and none of a later request is
// kept from it: also not one of a single byte, as net/http asks for when a line fills its buffer but for that.
func TestAGuestIsReadOnlyForRequests(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the read ahead begins when the door waits, not before
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
	front := NewFront(FrontOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	front.Open(&Receiver{Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, key), Store: takesAll{}, Budget: time.Minute},
		DoorOptions{Path: "/", MaxBody: 1 << 10, MaxInFlight: 1})
	crowd := newCrowd(count, 9, front.shared, zap.NewNop())
	server := &http.Server{Handler: front, ReadHeaderTimeout: time.Minute, ReadTimeout: 2 * time.Minute, IdleTimeout: 3 * time.Minute}
	crowd.watch(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(crowd) }()
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
	const chunked, full = "Transfer-Encoding: chunked\r\n\r\n", 4096 // of which net/http's buffer is
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
