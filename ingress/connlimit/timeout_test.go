package connlimit

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A pipeListener accepts connections in memory, which have deadlines in virtual time.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A pipeServer is an http.Server behind a Listener on a pipeListener.
type pipeServer struct {
	pipeListener
	tls        *tls.Config
	handshakes atomic.Int64 // that failed
	incomplete atomic.Value // the last error of a connection without a complete request
}

// servePipes serves until the bubble's test ends, with the ingress's default timeouts. The handler answers 204, or 408 when the
// body does not come in time.
func servePipes(t *testing.T, o Options, encrypted bool) *pipeServer {
	t.Helper()
	s := &pipeServer{pipeListener: pipeListener{make(chan net.Conn), make(chan struct{})}}
	if encrypted {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		o.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.tls = &tls.Config{InsecureSkipVerify: true}
	}
	o.Limit = 99
	o.OnHandshakeError = func(net.Addr, error) { s.handshakes.Add(1) }
	o.OnIncomplete = func(_ net.Addr, err error) { s.incomplete.Store(fmt.Sprint(err)) }
	l := Listen(s, o)
	server := &http.Server{
		ReadHeaderTimeout: 3 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 13 * time.Second, IdleTimeout: 2 * time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			RequestSeen(req)
			switch _, err := io.Copy(io.Discard, req.Body); {
			case err != nil:
				w.WriteHeader(http.StatusRequestTimeout)
			case (req.TLS != nil) != encrypted:
				w.WriteHeader(http.StatusInternalServerError)
			default:
				if Pipelined(req) {
					w.Header().Set("Connection", "close")
				}
				w.WriteHeader(http.StatusNoContent)
			}
		}),
	}
	l.Attach(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return s
}

// connect returns a connection, before any handshake.
func (s *pipeServer) connect(t *testing.T) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	s.conns <- there
	return here
}

// secure returns the connection as the client uses it, after the handshake when there is one.
func (s *pipeServer) secure(t *testing.T, nc net.Conn) net.Conn {
	t.Helper()
	if s.tls == nil {
		return nc
	}
	c := tls.Client(nc, s.tls)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// eachTransport runs a test in virtual time without TLS and with it.
func eachTransport(t *testing.T, test func(t *testing.T, encrypted bool)) {
	t.Helper()
	for name, encrypted := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, encrypted) })
		})
	}
}

func wantStatus(t *testing.T, what string, in *bufio.Reader, want int) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s: %v, %v; want %d", what, resp, err, want)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

func send(t *testing.T, nc net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
}

const whole = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"

// A connection that is opened ahead of its first request is answered whenever the request comes within the idle time-out, as
// is one between two requests.
func TestListener_AnswersAConnectionThatWasSilentAtFirst(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, encrypted bool) {
		s := servePipes(t, Options{}, encrypted)
		for _, silence := range []time.Duration{0, 4 * time.Second, time.Minute, 119 * time.Second} {
			nc := s.connect(t)
			if encrypted {
				time.Sleep(silence) // before the handshake
			}
			nc = s.secure(t, nc)
			in := bufio.NewReader(nc)
			for range 3 {
				time.Sleep(silence)
				send(t, nc, whole[:1])
				time.Sleep(2 * time.Second)
				send(t, nc, whole[1:len(whole)-2])
				time.Sleep(2 * time.Second)
				send(t, nc, whole[len(whole)-2:])
				wantStatus(t, fmt.Sprint("after ", silence), in, http.StatusNoContent)
			}
		}
	})
}

// The idle time-out holds until the first byte; those of the head and of the whole request count from it.
func TestListener_EndsSlowRequests(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, encrypted bool) {
		s := servePipes(t, Options{}, encrypted)
		for _, tt := range []struct {
			name, text string
			want       time.Duration // from the text to the end
		}{
			{"nothing", "", 2 * time.Minute},
			{"a byte", "P", 3 * time.Second},
			{"no end of the head", "POST / HTTP/1.1\r\nHost: x\r\n", 3 * time.Second},
			{"no end of the body", whole[:len(whole)-1], 5 * time.Second},
		} {
			for _, second := range []bool{false, true} {
				nc := s.secure(t, s.connect(t))
				in := bufio.NewReader(nc)
				if second {
					send(t, nc, whole)
					wantStatus(t, "the first request", in, http.StatusNoContent)
				}
				silence := time.Minute
				if tt.text == "" {
					silence = 0
				}
				time.Sleep(silence)
				began := time.Now()
				if tt.text != "" {
					send(t, nc, tt.text)
				}
				_, err := io.Copy(io.Discard, in)
				if took := time.Since(began); took < tt.want || took > tt.want+time.Second || err != nil {
					t.Errorf("%s, second request: %v: the connection ended after %v, %v; want %v", tt.name, second, took, err, tt.want)
				}
			}
		}
		if !encrypted {
			return
		}
		for text, want := range map[string]time.Duration{"": 2 * time.Minute, "\x16\x03\x01": 3 * time.Second} {
			nc := s.connect(t)
			began, failed := time.Now(), s.handshakes.Load()
			if text != "" {
				send(t, nc, text)
			}
			_, _ = io.Copy(io.Discard, nc)
			if took := time.Since(began); took != want || s.handshakes.Load() != failed+1 {
				t.Errorf("a handshake of %q ended after %v, %d failed; want %v, counted once", text, took, s.handshakes.Load()-failed, want)
			}
		}
	})
}

