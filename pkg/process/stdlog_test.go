package process

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// lines is a writer of lines that a test waits for.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// What a server sends beyond its answer, such as the body of a 204, is not in the log of a program.
func TestUnquoted_CutsWhatNetHTTPQuotes(t *testing.T) {
	if got, want := fmt.Sprintf("%T", log.Writer()), fmt.Sprintf("%T", unquoted{}); got != want {
		t.Errorf("the standard logger writes to a %s; want a %s", got, want)
	}
	written := make(lines, 10)
	before := log.Writer()
	log.SetOutput(unquoted{written})
	defer log.SetOutput(before)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\nHIDDEN")
		_, _ = io.Copy(io.Discard, conn) // until the client closes it
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if line := <-written; strings.Contains(line, "HIDDEN") || !strings.HasSuffix(line, string(unsolicited)+"\n") {
		t.Errorf("the line is %q", line)
	}
	var out bytes.Buffer
	if n, err := (unquoted{&out}).Write([]byte("another line\n")); n != 13 || err != nil || out.String() != "another line\n" {
		t.Errorf("Write = %d, %v, and wrote %q", n, err, out.String())
	}
}
