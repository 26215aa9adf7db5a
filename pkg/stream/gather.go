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
	// sendTimeout is for one write to the server's socket.
	sendTimeout = 10 * time.Second
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
	wake chan struct{} // has something when there is something to do
	done chan struct{} // closed when nothing will be sent any more

	mu     sync.Mutex
	room   sync.Cond // there is room, or never will be
	out    []byte    // written, and not taken to be sent
	err    error     // why nothing can be written any more
	closed bool
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
	g := &gatherer{Conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	g.room.L = &g.mu
	go g.run()
	return g
}

// Write takes p to be sent.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.out) >= mostGathered && g.err == nil {
		g.room.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.out = append(g.out, p...)
	g.signal()
	return len(p), nil
}

func (g *gatherer) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run sends until the connection is closed or a write fails.
func (g *gatherer) run() {
	defer close(g.done)
	var sending []byte
	for range g.wake {
		runtime.Gosched() // others that are ready write now
		g.mu.Lock()
		sending, g.out = g.out, sending[:0]
		closed := g.closed
		if !closed { // else Close has said until when
			_ = g.Conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // when it fails, so does Write
		}
		g.room.Broadcast()
		g.mu.Unlock()
		if len(sending) > 0 {
			if _, err := g.Conn.Write(sending); err != nil {
				g.fail(err)
				return
			}
		}
		if closed {
			return
		}
		if cap(sending) > mostGathered {
			sending = nil
		}
	}
}

// fail refuses all writes from now on, and ends the connection: a part of what was sent may be missing.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	g.err = err
	g.room.Broadcast()
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
	g.room.Broadcast()
	g.mu.Unlock()
	g.signal()
	<-g.done
	return g.Conn.Close()
}
