package load

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// A Conn sends requests one after the other over a connection that stays open. It costs little, because what it costs
// is taken from what is measured.
type Conn struct {
	address string
	from    net.Addr
	nc      net.Conn // nil before the first request, and when the connection has ended
	in      *bufio.Reader
	until   time.Time
	rested  bool // nothing was sent since the deadline was set
}

// Dial makes n connections to an address; they are opened when they are used. from is where they come from, nil for
// wherever the system says.
func Dial(address string, from net.Addr, n int) []*Conn {
	conns := make([]*Conn, n)
	for i := range conns {
		conns[i] = &Conn{address: address, from: from, in: bufio.NewReaderSize(nil, 2<<10)}
	}
	return conns
}

// Close closes the connections.
func Close(conns []*Conn) {
	for _, c := range conns {
		c.drop()
	}
}

// limit gives all that is sent from now on a deadline.
func (c *Conn) limit(until time.Time) error {
	c.until, c.rested = until, true
	if c.nc == nil {
		return nil
	}
	return c.nc.SetDeadline(until)
}

func (c *Conn) drop() {
	if c.nc != nil {
		_ = c.nc.Close() // whatever was on the way is lost already
		c.nc = nil
	}
}

// Do sends a request and returns the status of its answer. A connection that ended while it rested between two loads is
// made again, as any client would.
func (c *Conn) Do(request []byte) (int, error) {
	again := c.rested && c.nc != nil
	c.rested = false
	status, err := c.do(request)
	if err != nil && again {
		status, err = c.do(request)
	}
	return status, err
}

func (c *Conn) do(request []byte) (int, error) {
	if c.nc == nil {
		nc, err := (&net.Dialer{LocalAddr: c.from, Deadline: c.until}).Dial("tcp", c.address)
		if err != nil {
			return 0, err
		}
		if err := nc.SetDeadline(c.until); err != nil {
			return 0, err
		}
		c.nc = nc
		c.in.Reset(nc)
	}
	// A server may answer, and close, before it has read the whole body: the answer counts, and not that the rest of
	// the body could not be written.
	_, sent := c.nc.Write(request)
	status, keep, err := c.answer()
	if err == nil && sent == nil && keep {
		return status, nil
	}
	c.drop()
	if err != nil && sent != nil {
		err = sent
	}
	return status, err
}

// answer reads an answer, and whether another one can follow on the connection.
func (c *Conn) answer() (status int, keep bool, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	const begin = "HTTP/1.1 204"
	if len(line) < len(begin) {
		return 0, false, fmt.Errorf("answer %q: not HTTP", line)
	}
	if status, err = strconv.Atoi(string(line[len("HTTP/1.1 "):len(begin)])); err != nil {
		return 0, false, fmt.Errorf("answer %q: not HTTP", line)
	}
	keep = true
	length := 0
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return status, false, err
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == 0:
			_, err = io.CopyN(io.Discard, c.in, int64(length))
			return status, keep, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return status, false, fmt.Errorf("answer: %w", err)
			}
		case bytes.EqualFold(name, []byte("Connection")), bytes.EqualFold(name, []byte("Transfer-Encoding")):
			keep = keep && bytes.EqualFold(value, []byte("keep-alive"))
		}
	}
}