// The lines and bytes of headers are limited however they arrive, on every request of a connection, and before net/http
// stores them.
func TestListener_LimitsHeaders(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, encrypted bool) {
		s := servePipes(t, Options{HeaderLines: 100, HeaderBytes: 16 << 10}, encrypted)
		var lines strings.Builder
		for i := range 4000 {
			fmt.Fprintf(&lines, "%03x:\r\n", i)
		}
		head := func(n int, padding int) string {
			begin := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
			return begin + lines.String()[:6*(n-3)] + "P: " + strings.Repeat("x", padding-5-len(begin)-6*(n-3)-2) + "\r\n\r\n"
		}
		for _, tt := range []struct {
			name, text string
			want       int
		}{
			{"as many lines as the limit", head(100, 10000), 204},
			{"a line more", head(101, 10000), 431},
			{"as many bytes as the limit", head(20, 16<<10), 204},
			{"a byte more", head(20, 16<<10+1), 431},
			{"a flood of lines without an end", "POST / HTTP/1.1\r\n" + lines.String(), 431},
			{"a flood of continued lines", "POST / HTTP/1.1\r\nHost: x\r\nA: b\r\n" + strings.Repeat(" \r\n", 4000), 431},
			{"a flood of empty lines", strings.Repeat("\r\n", 1<<14), 400},
		} {
			for _, second := range []bool{false, true} {
				for _, piece := range []int{7, 1 << 20} {
					nc := s.secure(t, s.connect(t))
					in := bufio.NewReader(nc)
					if second {
						send(t, nc, whole)
						wantStatus(t, "the first request", in, http.StatusNoContent)
						synctest.Wait() // a byte that comes before net/http is idle may not be counted
					}
					go func() {
						for text := tt.text; len(text) > 0; text = text[min(piece, len(text)):] {
							if _, err := io.WriteString(nc, text[:min(piece, len(text))]); err != nil {
								return
							}
						}
					}()
					wantStatus(t, tt.name, in, tt.want)
					nc.Close()
				}
			}
		}
		synctest.Wait()
		if got := s.incomplete.Load(); got != "<nil>" && !strings.Contains(fmt.Sprint(got), "over the limit") {
			t.Errorf("reported %v", got)
		}
	})
}

// net/http holds 4 KiB of what follows a request, whose lines are not counted: its connection ends.
func TestPipelined_ReportsMoreThanTheRequest(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, encrypted bool) {
		s := servePipes(t, Options{}, encrypted)
		for _, tt := range []struct {
			name, text string
			closes     bool
		}{
			{"a request", whole, false},
			{"a request without a body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", false},
			{"a byte more", whole + "P", true},
			{"a byte more without a body", "GET / HTTP/1.1\r\nHost: x\r\n\r\nP", true},
			{"a body whose length is not announced", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		} {
			for _, piece := range []int{3, 1 << 20} {
				nc := s.secure(t, s.connect(t))
				go func() {
					for text := tt.text; len(text) > 0; text = text[min(piece, len(text)):] {
						if _, err := io.WriteString(nc, text[:min(piece, len(text))]); err != nil {
							return
						}
					}
				}()
				if got := wantStatus(t, tt.name, bufio.NewReader(nc), http.StatusNoContent); got.Close != tt.closes && (piece > 3 || !tt.closes) {
					t.Errorf("%s, in pieces of %d: the connection closes: %v; want %v", tt.name, piece, got.Close, tt.closes)
				}
				nc.Close()
			}
		}
	})
}

// A client cannot make a connection hold a large handshake.
func TestListener_LimitsHandshakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := servePipes(t, Options{}, true)
		nc := s.connect(t)
		record := "\x16\x03\x01\x20\x00" + "\x01\x00\xff\xf0" + strings.Repeat("x", 8192-4) // the first part of 64 KiB
		n, err := io.WriteString(nc, record+strings.Repeat("\x16\x03\x01\x20\x00"+strings.Repeat("x", 8192), 7))
		if n > maxHandshake || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the server read %d bytes of a handshake, %v; want %d at most", n, err, maxHandshake)
		}
		synctest.Wait()
		if s.handshakes.Load() != 1 {
			t.Errorf("%d handshakes failed; want 1", s.handshakes.Load())
		}
	})
}
