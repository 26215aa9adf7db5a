package ingress

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
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

// A request costs its connection no read and no deadline but those that wait for it.
func TestAGuestIsReadOnlyForRequests(t *testing.T) {
	const requests = 300
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count := &countingListener{Listener: ln}
	crowd := newCrowd(count, 9, newFrontMetrics(prometheus.NewRegistry(), [2]*room{newRoom(1), newRoom(1)}), zap.NewNop())
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			greet(req)
			if _, err := io.ReadAll(req.Body); err != nil {
				t.Error(err)
			}
			hear(req)
			w.WriteHeader(http.StatusNoContent)
		}),
		ReadHeaderTimeout: time.Minute, ReadTimeout: 2 * time.Minute, IdleTimeout: 3 * time.Minute,
	}
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
	in := bufio.NewReader(conn)
	for range requests {
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%v, %v; want 204", resp, err)
		}
	}
	// net/http may read ahead in the moment before the door has heard that all has come, so that not all is spared always.
	if reads, deadlines := count.reads.Load(), count.deadlines.Load(); reads > requests*3/2 || deadlines > requests*3 {
		t.Logf("XX %d reads %d", reads, deadlines)
		t.Errorf("%d reads and %d deadlines for %d requests; want about one of each for one", reads, deadlines, requests)
	}
}

type countingListener struct {
	net.Listener
	reads, deadlines atomic.Int64
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
	return c.Conn.Read(p)
}

func (c countedConn) SetReadDeadline(t time.Time) error {
	c.count.deadlines.Add(1)
	return c.Conn.SetReadDeadline(t)
}
