package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCheckAddress_RefusesWhatIsNotPublic(t *testing.T) {
	t.Parallel()
	https := endpoint{&url.URL{Scheme: "https", Host: "example.com"}}
	closed := Route{URL: https}
	open := Route{URL: https, AllowPrivate: []prefix{prefix(netip.MustParsePrefix("10.20.0.0/16")), prefix(netip.MustParsePrefix("fd12:3456::/32"))}}
	unencrypted := open
	unencrypted.URL = endpoint{&url.URL{Scheme: "http", Host: "example.com"}}
	for _, tt := range []struct {
		address                   string
		closed, open, unencrypted bool // whether the route may connect
	}{
		{"8.8.8.8:443", true, true, false},
		{"[2606:4700:4700::1111]:443", true, true, false},
		{"[::ffff:8.8.8.8]:443", true, true, false},
		{"10.20.1.2:443", false, true, true},
		{"[::ffff:10.20.1.2]:443", false, true, true},
		{"[fd12:3456::1]:443", false, true, true},
		{"10.21.1.2:443", false, false, false},
		{"172.16.0.1:443", false, false, false},
		{"172.31.255.255:443", false, false, false},
		{"192.168.1.1:443", false, false, false},
		{"127.0.0.1:443", false, false, false},
		{"127.255.255.254:443", false, false, false},
		{"[::1]:443", false, false, false},
		{"[::ffff:127.0.0.1]:443", false, false, false},
		{"[::ffff:169.254.169.254]:443", false, false, false},
		{"[::7f00:1]:443", false, false, false},
		{"0.0.0.0:443", false, false, false},
		{"[::]:443", false, false, false},
		{"169.254.169.254:80", false, false, false},
		{"169.254.170.2:80", false, false, false},
		{"168.63.129.16:80", false, false, false},
		{"100.100.100.200:80", false, false, false},
		{"192.0.0.192:80", false, false, false},
		{"100.64.0.1:443", false, false, false},
		{"[fd00:ec2::254]:80", false, false, false},
		{"[fc00::1]:443", false, false, false},
		{"[fe80::1%eth0]:443", false, false, false},
		{"[fec0::1]:443", false, false, false},
		{"[64:ff9b::a9fe:a9fe]:80", false, false, false},
		{"[64:ff9b:1::a00:1]:80", false, false, false},
		{"[2002:7f00:1::]:443", false, false, false},
		{"[2001:0:53aa:64c::1]:443", false, false, false},
		{"[2001:db8::1]:443", false, false, false},
		{"[ff02::1]:443", false, false, false},
		{"224.0.0.1:443", false, false, false},
		{"255.255.255.255:443", false, false, false},
		{"198.18.0.1:443", false, false, false},
		{"not an address", false, false, false},
	} {
		for _, r := range []struct {
			name  string
			route Route
			want  bool
		}{{"without allow_private", closed, tt.closed}, {"with allow_private", open, tt.open}, {"by http", unencrypted, tt.unencrypted}} {
			if err := r.route.checkAddress(tt.address); (err == nil) != r.want {
				t.Errorf("%s %s: %v; want it allowed: %v", tt.address, r.name, err, r.want)
			}
		}
	}
}

// resolver answers every question with one address of IPv4.
func resolver(t *testing.T, address [4]byte) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			question := buffer[12:n]
			name := strings.IndexByte(string(question), 0) + 1
			typ := binary.BigEndian.Uint16(question[name:])
			answer := append([]byte{}, buffer[:2]...)                   // the id
			answer = append(answer, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0) // an answer, no error, one question
			answer = append(answer, question[:name+4]...)               //
			if typ == 1 {                                               // A
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // of the name, for 0 s
				answer = append(answer, address[:]...)
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// newTestSender returns a sender to a URL, without a key.
func newTestSender(t *testing.T, target string, allow ...string) *sender {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := Route{Name: "r", URL: endpoint{u}, Concurrency: 1, Timeout: duration(time.Minute)}
	for _, a := range allow {
		r.AllowPrivate = append(r.AllowPrivate, prefix(netip.MustParsePrefix(a)))
	}
	f := newFiles(r)
	s := newSender(r, f, newMetrics(prometheus.NewRegistry(), "relay-r", f), "test")
	t.Cleanup(s.close)
	return s
}

// A public name that resolves to an address inside is refused after it was resolved, whatever it resolved to before.
func TestSender_RefusesANameThatResolvesInside(t *testing.T) {
	t.Parallel()
	requests := 0
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests++ }))
	defer inside.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(inside.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range [][4]byte{{127, 0, 0, 1}, {169, 254, 169, 254}, {10, 0, 0, 1}} {
		s := newTestSender(t, "http://rebinding.example:"+port, "192.168.7.0/24")
		s.dialer.Resolver = resolver(t, address)
		err := s.send(t.Context(), message{id: "msg_1", body: []byte("{}")})
		if refused, ok := errors.AsType[*addressError](err); !ok || refused.address != netip.AddrFrom4(address) {
			t.Errorf("a name of %v: send = %v; want it refused for this address", address, err)
		}
	}
	s := newTestSender(t, "http://rebinding.example:"+port, "127.0.0.0/8")
	s.dialer.Resolver = resolver(t, [4]byte{127, 0, 0, 1})
	if err := s.send(t.Context(), message{id: "msg_1", body: []byte("{}")}); err != nil || requests != 1 {
		t.Errorf("with allow_private: send = %v after %d requests; want one that succeeds", err, requests)
	}
}

