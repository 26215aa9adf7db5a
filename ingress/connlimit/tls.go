package connlimit

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// A tlsConn is a conn above TLS. net/http asks it for its ConnectionState before it reads the first request.
type tlsConn struct{ *conn }

// maxHandshake is the number of bytes that a client may send until the handshake is complete: enough for a chain of
// four certificates.
const maxHandshake = 16 << 10

// ConnectionState performs the handshake and returns its result, the zero value when it failed; then reads fail too.
func (c tlsConn) ConnectionState() tls.ConnectionState {
	t := c.Conn.(*tls.Conn)
	if err := t.Handshake(); err != nil {
		// As net/http does for a *tls.Conn.
		if re := (tls.RecordHeaderError{}); errors.As(err, &re) && re.Conn != nil && looksLikeHTTP(re.RecordHeader) {
			_, _ = io.WriteString(c.raw, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
			err = errors.New("client sent an HTTP request to an HTTPS server")
		}
		if c.listener.options.OnHandshakeError != nil {
			c.listener.options.OnHandshakeError(c.RemoteAddr(), err)
		}
		_ = c.raw.Close() // reads fail from here on
		return tls.ConnectionState{}
	}
	c.handshaken()
	return t.ConnectionState()
}

// handshaken: the time of the first request counts from here.
func (c *conn) handshaken() {
	c.raw.(*handshakeConn).complete()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
}

func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// A handshakeConn is the connection below TLS. It limits the time and the bytes of the handshake.
type handshakeConn struct {
	net.Conn
	limits limits
	begun  bool
	done   bool
	left   int
}

// Read waits for the first byte as long as an idle connection may, and then for the handshake as long as for a head.
func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.done {
		return c.Conn.Read(p)
	}
	if c.left == 0 {
		return 0, errHandshake
	}
	if !c.begun && c.limits.idle > 0 {
		if err := c.Conn.SetDeadline(time.Now().Add(c.limits.idle)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	if !c.begun && n > 0 && c.limits.head > 0 {
		err = errors.Join(err, c.Conn.SetDeadline(time.Now().Add(c.limits.head)))
	}
	c.begun = c.begun || n > 0
	return n, err
}

var errHandshake = errors.New("TLS handshake is too large")

// complete ends the limits.
func (c *handshakeConn) complete() {
	c.done = true
	_ = c.Conn.SetDeadline(time.Time{}) // it fails for a closed connection only
}

// CloseWrite closes the sending side.
func (c *handshakeConn) CloseWrite() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return nil
}
