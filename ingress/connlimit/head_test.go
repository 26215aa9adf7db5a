package connlimit

import (
	"strings"
	"testing"
)

// A head is counted alike in whatever pieces it is read.
func TestHead_CountsLinesAndBytes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, head string
		lines      int
		ended      bool
	}{
		{"a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 2, true},
		{"lines that end with LF", "GET / HTTP/1.1\nHost: x\n\n", 2, true},
		{"both ends of lines", "GET / HTTP/1.1\r\nHost: x\n\r\n", 2, true},
		{"empty lines before the request", "\r\n\n\r\nGET / HTTP/1.1\r\n\r\n", 1, true},
		{"a CR in an empty line", "GET / HTTP/1.1\r\n\r\r\n\r\n", 2, true},
		{"a line of one letter", "GET / HTTP/1.1\r\nx\n\n", 2, true},
		{"continued lines", "GET / HTTP/1.1\r\nA: 1\r\n 2\r\n\t3\r\n\r\n", 4, true},
		{"no end", "GET / HTTP/1.1\r\nHost: x\r\n\r", 2, false},
		{"no line", "GET /", 0, false},
		{"nothing but empty lines", "\r\n\r\n\n", 0, false},
	} {
		text := tt.head
		if tt.ended {
			text += "body\n\nmore"
		}
		for size := 1; size <= len(text); size++ {
			var h head
			total, ended := 0, false
			for rest := text; len(rest) > 0 && !ended; rest = rest[min(size, len(rest)):] {
				var n int
				n, ended = h.scan([]byte(rest[:min(size, len(rest))]))
				total += n
			}
			if h.lines != tt.lines || h.bytes != len(tt.head) || total != len(tt.head) || ended != tt.ended {
				t.Errorf("%s, in pieces of %d: %d lines, %d bytes, ended %v; want %d, %d, %v",
					tt.name, size, h.lines, h.bytes, ended, tt.lines, len(tt.head), tt.ended)
			}
		}
	}
}

func BenchmarkHead(b *testing.B) {
	p := []byte("POST /webhooks/codat HTTP/1.1\r\n" + strings.Repeat("X-Some-Header: a value of some length\r\n", 15) + "\r\n" + strings.Repeat("x", 600))
	b.ReportAllocs()
	for b.Loop() {
		var h head
		if _, ended := h.scan(p); !ended {
			b.Fatal("not ended")
		}
	}
}
