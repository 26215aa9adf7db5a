package stream

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// mostGathered is how much is taken before the writer has to wait, and what a buffer may keep.
	mostGathered = 1 << 20
	// sendTimeout is for one write to the server's socket. nats.go lets nobody else do anything meanwhile, so that it is
	// also how much later than its end a publish can return.
	sendTimeout = 1500 * time.Millisecond
	// lastSend is for what is left when the connection is closed.
	lastSend = time.Second
)

// A gatherer is a connection that sends at once what is written at about the same time. nats.go writes as soon as one
// goroutine has published; on a busy machine that is a system call for each message, here and in the server. A gatherer
// lets the goroutines that are ready write too before it sends. It waits for no clock: when nobody else is ready, it
// sends at once.
//
// A Write that returned is on its way, not sent: what fails later fails the next Write, and closes the connection, so
// that who reads from it learns of it.
type gatherer struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond // something was sent, or nothing can be any more
	out     []byte    // written, and not taken to be sent
	spare   []byte    // what out was before
	sending bool      // there is a goroutine that sends, which ends when all is sent: nats.go does not close each connection
	err     error     // why nothing can be written any more
	closed  bool
}

// gathering is a dialer of gatherers.
type gathering struct{ net.Dialer }

// Dial is for nats.SetCustomDialer.
func (d *gathering) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return gather(conn), nil
}

func gather(conn net.Conn) *gatherer {
	g := &gatherer{Conn: conn}
	g.changed.L = &g.mu
	return g
}

// Write takes p to be sent.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.out) >= mostGathered && g.err == nil {
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

// send sends until nothing is left or a write fails.
func (g *gatherer) send() {
	for {
		runtime.Gosched() // others that are ready write now
		g.mu.Lock()
		if len(g.out) == 0 {
			g.sending = false
			g.changed.Broadcast()
			g.mu.Unlock()
			return
		}
		sending := g.out
		g.out, g.spare = g.spare[:0], nil
		if !g.closed { // else Close has said until when
			_ = g.Conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // when it fails, so does Write
		}
		g.changed.Broadcast()
		g.mu.Unlock()
		if _, err := g.Conn.Write(sending); err != nil {
			g.fail(err)
			return
		}
		if cap(sending) <= mostGathered {
			g.mu.Lock()
			g.spare = sending
			g.mu.Unlock()
		}
	}
}

// fail refuses all writes from now on, and ends the connection: a part of what was sent may be missing.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	g.err = err
	g.sending = false
	g.changed.Broadcast()
	g.mu.Unlock()
	_ = g.Conn.Close() // the write's error tells more
}

// SetWriteDeadline does nothing: each write to the socket has a deadline of its own.
func (g *gatherer) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the deadline of reads.
func (g *gatherer) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// Close sends what was written, within a second, and closes the connection.
func (g *gatherer) Close() error {
	g.mu.Lock()
	g.closed = true
	_ = g.Conn.SetWriteDeadline(time.Now().Add(lastSend)) // when it fails, so does the write
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
