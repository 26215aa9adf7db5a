//go:build faults

package faults

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A link is the wire from one program to another. While it is cut, nothing passes and neither side gets an error: what was
// sent arrives when the link is whole again, if both connections are still open.
type link struct {
	from, to string // names
	listener net.Listener
	end      chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	whole chan struct{} // closed while it is
	conns int           // that are made through to the other end
}

// newLink lays a link to what listens on an address of a network, now or later, and ends it with the test.
func newLink(t testing.TB, from, to, network, address string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{from: from, to: to, listener: listener, end: make(chan struct{}), whole: make(chan struct{})}
	close(l.whole)
	l.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.carry(near, network, address) })
		}
	})
	t.Cleanup(func() {
		close(l.end)
		listener.Close()
		l.wg.Wait()
	})
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = make(chan struct{})
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.whole)
}

// used reports whether a client is connected through it.
func (l *link) used() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns > 0
}

// pass waits until the link is whole, and reports false when the test ends before.
func (l *link) pass() bool {
	l.mu.Lock()
	whole := l.whole
	l.mu.Unlock()
	select {
	case <-whole:
		return true
	case <-l.end:
		return false
	}
}

// carry makes one connection through, and keeps it until either end closes.
func (l *link) carry(near net.Conn, network, address string) {
	defer near.Close()
	if !l.pass() {
		return
	}
	far, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	l.count(1)
	defer l.count(-1)
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		l.wg.Go(func() {
			l.copy(way[0], way[1])
			ended <- struct{}{}
		})
	}
	select {
	case <-ended:
	case <-l.end:
	}
}

func (l *link) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns += n
}

// copy ends when one of the two closes; the other learns of it as late as of anything else.
func (l *link) copy(from, to net.Conn) {
	bytes := make([]byte, 64<<10)
	for {
		n, err := from.Read(bytes)
		if !l.pass() {
			return
		}
		if _, writeErr := to.Write(bytes[:n]); err != nil || writeErr != nil {
			return
		}
	}
}
