package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
)

// A Conn sends requests one after the other over a connection that stays open. One thread drives all connections of a
// load, with no more calls of the kernel than it needs: what the generator costs is taken from what is measured.
type Conn struct {
	address *net.TCPAddr
	from    net.IP
	fd      int    // -1 when there is no connection: before the first request, and when it has ended
	out     []byte // what is not sent yet of a request
	in      []byte // what has come of an answer
	buffer  [4 << 10]byte
	rested  bool // nothing was sent since the load began
	once    bool // it ends after each request
}

// Dial makes n connections to an address of IP version 4; they are opened when they are used. from is where they come
// from, nil for wherever the system says.
func Dial(address string, from net.IP, n int) ([]*Conn, error) {
	to, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	conns := make([]*Conn, n)
	for i := range conns {
		conns[i] = &Conn{address: to, from: from, fd: -1}
	}
	return conns, nil
}

// Once has the connections end after each request: the next one opens a new connection.
func Once(conns []*Conn) {
	for _, c := range conns {
		c.once = true
	}
}

// Close closes the connections.
func Close(conns []*Conn) {
	for _, c := range conns {
		c.drop()
	}
}

func (c *Conn) drop() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd) // whatever was on the way is lost already
		c.fd = -1
	}
	c.out = nil
}

// open connects, and has poll tell of everything that happens to the connection.
func (c *Conn) open(poll int) (err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect to %s: %w", c.address, err), syscall.Close(fd))
		}
	}()
	if c.from != nil {
		from := &syscall.SockaddrInet4{Addr: [4]byte(c.from.To4())}
		if err := syscall.Bind(fd, from); err != nil {
			return err
		}
	}
	to := &syscall.SockaddrInet4{Port: c.address.Port, Addr: [4]byte(c.address.IP.To4())}
	if err := syscall.Connect(fd, to); err != nil { // at once: it is on this machine
		return err
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, events(fd)); err != nil {
		return err
	}
	c.fd, c.in = fd, c.buffer[:0]
	return nil
}

// events are told once each: that something came, that there is room to write again, that it ended.
func events(fd int) *syscall.EpollEvent {
	const once = 1 << 31 // EPOLLET
	return &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | once, Fd: int32(fd)}
}

// send sends as much of out as there is room for.
func (c *Conn) send() error {
	for len(c.out) > 0 {
		n, err := syscall.Write(c.fd, c.out)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		default:
			c.out = c.out[n:]
		}
	}
	return nil
}

// An answer is the end of a request. Its status is 0 when there was none.
type answer struct {
	status int
	keep   bool // another request can follow on the connection
	err    error
}

// receive takes what has come. It is done when that is a whole answer, or none will come.
func (c *Conn) receive() (a answer, done bool) {
	for {
		if len(c.in) == len(c.buffer) {
			return answer{err: errors.New("an answer longer than 4 KiB")}, true
		}
		n, err := syscall.Read(c.fd, c.buffer[len(c.in):])
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return answer{}, false
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return answer{err: err}, true
		case n == 0:
			return answer{err: io.ErrUnexpectedEOF}, true
		}
		c.in = c.buffer[:len(c.in)+n]
		if a, done := read(c.in); done {
			c.in = c.buffer[:0]
			return a, true
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// read reads an answer. It is done when all of it is there.
func read(text []byte) (a answer, done bool) {
	end := bytes.Index(text, headEnd)
	if end < 0 {
		return answer{}, false
	}
	const begin = "HTTP/1.1 "
	head := text[:end]
	if len(head) < len(begin)+3 {
		return answer{err: fmt.Errorf("answer %q: not HTTP", head)}, true
	}
	status, err := strconv.Atoi(string(head[len(begin) : len(begin)+3]))
	if err != nil {
		return answer{err: fmt.Errorf("answer %q: not HTTP", head)}, true
	}
	a = answer{status: status, keep: true}
	length := 0
	for line := range bytes.SplitSeq(head, headEnd[:2]) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return answer{err: fmt.Errorf("answer %q: its length is no number", head)}, true
			}
		case bytes.EqualFold(name, []byte("Connection")):
			a.keep = !bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return answer{status: status}, true // the rest does not matter
		}
	}
	return a, len(text) >= end+len(headEnd)+length
}
