package connlimit

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// A limitedServer is an http.Server behind a Listener. /stored is verified at once and answered when release is closed,
// /verified is verified and answered at once; the body of /busy is read when release is closed; all others are answered without verification when their body was read.
type limitedServer struct {
	*Listener
	address         string
	release, stored chan struct{}
	started         chan string   // paths of requests that a handler has
	changed         chan struct{} // a connection may have changed its state
	open, dropped   atomic.Int64
	incomplete      atomic.Int64
}

func serveLimited(t *testing.T, limit int, exempt netip.Addr) *limitedServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &limitedServer{
		address: ln.Addr().String(),
		release: make(chan struct{}), stored: make(chan struct{}, 9), started: make(chan string, 99), changed: make(chan struct{}, 1),
	}
	s.Listener = Listen(ln, Options{
		Limit:        limit,
		Exempt:       func(a netip.Addr) bool { return a == exempt },
		OnOpen:       func() { s.open.Add(1) },
		OnClose:      func() { s.open.Add(-1) },
		OnDrop:       func() { s.dropped.Add(1) },
		OnIncomplete: func(net.Addr, error) { s.incomplete.Add(1) },
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		RequestSeen(req)
		s.started <- req.URL.Path
		if req.URL.Path == "/busy" {
			<-s.release
		}
		_, _ = io.Copy(io.Discard, req.Body)
		switch req.URL.Path {
		case "/stored":
			Verified(req)
			s.stored <- struct{}{}
			<-s.release
		case "/verified":
			Verified(req)
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	s.Attach(server)
	onState := server.ConnState
	server.ConnState = func(nc net.Conn, state http.ConnState) {
		onState(nc, state)
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return s
}

// dial connects from an address and sends text.
func (s *limitedServer) dial(t *testing.T, from, text string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	return nc
}

// await returns when cond is true, which it asks each time that a connection has changed its state.
func (s *limitedServer) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for !cond() {
		select {
		case <-s.changed:
		case <-timeout:
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// awaitIdle returns when n connections are between two requests.
func (s *limitedServer) awaitIdle(t *testing.T, n int) {
	t.Helper()
	s.await(t, "idle connections", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		waiting := 0
		for c := range s.conns {
			c.mu.Lock()
			if c.phase == idle {
				waiting++
			}
			c.mu.Unlock()
		}
		return waiting == n
	})
}

func wantAnswered(t *testing.T, what string, nc net.Conn) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%s: %v, %v; want 204", what, resp, err)
	}
}

func wantClosed(t *testing.T, what string, nc net.Conn) {
	t.Helper()
	if n, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s: Read = %d, %v; want a closed connection", what, n, err)
	}
}

// At the limit the connection that has been unverified longest is closed, whatever it is doing. One with a verified
// request is never closed, and one that had a verified request is closed last.
func TestListener_ClosesTheLongestUnverifiedConnectionAtTheLimit(t *testing.T) {
	t.Parallel()
	request := func(path, more string) string { return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + more }
	const empty, half = "Content-Length: 0\r\n\r\n", "Content-Length: 9\r\n\r\nbody"
	s := serveLimited(t, 5, netip.MustParseAddr("127.0.0.2"))

	stored := s.dial(t, "127.0.0.1", request("/stored", empty))
	<-s.stored
	known := s.dial(t, "127.0.0.1", request("/verified", empty))
	wantAnswered(t, "a verified request", known)
	s.awaitIdle(t, 1)
	inBody := s.dial(t, "127.0.0.1", request("/body", half))
	for <-s.started != "/body" {
	}
	silent := s.dial(t, "127.0.0.1", "")
	s.await(t, "the silent connection", func() bool { return s.open.Load() == 4 })
	refused := s.dial(t, "127.0.0.1", request("/refused", empty))
	wantAnswered(t, "a refused request", refused)

	inHead := s.dial(t, "127.0.0.1", request("/", ""))
	wantClosed(t, "the connection whose body is being received longest", inBody)
	if _, err := io.WriteString(refused, request("/again", empty)); err != nil {
		t.Fatal(err)
	}
	wantAnswered(t, "another refused request, which does not make its connection younger", refused)
	s.dial(t, "127.0.0.1", "")
	wantClosed(t, "the silent connection", silent)
	last := s.dial(t, "127.0.0.1", request("/stored", empty))
	wantClosed(t, "the connection whose requests were refused", refused)
	<-s.stored
	s.dial(t, "127.0.0.1", "")
	wantClosed(t, "the connection that is in its head", inHead)

	// None of these is verified; each new one closes the one before. The connection that was verified stays.
	for range 20 {
		s.dial(t, "127.0.0.1", "")
	}
	s.await(t, "as many are dropped", func() bool { return s.dropped.Load() == 24 })
	if _, err := io.WriteString(known, request("/stored", empty)); err != nil {
		t.Fatal(err)
	}
	<-s.stored

	// Now all but one are verified.
	fourth := s.dial(t, "127.0.0.1", request("/stored", empty))
	<-s.stored
	fifth := s.dial(t, "127.0.0.1", request("/stored", empty))
	<-s.stored
	wantClosed(t, "a new connection while all have a verified request", s.dial(t, "127.0.0.1", ""))
	wantAnswered(t, "a connection from an exempt address", s.dial(t, "127.0.0.2", request("/", empty)))
	wantClosed(t, "a new connection while only an exempt one is not verified", s.dial(t, "127.0.0.1", ""))
	close(s.release)
	for _, nc := range []net.Conn{stored, known, last, fourth, fifth} {
		wantAnswered(t, "a connection with a verified request", nc)
	}
}

// A handler that does not read the body would not notice that its connection was closed, and would not release its memory.
func TestListener_DropReceivingClosesAConnectionThatIsRead(t *testing.T) {
	t.Parallel()
	s := serveLimited(t, 9, netip.Addr{})
	const body = " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx"
	if s.DropReceiving() {
		t.Error("DropReceiving = true without a connection; want false")
	}
	busy := s.dial(t, "", "POST /busy"+body)
	<-s.started
	slow := s.dial(t, "", "POST /slow"+body)
	<-s.started
	late := time.After(30 * time.Second)
	for !s.DropReceiving() {
		select {
		case <-late:
			t.Fatal("DropReceiving = false; want it to close the connection whose body is read")
		case <-time.After(time.Millisecond):
		}
	}
	wantClosed(t, "the connection whose body is read", slow)
	if s.DropReceiving() {
		t.Error("DropReceiving = true for a connection whose handler is busy; want false")
	}
	close(s.release)
	if _, err := io.WriteString(busy, "x"); err != nil {
		t.Fatal(err)
	}
	wantAnswered(t, "the connection whose handler was busy", busy)
}

// A client that had a verified request is not closed because nobody else is read at the moment, but when it stays slow.
func TestListener_DropReceivingSparesAConnectionThatWasVerified(t *testing.T) {
	t.Parallel()
	s := serveLimited(t, 9, netip.Addr{})
	real := s.dial(t, "", "POST /verified HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	<-s.started
	wantAnswered(t, "the first request", real)
	began := time.Now()
	if _, err := io.WriteString(real, "POST /verified HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx"); err != nil {
		t.Fatal(err)
	}
	<-s.started
	late := time.After(time.Minute)
	for !s.DropReceiving() {
		select {
		case <-late:
			t.Fatal("DropReceiving = false; want it to close a connection that stays slow")
		case <-time.After(time.Millisecond):
		}
	}
	if after := time.Since(began); after < bodyGrace {
		t.Errorf("it was closed %v after its request began; want %v or more", after, bodyGrace)
	}
	wantClosed(t, "the connection that stays slow", real)
}

func TestListener_ReportsConnectionsWithoutACompleteRequest(t *testing.T) {
	t.Parallel()
	s := serveLimited(t, 3, netip.Addr{})
	for _, nc := range []net.Conn{
		s.dial(t, "127.0.0.1", "not HTTP\r\n\r\n"),
		s.dial(t, "127.0.0.1", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
		s.dial(t, "127.0.0.1", ""),
	} {
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Fatal(err)
		}
	}
	s.await(t, "all connections closed", func() bool { return s.open.Load() == 0 })
	s.await(t, "the report", func() bool { return s.incomplete.Load() >= 1 })
	if n := s.incomplete.Load(); n != 1 {
		t.Errorf("%d connections reported; want 1, the one that sent no HTTP", n)
	}
}
