// Command ready asks the Headgate process in the same container for /readyz. It exits 0 when the process is ready; otherwise it
// prints why not and exits 1. With -v it prints the answer, every check and its result, also when the process is ready. It is
// the health check of container engines: the images have no shell and no HTTP client.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// patience is shorter than the time-out of the health check in docker-compose.yml.
const patience = 4 * time.Second

func main() {
	verbose := len(os.Args) == 2 && os.Args[1] == "-v"
	if len(os.Args) > 1 && !verbose {
		fmt.Fprintln(os.Stderr, "usage: ready [-v]")
		os.Exit(2)
	}
	answer, err := ready(os.Getenv("HEADGATE_ADMIN_LISTEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if verbose {
		fmt.Println(answer)
	}
}

// ready asks the process with this --admin-listen; "" is its default. It returns the text of the answer when the process is
// ready, and otherwise an error with it. It writes the request by hand, because net/http would make the program several times
// as large.
func ready(adminListen string) (string, error) {
	if adminListen == "" {
		adminListen = ":9090"
	}
	conn, err := net.DialTimeout("tcp", adminListen, patience) // an address without a host is this host
	if err != nil {
		return "", fmt.Errorf("is it running? %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprint(conn, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if err != nil {
		return "", err
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	if _, code, _ := strings.Cut(status, " "); !strings.HasPrefix(code, "200") {
		return "", fmt.Errorf("%s\n%s", status, strings.TrimSpace(body))
	}
	return strings.TrimSpace(body), nil
}
