// Package connlimit limits the open connections of an http.Server, and what unauthenticated clients may send over them.
// At the limit a new connection takes the place of the one that has been without a verified request longest: clients that
// send nothing, send slowly or send invalid requests keep out only each other. A connection whose request is verified is
// never closed for another one.
package connlimit

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Options configure a [Listener]. Each function may be nil. They are called from many goroutines.
type Options struct {
	Limit       int                   // open connections, at least 1
	Exempt      func(netip.Addr) bool // reports addresses whose connections are never refused or closed for others
	TLS         *tls.Config           // nil for none
	HeaderLines int                   // lines of headers in a request, 0 for no limit; a request with more is answered 431
	HeaderBytes int                   // bytes of the request line and headers, likewise

	OnOpen           func()                           // a connection was added
	OnClose          func()                           // a connection was removed
	OnDrop           func()                           // a connection was closed because of the limit
	OnIncomplete     func(remote net.Addr, err error) // a connection closed without a complete HTTP request; err may be nil
	OnHandshakeError func(remote net.Addr, err error) // a TLS handshake failed
}

// A Listener is a listener with a limit on its open connections. At the limit it closes, of the unverified connections that
// it scans, the one that has been so longest: since it was accepted, or since its last verified request was answered.
// Connections that never had a verified request go first. When all have a verified request in progress, it closes the new
// connection.
type Listener struct {
	net.Listener
	options Options
	limits  limits

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// bodyGrace is for how long a connection that has had a verified request is not closed while it sends a body. While all other bodies
// wait for memory or for their verification, it can be the only one that is read.
const bodyGrace = time.Second

// maxScanned is the number of connections that are scanned for one to close: enough to find one that has been
// unverified for long, and few enough that a flood of connections costs little more than without a limit.
const maxScanned = 32

// Listen returns a Listener that accepts the connections of ln.
func Listen(ln net.Listener, o Options) *Listener {
	return &Listener{
		Listener: ln, options: o, conns: map[*conn]struct{}{},
		limits: limits{headerLines: o.HeaderLines, headBytes: o.HeaderBytes},
	}
}

// Attach sets the server's ConnState and ConnContext, by which the listener knows the state of its connections, and takes
// over its timeouts of reads: the IdleTimeout is also that of a new connection, and ReadHeaderTimeout and ReadTimeout
// count from the first byte of a request. Call it before the server serves.
func (l *Listener) Attach(s *http.Server) {
	l.limits.idle, l.limits.head, l.limits.body = s.IdleTimeout, s.ReadHeaderTimeout, s.ReadTimeout
	s.IdleTimeout, s.ReadHeaderTimeout, s.ReadTimeout = 0, 0, 0
	s.ConnState = onState
	s.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, connOf(nc))
	}
}

// Accept returns the next connection within the limit.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.newConn(nc); l.admit(c) {
			if l.options.TLS != nil {
				return tlsConn{c}, nil
			}
			return c, nil
		}
	}
}

func (l *Listener) newConn(nc net.Conn) *conn {
	now := time.Now()
	c := &conn{Conn: nc, raw: nc, listener: l, limits: l.limits, since: now}
	if l.options.TLS != nil {
		c.raw = &handshakeConn{Conn: nc, limits: l.limits, left: maxHandshake}
		c.Conn = tls.Server(c.raw, l.options.TLS)
	}
	if addr, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil && l.options.Exempt != nil {
		c.exempt = l.options.Exempt(addr.Addr().Unmap())
	}
	c.unverifiedSince.Store(now.UnixNano())
	return c
}

// admit adds a connection, and closes one when there are too many. It returns false when it closed the new one.
func (l *Listener) admit(c *conn) bool {
	dropped := l.add(c)
	if dropped != nil {
		l.drop(dropped)
	}
	return dropped != c
}

// add adds a connection unless it is the one to close, and returns the one to close, if any.
func (l *Listener) add(c *conn) (drop *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.options.Limit && !c.exempt {
		if drop = l.longestUnverified((*conn).droppable); drop == nil {
			return c
		}
	}
	l.conns[c] = struct{}{}
	call(l.options.OnOpen)
	return drop
}

func (l *Listener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.conns[c]; ok {
		delete(l.conns, c)
		call(l.options.OnClose)
	}
}

// DropReceiving closes, of the connections that wait for more of a request body, the one that has been unverified longest,
// as for the limit; one that has had a verified request not within a second of the next. It returns false when there is no such connection. One whose handler does other work, as the caller's
// own, is not closed: the handler would not notice.
func (l *Listener) DropReceiving() bool {
	l.mu.Lock()
	c := l.longestUnverified((*conn).receiving)
	l.mu.Unlock()
	if c == nil {
		return false
	}
	l.drop(c)
	return true
}

func (l *Listener) drop(c *conn) {
	call(l.options.OnDrop)
	l.remove(c)
	_ = c.raw.Close() // TLS would wait for the client to read its alert
}

// longestUnverified returns, of the first maxScanned connections that fit, the one that has been unverified longest, or nil
// when none fits. It returns one that had a verified request only when there is no other.
func (l *Listener) longestUnverified(fits func(*conn) bool) *conn {
	var longest *conn
	found := 0
	for c := range l.conns { // the iteration starts at a random element
		if !fits(c) {
			continue
		}
		if longest == nil || c.before(longest) {
			longest = c
		}
		if found++; found == maxScanned {
			break
		}
	}
	return longest
}

// droppable reports whether a connection may be closed for another one.
func (c *conn) droppable() bool { return c.unverifiedSince.Load() != 0 && !c.exempt }

// receiving reports whether, besides, its handler waits for more of the body of its request.
func (c *conn) receiving() bool {
	if !c.droppable() || c.bodyRead.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == inBody && c.reading && (!c.wasVerified.Load() || time.Since(c.since) > bodyGrace)
}

// before reports whether a connection is to be closed rather than another.
func (c *conn) before(other *conn) bool {
	if was := c.wasVerified.Load(); was != other.wasVerified.Load() {
		return !was
	}
	return c.unverifiedSince.Load() < other.unverifiedSince.Load()
}

func call(f func()) {
	if f != nil {
		f()
	}
}
