package connlimit

import (
	"bytes"
	"errors"
	"fmt"
)

// errProxyProtocol is the reason of a 400 whose request follows a header of the PROXY protocol.
var errProxyProtocol = errors.New("the connection begins with the PROXY protocol, which is not read: switch it off at the balancer, and let it keep the client's address or name it in X-Forwarded-For")

// proxyProtocol reports whether the first bytes of a connection are a header of the PROXY protocol, version 1 or 2.
func proxyProtocol(p []byte) bool {
	for _, begin := range []string{"PROXY TCP", "PROXY UNKNOWN", "\r\n\r\n\x00\r\nQUIT\n"} {
		if bytes.HasPrefix(p, []byte(begin)) {
			return true
		}
	}
	return false
}

// A head counts the lines and bytes of the request line and headers of a request, as net/http reads them: a line ends
// with LF or CR LF, and an empty line ends the head.
type head struct {
	lines, bytes int
	length       int  // bytes of the line that has not ended yet
	last         byte // the last of them
}

// scan reads on in p. It returns the number of bytes of p that belong to the head, and whether the head has ended.
func (h *head) scan(p []byte) (n int, ended bool) {
	for n < len(p) && !ended {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			h.length += len(p) - n
			h.last = p[len(p)-1]
			n = len(p)
			break
		}
		if end > 0 {
			h.last = p[n+end-1]
		}
		length := h.length + end
		if length == 0 || length == 1 && h.last == '\r' {
			ended = h.lines > 0 // net/http skips an empty line before a request, or refuses it
		} else {
			h.lines++
		}
		h.length = 0
		n += end + 1
	}
	h.bytes += n
	return n, ended
}

// check returns an error for a head over a limit.
func (h *head) check(l limits) error {
	switch {
	case l.headerLines > 0 && h.lines > l.headerLines+1: // and the request line
		return fmt.Errorf("%w of %d lines", errHead, l.headerLines)
	case l.headBytes > 0 && h.bytes > l.headBytes:
		return fmt.Errorf("%w of %d bytes", errHead, l.headBytes)
	}
	return nil
}
