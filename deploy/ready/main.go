// Command ready asks the Headgate process beside it whether it is ready: it exits 0 when it is, and else says why not
// and exits 1. It is for container engines that look inside a container, since our images have neither a shell nor
// an HTTP client.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// patience is less than the time that an engine gives a health check.
const patience = 4 * time.Second

func main() {
	if err := ready(os.Getenv("HEADGATE_ADMIN_LISTEN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ready asks the process that has this address as its --admin-listen; "" is the default. It speaks just enough HTTP
// for one question, because an HTTP client would be larger than the rest of this program by far.
func ready(adminListen string) error {
	if adminListen == "" {
		adminListen = ":9090"
	}
	conn, err := net.DialTimeout("tcp", adminListen, patience) // without a host, it is this one
	if err != nil {
		return fmt.Errorf("is it running? %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if err != nil {
		return err
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	if _, code, _ := strings.Cut(status, " "); !strings.HasPrefix(code, "200") {
		return fmt.Errorf("%s\n%s", status, strings.TrimSpace(body))
	}
	return nil
}
