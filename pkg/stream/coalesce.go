package stream

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// maxUnsent is how many bytes may wait before a Write blocks, and the largest buffer that is kept.
	maxUnsent = 1 << 20
	// sendTimeout bounds one write to the server's socket. nats.go holds its lock meanwhile, so a publish can return this
	// much after its deadline.
	sendTimeout = 1500 * time.Millisecond
	// closeTimeout bounds the last write of a connection that is closed.
	closeTimeout = time.Second
)

// A coalescingConn is a connection that sends in one write what several goroutines write at about the same time. nats.go
// writes after each publish, which costs a system call for each message, here and in the server. Before it sends, a
// coalescingConn lets the goroutines that are ready to run write too. It waits for no timer: when no other goroutine is
// ready, it sends at once.
//
// A Write returns before the bytes are sent. A later error fails the next Write and closes the connection, so that its
// reader sees an error too.
type coalescingConn struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond // bytes were sent, or err was set
	out     []byte    // written, and not passed to send
	spare   []byte    // a buffer that out can use next
	sending bool      // a goroutine sends; it ends when out is empty, because nats.go does not close every connection
	err     error     // of all further writes
	closed  bool
}

// coalescingDialer dials coalescingConns.
type coalescingDialer struct {
	net.Dialer
	leaver *leaver // of the connection that it dials for
}

// Dial implements nats.CustomDialer.
func (d *coalescingDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return newCoalescingConn(conn), nil
}

func newCoalescingConn(conn net.Conn) *coalescingConn {
	g := &coalescingConn{Conn: conn}
	g.changed.L = &g.mu
	return g
}

// Write queues a copy of p. It blocks while maxUnsent bytes wait.
func (g *coalescingConn) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.out) >= maxUnsent && g.err == nil {
		g.changed.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.out = append(g.out, p...)
	if !g.sending {
		g.sending = true
		go g.send()
	}
	return len(p), nil
}

// send sends until out is empty or a write fails.
func (g *coalescingConn) send() {
	for {
		runtime.Gosched() // goroutines that are ready write now
		g.mu.Lock()
		if len(g.out) == 0 {
			g.sending = false
			g.changed.Broadcast()
			g.mu.Unlock()
			return
		}
		sending := g.out
		g.out, g.spare = g.spare[:0], nil
		if !g.closed { // Close sets the deadline of the last write
			_ = g.Conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // when it fails, so does Write
		}
		g.changed.Broadcast()
		g.mu.Unlock()
		if _, err := g.Conn.Write(sending); err != nil {
			g.fail(err)
			return
		}
		if cap(sending) <= maxUnsent {
			g.mu.Lock()
			g.spare = sending
			g.mu.Unlock()
		}
	}
}

// fail makes err the error of all further writes and closes the connection, on which a part of a write may be missing.
func (g *coalescingConn) fail(err error) {
	g.mu.Lock()
	g.err = err
	g.sending = false
	g.changed.Broadcast()
	g.mu.Unlock()
	_ = g.Conn.Close() // the error of the write says more
}

// SetWriteDeadline does nothing: each write to the socket has a deadline of its own.
func (g *coalescingConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the deadline of reads.
func (g *coalescingConn) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// Close sends what was written, within closeTimeout, and closes the connection.
func (g *coalescingConn) Close() error {
	g.mu.Lock()
	g.closed = true
	_ = g.Conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // when it fails, so does the write
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.changed.Broadcast()
	for g.sending {
		g.changed.Wait()
	}
	g.mu.Unlock()
	return g.Conn.Close()
}
