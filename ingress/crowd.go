package ingress

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A crowd is a listener with a bound on its connections. Over it, one on which no request has come is closed for a new
// one: of some that are looked at, the one that has waited longest. When all of these have a request, the new one is
// closed. Connections from Codat's own addresses are never closed for another.
type crowd struct {
	net.Listener
	most    int
	codats  networks
	metrics *frontMetrics
	log     *zap.Logger

	mu     sync.Mutex
	guests map[*guest]struct{}
}

// looked is how many connections are looked at to close one: enough to find one that has waited for long, and few
// enough that a flood of connections costs little more than without a bound.
const looked = 32

func newCrowd(ln net.Listener, most int, m *frontMetrics, log *zap.Logger) *crowd {
	return &crowd{Listener: ln, most: most, codats: codatAddresses, metrics: m, log: log, guests: map[*guest]struct{}{}}
}

// watch has the server say how its connections fare.
func (c *crowd) watch(s *http.Server) {
	s.ConnState = observe
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, guestKey{}, guestOf(conn))
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
		c.metrics.connections.Inc()
	}
	c.mu.Unlock()
	if goes != nil {
		c.metrics.dropped.Inc()
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
