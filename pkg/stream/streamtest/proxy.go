package streamtest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP connection that can break: it stands between a client and a server, and cuts or silences what goes
// through it.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    bool
	muted  bool
	delay  time.Duration
	rate   int           // bytes a second from the server; 0 without a limit
	stall  chan struct{} // closed when Stall ends; nil at other times
	conns  map[net.Conn]bool
}

// NewProxy listens on 127.0.0.1 and forwards to target, a host:port. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{listener: l, target: target, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Addr is the host and port at which the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL is the address for NATS clients.
func (p *Proxy) URL() string { return "nats://" + p.Addr() }

// Forward changes the server behind the proxy, for connections to come.
func (p *Proxy) Forward(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Cut breaks all connections and takes no new ones, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.release()
	p.breakAll()
}

// Mute swallows what the server says to its clients, until Heal: they are heard, and do not hear.
func (p *Proxy) Mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = true
}

// Delay lets what the server says come to its clients later by at least this much, until Heal.
func (p *Proxy) Delay(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = by
}

// Limit lets pass this many bytes a second of what the server says, until Heal.
func (p *Proxy) Limit(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
}

// Stall takes nothing more from the clients, until Heal: what they send fills the buffers in between.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall = make(chan struct{})
}

func (p *Proxy) release() {
	if p.stall != nil {
		close(p.stall)
		p.stall = nil
	}
}

// stalled waits for the end of a Stall.
func (p *Proxy) stalled() {
	p.mu.Lock()
	stall := p.stall
	p.mu.Unlock()
	if stall != nil {
		<-stall
	}
}

// Heal ends Cut, Mute, Delay, Limit and Stall. Connections that were mute are broken: they have missed something.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.muted {
		p.breakAll()
	}
	p.cut, p.muted, p.delay, p.rate = false, false, 0, 0
	p.release()
}

func (p *Proxy) breakAll() {
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *Proxy) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

func (p *Proxy) isMuted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.muted
}

// delayed returns how long n bytes of the server are under way.
func (p *Proxy) delayed(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 {
		return p.delay
	}
	return p.delay + time.Duration(n)*time.Second/time.Duration(p.rate)
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	if !p.keep(client) {
		return
	}
	defer p.drop(client)
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	p.wg.Go(func() {
		p.pipe(server, client, func(int) bool {
			p.stalled()
			return false
		})
	})
	p.pipe(client, server, func(n int) bool {
		if by := p.delayed(n); by > 0 {
			<-time.After(by)
		}
		return p.isMuted()
	})
}

// keep notes a connection, so that Cut finds it; a proxy that is cut keeps none.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

// pipe copies until one side is closed, and then closes both.
func (p *Proxy) pipe(to, from net.Conn, swallow func(n int) bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if swallow(n) {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
