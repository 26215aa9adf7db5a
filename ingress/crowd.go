package ingress

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A crowd is a listener with a bound on its connections. Over it, one on which no request has come is closed for a new
// one: of some that are looked at, the one that has waited longest. When all of these have a request, the new one is
// closed. Connections from Codat's own addresses are never closed for another.
type crowd struct {
	net.Listener
	most    int
	codats  networks
	size    prometheus.Gauge
	dropped prometheus.Counter

	mu     sync.Mutex
	guests map[*guest]struct{}
}

// looked is how many connections are looked at to close one: enough to find one that has waited for long, and few
// enough that a flood of connections costs little more than without a bound.
const looked = 32

// A guest is a connection.
type guest struct {
	net.Conn
	crowd *crowd
	codat bool
	waits atomic.Int64 // since when it waits for a request, in nanoseconds since 1970; 0 while it has one
}

func newCrowd(ln net.Listener, most int, m *frontMetrics) *crowd {
	return &crowd{
		Listener: ln, most: most, codats: codatAddresses, size: m.connections, dropped: m.dropped,
		guests: map[*guest]struct{}{},
	}
}

// Accept returns the next connection that there is room for.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := &guest{Conn: conn, crowd: c}
		if address, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			g.codat = c.codats.contain(address.Addr().Unmap())
		}
		g.waits.Store(time.Now().UnixNano())
		if c.admit(g) {
			return g, nil
		}
	}
}

// admit takes a connection in, and closes one when there are too many; it is false when that was the new one.
func (c *crowd) admit(g *guest) bool {
	c.mu.Lock()
	var goes *guest
	if len(c.guests) >= c.most && !g.codat {
		if goes = c.longest(); goes == nil {
			goes = g
		}
	}
	if goes != g {
		c.guests[g] = struct{}{}
		c.size.Inc()
	}
	c.mu.Unlock()
	if goes != nil {
		c.dropped.Inc()
		_ = goes.Close() // it is gone for us, whatever the socket says
	}
	return goes != g
}

// longest is a connection that has waited long for a request, nil when none of those that were looked at waits.
func (c *crowd) longest() (longest *guest) {
	var since int64
	left := looked
	for g := range c.guests { // begins anywhere
		if w := g.waits.Load(); w != 0 && !g.codat && (longest == nil || w < since) {
			longest, since = g, w
		}
		if left--; left == 0 {
			break
		}
	}
	return longest
}

// Close closes the connection and makes room.
func (g *guest) Close() error {
	g.crowd.mu.Lock()
	if _, ok := g.crowd.guests[g]; ok {
		delete(g.crowd.guests, g)
		g.crowd.size.Dec()
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

// observe is for http.Server.ConnState: it takes down whether a connection waits.
func observe(conn net.Conn, state http.ConnState) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	g, ok := conn.(*guest)
	if !ok {
		return
	}
	switch state {
	case http.StateActive: // its headers have come
		g.waits.Store(0)
	case http.StateIdle:
		g.waits.Store(time.Now().UnixNano())
	}
}
