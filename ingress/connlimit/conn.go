package connlimit

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is a connection whose state its listener knows. It sets the deadlines of its reads, limits the head of a
// request before net/http makes a map of it, and spares the system calls that net/http makes for each request without
// need. With TLS it is above the encryption.
type conn struct {
	net.Conn
	raw      net.Conn // the connection below TLS, or the same
	listener *Listener
	limits   limits
	exempt   bool

	unverifiedSince atomic.Int64 // nanoseconds since 1970; 0 while its request is verified and not yet answered
	wasVerified     atomic.Bool  // it had a verified request
	unseen          atomic.Bool  // bytes of a request came, and no handler has seen the request yet
	bodyRead        atomic.Bool  // the handler has read the whole request and has not answered it yet
	refusal         error        // why the head of its request was refused; of net/http's goroutine

	mu             sync.Mutex // guards what follows
	reading        bool
	deadline       time.Time // of reads, as net/http set it last
	socketDeadline time.Time // of reads, as the socket has it
	phase          phase
	since          time.Time // from when the time of the phase counts
	head           head
	beyond         int64 // bytes read that are behind the head
}

// A phase is the part of a request that a connection waits for.
type phase int

const (
	idle   phase = iota // the first byte; since the connection was accepted or its last request answered
	inHead              // the end of the head; since its first byte
	inBody              // the body; since the first byte of the head
)

// limits of a connection; 0 is no limit.
type limits struct {
	idle, head, body time.Duration // for the first byte, for the head and for the whole request since then
	headerLines      int
	headBytes        int
}

// errHead is a head over a limit.
var errHead = errors.New("headers are over the limit")

// Read reads from the connection. While a handler runs, net/http reads one byte ahead, to cancel the request's context
// when the client disconnects. After [BodyRead] that read returns no byte at once: otherwise it would block in a
// goroutine that net/http has to wake before each response.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 1 && c.bodyRead.Load() {
		return 0, nil
	}
	if err := c.beginRead(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if refusal := c.endRead(p[:n]); refusal != nil {
		return 0, c.refuse(refusal)
	}
	return n, err
}

func (c *conn) beginRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = true
	return c.applyDeadline()
}

// endRead follows the request through what was read. It returns an error for a head over a limit.
func (c *conn) endRead(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	if len(p) == 0 {
		return nil
	}
	if c.phase == idle {
		c.phase, c.since = inHead, time.Now()
		if proxyProtocol(p) { // net/http answers 400
			c.refusal = errProxyProtocol
		}
	}
	if c.phase != inHead {
		c.beyond += int64(len(p))
		return nil
	}
	n, ended := c.head.scan(p)
	if ended {
		c.phase, c.beyond = inBody, int64(len(p)-n)
	}
	return c.head.check(c.limits)
}

// refuse answers a head over a limit, and returns an error that net/http does not answer. It discards what the client
// is still sending, for a moment: closed at once, the connection would be reset, and the client might never see the
// answer.
func (c *conn) refuse(refusal error) error {
	const (
		answer = "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
			"431 Request Header Fields Too Large"
		lingerTime, lingerBytes = 500 * time.Millisecond, 256 << 10
	)
	c.refusal = refusal
	c.unseen.Store(true) // net/http does not know of bytes that it never got
	_ = c.Conn.SetDeadline(time.Now().Add(lingerTime))
	_, _ = io.WriteString(c.Conn, answer)
	_ = c.CloseWrite()
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
	return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: refusal}
}

// SetReadDeadline sets the deadline of reads; that of the phase holds beside it. net/http sets several for each request,
// most of them while nothing is read: the socket gets a deadline only when a read needs it.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if !c.reading {
		return nil
	}
	return c.applyDeadline()
}

func (c *conn) applyDeadline() error {
	deadline := c.phaseDeadline()
	if deadline.IsZero() || !c.deadline.IsZero() && c.deadline.Before(deadline) {
		deadline = c.deadline
	}
	if c.socketDeadline.Equal(deadline) {
		return nil
	}
	c.socketDeadline = deadline
	return c.Conn.SetReadDeadline(deadline)
}

// phaseDeadline returns the deadline of the phase, or the zero time.
func (c *conn) phaseDeadline() time.Time {
	d := [...]time.Duration{idle: c.limits.idle, inHead: c.limits.head, inBody: c.limits.body}[c.phase]
	if d == 0 {
		return time.Time{}
	}
	return c.since.Add(d)
}

// SetDeadline sets the deadlines of reads and of writes.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close closes the connection and frees its place in the listener.
func (c *conn) Close() error {
	c.listener.remove(c)
	return c.Conn.Close()
}

// CloseWrite closes the sending side. net/http calls it so that a client receives the response before the connection ends.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// requestSeen: the head has ended, even one that came with the request before it.
func (c *conn) requestSeen() {
	c.unseen.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == idle {
		c.since = time.Now()
	}
	c.phase = inBody
}

// answered: the connection waits for the next request. A request that was refused does not make it younger.
func (c *conn) answered() {
	c.bodyRead.Store(false)
	now := time.Now()
	c.unverifiedSince.CompareAndSwap(0, now.UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase, c.since, c.head, c.beyond = idle, now, head{}, 0
}

// connOf returns the conn that net/http has for a connection, or nil when it is from another listener.
func connOf(nc net.Conn) *conn {
	switch c := nc.(type) {
	case *conn:
		return c
	case tlsConn:
		return c.conn
	}
	return nil
}

type connKey struct{}

func connOfRequest(req *http.Request) *conn {
	c, _ := req.Context().Value(connKey{}).(*conn)
	return c
}

// RequestSeen records that a handler has received the request. Without it, the connection counts as closed without a
// complete HTTP request. Call it before the body is read. It does nothing for a request of another listener.
func RequestSeen(req *http.Request) {
	if c := connOfRequest(req); c != nil {
		c.requestSeen()
	}
}

// BodyRead records that a handler has read the request's body to its end. From then until the response is written the
// connection is not read: the request's context is not cancelled when the client disconnects.
func BodyRead(req *http.Request) {
	if c := connOfRequest(req); c != nil {
		c.bodyRead.Store(true)
	}
}

// Verified records that the request is authenticated: until it is answered its connection is not closed for another one.
func Verified(req *http.Request) {
	if c := connOfRequest(req); c != nil {
		c.wasVerified.Store(true)
		c.unverifiedSince.Store(0)
	}
}

// Pipelined reports whether the client has sent more than the request, or may have, because its body announces no
// length. Close the connection then, unless the client is trusted: what net/http has already buffered of the next head
// is not limited. It reports false for a request of another listener. Call it after the body was read.
func Pipelined(req *http.Request) bool {
	c := connOfRequest(req)
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return req.ContentLength < 0 || c.beyond > req.ContentLength
}

// onState is the http.Server.ConnState of the listener's server.
func onState(nc net.Conn, state http.ConnState) {
	c := connOf(nc)
	if c == nil {
		return
	}
	switch state {
	case http.StateActive: // net/http has read a head, or a part of one that it answers itself
		c.unseen.Store(true)
	case http.StateIdle:
		c.answered()
	case http.StateClosed:
		if c.unseen.Load() && c.listener.options.OnIncomplete != nil {
			c.listener.options.OnIncomplete(c.RemoteAddr(), c.refusal)
		}
	}
}
