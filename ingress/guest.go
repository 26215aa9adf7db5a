package ingress

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// A guest is a connection, of which its crowd knows what it does. It spares the system calls that net/http makes for
// each request and that nobody here needs.
type guest struct {
	net.Conn
	crowd *crowd
	codat bool
	waits atomic.Int64 // since when it waits for a request, in nanoseconds since 1970; 0 while it has one
	asked atomic.Bool  // something came, and no door has seen it
	whole atomic.Bool  // a door has read a request to its end, and it is not answered yet

	mu      sync.Mutex // of what follows
	reading bool
	until   time.Time // the deadline of reads
	told    time.Time // the one that the socket has
}

// Read reads. While a request is stored net/http reads one byte ahead, so as to tell a handler that the sender has
// gone. An event that has come is stored whoever has gone, so that read finds nothing and ends: else it would wait in
// a goroutine, which must be woken before each answer.
func (g *guest) Read(p []byte) (int, error) {
	if len(p) == 1 && g.whole.Load() {
		return 0, nil
	}
	if err := g.begin(); err != nil {
		return 0, err
	}
	defer g.end()
	return g.Conn.Read(p)
}

func (g *guest) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = true
	return g.tell()
}

func (g *guest) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = false
}

// SetReadDeadline sets the deadline of reads. net/http sets six or more for a request, most of them while nothing is
// read: the socket is told of one when something is.
func (g *guest) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = t
	if !g.reading {
		return nil
	}
	return g.tell()
}

func (g *guest) tell() error {
	if g.told.Equal(g.until) {
		return nil
	}
	g.told = g.until
	return g.Conn.SetReadDeadline(g.until)
}

// SetDeadline sets the deadlines of reads and of writes.
func (g *guest) SetDeadline(t time.Time) error {
	return errors.Join(g.SetReadDeadline(t), g.SetWriteDeadline(t))
}

// Close closes the connection and makes room.
func (g *guest) Close() error {
	g.crowd.mu.Lock()
	if _, ok := g.crowd.guests[g]; ok {
		delete(g.crowd.guests, g)
		g.crowd.metrics.connections.Dec()
	}
	g.crowd.mu.Unlock()
	return g.Conn.Close()
}

// CloseWrite is what net/http asks for, so that a sender sees the answer before the end.
func (g *guest) CloseWrite() error {
	if c, ok := g.Conn.(*net.TCPConn); ok {
		return c.CloseWrite()
	}
	return nil
}

// guestOf is the connection below TLS, nil when it is of another listener.
func guestOf(conn net.Conn) *guest {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	g, _ := conn.(*guest)
	return g
}

type guestKey struct{}

// greet notes that a door sees the request. What net/http answers by itself comes to none.
func greet(req *http.Request) {
	if g, _ := req.Context().Value(guestKey{}).(*guest); g != nil {
		g.asked.Store(false)
	}
}

// hear notes that a door has read the request to its end.
func hear(req *http.Request) {
	if g, _ := req.Context().Value(guestKey{}).(*guest); g != nil {
		g.whole.Store(true)
	}
}

// observe is for http.Server.ConnState.
func observe(conn net.Conn, state http.ConnState) {
	g := guestOf(conn)
	if g == nil {
		return
	}
	switch state {
	case http.StateActive: // headers have come, or a part of them that will do for an answer
		g.waits.Store(0)
		g.asked.Store(true)
	case http.StateIdle:
		g.whole.Store(false)
		g.waits.Store(time.Now().UnixNano())
	case http.StateClosed:
		if g.asked.Load() {
			g.crowd.log.Warn("what came was no request: not HTTP, or headers that are too large, broken off or too slow",
				zap.String("remote", host(g.RemoteAddr().String())))
			g.crowd.metrics.unread.Inc()
		}
	}
}
