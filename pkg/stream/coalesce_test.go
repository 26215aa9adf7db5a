package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// connAndPeer returns a coalescingConn and the other end of its connection.
func connAndPeer(t *testing.T) (*coalescingConn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialer := coalescingDialer{Dialer: net.Dialer{Timeout: time.Minute}}
	conn, err := dialer.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return conn.(*coalescingConn), peer
}

func TestCoalescingConn_SendsEverythingInOrder(t *testing.T) {
	t.Parallel()
	g, peer := connAndPeer(t)
	const writers, each = 8, 5000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			line := make([]byte, 0, 64)
			for i := range each {
				line = fmt.Appendf(line[:0], "%d %d\n", w, i)
				if n, err := g.Write(line); n != len(line) || err != nil {
					t.Errorf("Write() = %d, %v; want %d", n, err, len(line))
					return
				}
				clear(line) // a Write keeps nothing of what it was given
			}
		})
	}
	go func() {
		wg.Wait()
		g.Close() // sends what is left
	}()
	all, err := io.ReadAll(peer)
	if err != nil {
		t.Fatal(err)
	}
	next := make([]int, writers)
	for line := range bytes.Lines(all) {
		var w, i int
		if _, err := fmt.Sscanf(string(line), "%d %d\n", &w, &i); err != nil || i != next[w] {
			t.Fatalf("%q came; want %d of writer %d", line, next[w], w)
		}
		next[w]++
	}
	for w, n := range next {
		if n != each {
			t.Errorf("%d of writer %d came; want %d", n, w, each)
		}
	}
}

func TestCoalescingConn_BlocksWhenFullAndFailsWithItsConnection(t *testing.T) {
	t.Parallel()
	g, peer := connAndPeer(t)
	some := make([]byte, 64<<10)
	failed := make(chan error, 1)
	go func() {
		for { // the peer does not read: the buffers of the socket fill, then that of the connection, then Write blocks
			if _, err := g.Write(some); err != nil {
				failed <- err
				return
			}
		}
	}()
	for full := false; !full; {
		select {
		case err := <-failed:
			t.Fatalf("Write() = %v; want it to wait for room", err)
		default:
		}
		g.mu.Lock()
		full = len(g.out) >= maxUnsent
		if len(g.out) > maxUnsent+len(some) {
			t.Errorf("it holds %d bytes; want a bound", len(g.out))
		}
		g.mu.Unlock()
	}
	peer.Close()
	if err := <-failed; err == nil {
		t.Error("Write() after the connection broke = nil")
	}
	if _, err := g.Read(some); err == nil {
		t.Error("Read() after a write failed = nil; want its reader to learn of it")
	}
	if _, err := g.Write(some); err == nil {
		t.Error("Write() = nil; want the error again")
	}
}

func TestCoalescingConn_RefusesWritesAfterClose(t *testing.T) {
	t.Parallel()
	g, peer := connAndPeer(t)
	if _, err := g.Write([]byte("the last")); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := g.Write([]byte("too late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write() after Close = %v; want net.ErrClosed", err)
	}
	if got, err := io.ReadAll(peer); err != nil || string(got) != "the last" {
		t.Errorf("the peer has %q, %v; want what was written before Close", got, err)
	}
	if err := g.Close(); err == nil {
		t.Error("a second Close() = nil; want what the connection says")
	}
}

// A server that hangs holds up a Close for a moment, not for the time of a write.
func TestCoalescingConn_ClosesWithoutHanging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe() // whose peer reads nothing
		defer peer.Close()
		g := newCoalescingConn(conn)
		if _, err := g.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is being sent
		began := time.Now()
		g.Close()
		if took := time.Since(began); took != closeTimeout {
			t.Errorf("Close() took %s; want %s", took, closeTimeout)
		}
	})
}
