// Package flood sends what clients without a key can send to an ingress, for tests and benchmarks. It reads the memory that
// the manifest gives the ingress, and makes cgroups of that size.
package flood

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Kind is what each connection of a flood sends.
type Kind struct {
	Name  string
	begin []byte // at once
	next  []byte // then, each second, until the ingress closes the connection; nil for nothing
}

// path is the default of the setting --path.
const path = "/webhooks/codat"

// Kinds returns all kinds. What they send is valid for as long as a signature, 5 minutes by default.
func Kinds() []Kind {
	request := "POST " + path + " HTTP/1.1\r\nHost: ingress\r\n"
	signature := make([]byte, 32)
	_, _ = rand.Read(signature) // it never fails
	signed := fmt.Sprintf("webhook-id: msg_flood\r\nwebhook-timestamp: %d\r\nwebhook-signature: v1,%s\r\nContent-Length: 1000000\r\n",
		time.Now().Unix(), base64.StdEncoding.EncodeToString(signature))
	return []Kind{
		{Name: "header lines", begin: []byte(request + lines(6000, 3))},
		{Name: "slow headers", begin: []byte(request + lines(98, 150)), next: []byte("x")},
		{Name: "slow bodies", begin: append([]byte(request+signed+lines(90, 150)+"\r\n"), make([]byte, 5000)...), next: make([]byte, 100)},
		{Name: "pipelined 404s", begin: bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: ingress\r\n\r\n"), 100)},
		{Name: "empty connections"},
	}
}

// lines returns n header lines without a value, with different names of size bytes.
func lines(n, size int) string {
	var text []byte
	for i := range n {
		line := bytes.Repeat([]byte("a"), size)
		for at := size - 1; i > 0; at-- {
			line[at] += byte(i % 26)
			i /= 26
		}
		text = append(append(text, line...), ":\r\n"...)
	}
	return string(text)
}

// Options are where a flood goes, and how large it is.
type Options struct {
	Address string
	TLS     *tls.Config // nil for none
	Conns   int         // connections open at a time, as far as the ingress leaves them open
	Rate    float64     // new connections a second; 0 for as many as the machine takes
}

// A Flood runs until it is stopped.
type Flood struct {
	kind    Kind
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	begun   atomic.Int64

	mu  sync.Mutex
	due time.Time // of the next connection
}

// Start starts a flood. Its connections come from addresses of 127.0.1.0/24, which only Linux has without configuration.
// Stop it.
func Start(kind Kind, o Options) *Flood {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Flood{kind: kind, options: o, ctx: ctx, cancel: cancel, due: time.Now()}
	for n := range o.Conns {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%100))}}
		f.running.Go(func() {
			for pause(ctx, f.turn()) {
				f.connect(dialer)
			}
		})
	}
	return f
}

// Stop closes all connections.
func (f *Flood) Stop() {
	f.cancel()
	f.running.Wait()
}

// Begun returns the number of connections that have sent what their kind sends at once.
func (f *Flood) Begun() int64 { return f.begun.Load() }

// turn returns the time until a connection may be made.
func (f *Flood) turn() time.Duration {
	if f.options.Rate == 0 {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.due.Before(now) { // a flood that was late does not catch up
		f.due = now
	}
	f.due = f.due.Add(time.Duration(float64(time.Second) / f.options.Rate))
	return f.due.Sub(now)
}

// connect makes a connection and sends over it until the ingress closes it. No error matters: all are what a flood meets.
func (f *Flood) connect(dialer *net.Dialer) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", f.options.Address)
	if err != nil {
		pause(ctx, 10*time.Millisecond)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if f.options.TLS != nil {
		secure := tls.Client(conn, f.options.TLS)
		if secure.HandshakeContext(ctx) != nil {
			return
		}
		conn = secure
	}
	if _, err := conn.Write(f.kind.begin); err != nil {
		return
	}
	f.begun.Add(1)
	if f.kind.next != nil {
		f.running.Go(func() {
			for pause(ctx, time.Second) {
				if _, err := conn.Write(f.kind.next); err != nil {
					return
				}
			}
		})
	}
	_, _ = io.Copy(io.Discard, conn)
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}