// A proxy in the environment is not used: it would connect to addresses that nothing here checks.
func TestSender_UsesNoProxy(t *testing.T) {
	if s := newTestSender(t, "https://example.com"); s.transport.Proxy != nil {
		t.Error("the transport has a proxy")
	}
}

func TestGate_HoldsWhileTheEndpointWantsNoRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, began := newGate(0), time.Now()
		if err := g.enter(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("without a pause: %v after %s", err, time.Since(began))
		}
		g.pause(maxHold)
		g.pause(time.Second) // the longer one stays
		if err := g.enter(t.Context()); err != nil || time.Since(began) != maxHold {
			t.Errorf("a pause of %s: %v after %s", maxHold, err, time.Since(began))
		}
		g.pause(100 * time.Hour)
		began = time.Now()
		_, paused := errors.AsType[*pausedError](g.enter(t.Context()))
		if !paused || time.Since(began) != 0 {
			t.Errorf("a long pause: paused is %v after %s; want an error at once", paused, time.Since(began))
		}
		time.Sleep(maxPause)
		if err := g.enter(t.Context()); err != nil {
			t.Errorf("after %s: %v", maxPause, err)
		}
	})
}

// The handlers of a route that has a rate have the time to wait for their turns.
func TestRoute_TimeOfAnAttemptAllowsForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Route{Rate: 0.5, Concurrency: 64, Timeout: duration(time.Second)}
		g := newGate(r.Rate)
		for range r.Concurrency + r.Concurrency/4 { // as many as run at once, with parked events
			if err := g.limiter.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if last := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); last+time.Duration(r.Timeout) > r.attemptTimeout() {
			t.Errorf("the last one waits for %s; an attempt has %s", last, r.attemptTimeout())
		}
	})
}

// answering starts a server that answers each request with the same bytes. It returns its URL.
func answering(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			ended.Go(func() {
				defer conn.Close()
				if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(conn, answer)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		ended.Wait()
	})
	return "http://" + listener.Addr().String()
}

// An answer that is not HTTP can repeat what was sent: the error, which logs and claims have, has nothing of it.
func TestSender_ErrorOfABrokenAnswerHasNothingOfIt(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"HIDDEN and more\r\n\r\n",
		"HTTP/1.1 HIDDEN\r\n\r\n",
		"HTTP/1.1 200 OK\r\nHIDDEN\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: HIDDEN\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: HIDDEN\r\n\r\n",
		"HTTP/1.1 200 OK\r\nHID",
	} {
		s := newTestSender(t, answering(t, answer), "127.0.0.0/8")
		if err := s.send(t.Context(), message{id: "msg_1", body: []byte("{}")}); err == nil || strings.Contains(err.Error(), "HID") {
			t.Errorf("%q: send = %v; want an error without the answer", answer, err)
		}
	}
}

// An endpoint that answers an event 408 or 425, and asks for it again at once, does not use up its attempts within seconds.
func TestSender_LeavesTheBackoffOfCountedAttempts(t *testing.T) {
	t.Parallel()
	s := newTestSender(t, "https://example.com")
	for _, status := range []int{http.StatusRequestTimeout, http.StatusTooEarly} {
		err := s.judge(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"0"}}}, nil)
		if err == nil || errors.Unwrap(err) != nil {
			t.Errorf("%d: %v has a mark; want the worker's backoff", status, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"", 0, false},
		{"soon", 0, false},
		{"-1", 0, false},
		{"1.5", 0, false},
		{"0", 0, true},
		{"120", 2 * time.Minute, true},
		{"99999999999999999", maxPause, true},
		{"Sat, 21 Nov 2026 12:00:30 GMT", 30 * time.Second, true},
		{"Sat, 21 Nov 2026 11:00:00 GMT", 0, true},
		{"Sat, 21 Nov 2099 11:00:00 GMT", maxPause, true},
	} {
		if got, ok := retryAfter(tt.value, now); got != tt.want || ok != tt.ok {
			t.Errorf("retryAfter(%q) = %s, %v; want %s, %v", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}
