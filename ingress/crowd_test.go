package ingress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestACrowdIsBounded(t *testing.T) {
	const patience = time.Minute
	release, begun := make(chan struct{}), make(chan struct{}, 9)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := newFrontMetrics(prometheus.NewRegistry(), [2]*room{newRoom(1), newRoom(1)})
	c := newCrowd(ln, 3, metrics, zap.NewNop())
	c.codats = networks{netip.MustParsePrefix("127.0.0.2/32")}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/slow" {
			begun <- struct{}{}
			<-release
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	c.watch(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(c) }()
	defer func() {
		server.Close()
		<-ended
	}()

	dial := func(from, text string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answered := func(what string, conn net.Conn) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: %v, %v; want 204", what, resp, err)
		}
	}
	closed := func(what string, conn net.Conn) {
		t.Helper()
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: %d bytes, %v; want its end", what, n, err)
		}
	}
	waiting := func(n int) {
		t.Helper()
		streamtest.Wait(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			wait := 0
			for g := range c.guests {
				if g.waits.Load() != 0 {
					wait++
				}
			}
			return wait == n
		}, fmt.Sprintf("%d connections wait", n))
	}
	const slow, fast = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

	// One works, two wait: in headers that do not end, and after an answer.
	working := dial("127.0.0.1", slow)
	<-begun
	header := dial("127.0.0.1", "GET /slow HTTP/1.1\r\nHo")
	idle := dial("127.0.0.1", fast)
	answered("the third", idle)
	waiting(2)
	fourth := dial("127.0.0.1", fast)
	answered("one more than the bound", fourth)
	closed("who waited longest", header)
	waiting(2)
	another := dial("127.0.0.1", slow)
	<-begun
	closed("who waited longest then", idle)
	waiting(1)
	last := dial("127.0.0.1", slow)
	<-begun
	closed("the last who waited", fourth)

	// Now all work.
	refused := dial("127.0.0.1", "")
	closed("one for whom nobody goes", refused)
	codat := dial("127.0.0.2", fast)
	answered("one of Codat's", codat)
	closed("one for whom only one of Codat's waits", dial("127.0.0.1", ""))
	value := func(m prometheus.Metric) float64 {
		d := new(dto.Metric)
		if err := m.Write(d); err != nil {
			t.Fatal(err)
		}
		return d.GetGauge().GetValue() + d.GetCounter().GetValue()
	}
	if open, gone := value(metrics.connections), value(metrics.dropped); open != 4 || gone != 5 {
		t.Errorf("%v are open and %v were dropped; want 4 and 5", open, gone)
	}
	close(release)
	for _, conn := range []net.Conn{working, another, last} {
		answered("one that worked", conn)
	}
	waiting(4)
	answered("one for whom another goes again", dial("127.0.0.1", fast))
}
