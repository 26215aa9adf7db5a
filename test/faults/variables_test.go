//go:build faults

package faults

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The variable of a later version in a shared environment does not stop a program of today, and one of its own that
// does not parse does.
func TestPrograms_StartWithUnknownVariable(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t)
	for _, name := range []string{"headgate", "ingress", "worker-connections"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := build(t, name)
			cmd := exec.Command(path)
			cmd.Env = []string{"HOME=" + t.TempDir(), "HEADGATE_LATER=1", "NATS_URL=" + server.URL, "HEADGATE_PROVISION=true"}
			bad := exec.Command(path)
			switch {
			case name == "headgate":
				cmd.Args = append(cmd.Args, "send", "--list")
				bad.Args = append(bad.Args, "workers")
				bad.Env = []string{"HEADGATE_LATER=1", "HEADGATE_CONNECT_TIMEOUT=soon"}
			case name == "ingress":
				cmd.Args = append(cmd.Args, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-delay=0s", "--secret=whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0")
				bad.Env = []string{"HEADGATE_LATER=1", "HEADGATE_MAX_BODY=lots"}
			default:
				cmd.Args = append(cmd.Args, "--admin-listen=127.0.0.1:0")
				bad.Env = []string{"HEADGATE_LATER=1", "HEADGATE_CONCURRENCY=lots"}
			}
			if got := warnings(t, cmd, name != "headgate"); got != 1 {
				t.Errorf("%s warned %d times of HEADGATE_LATER; want 1", name, got)
			}

			_, variable, _ := strings.Cut(bad.Env[1], "_")
			variable, _, _ = strings.Cut("HEADGATE_"+variable, "=")
			out, _ := bad.CombinedOutput()
			if code := bad.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(out), variable) {
				t.Errorf("with %s, %s exits with %d and writes %q; want 2 and the variable", bad.Env[1], name, code, out)
			}
		})
	}
}

// warnings runs a program and returns the number of its lines that warn of HEADGATE_LATER. A program that serves is
// stopped once it is ready. The test fails unless the program exits with 0.
func warnings(t *testing.T, cmd *exec.Cmd, serves bool) int {
	t.Helper()
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(log)
	var all strings.Builder
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		var line struct{ Msg, Address string }
		if serves && json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "admin listener" {
			streamtest.Wait(t, func() bool { return ready(line.Address) }, filepath.Base(cmd.Path)+" is ready")
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v; it wrote\n%s", filepath.Base(cmd.Path), err, &all)
	}
	return strings.Count(all.String(), "unknown environment variable HEADGATE_LATER")
}

func ready(address string) bool {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + address + "/readyz")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}
