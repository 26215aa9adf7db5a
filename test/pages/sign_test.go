//go:build faults

package pages

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// The programs of docs/sign.md sign requests that headgate dev accepts.
func TestSign_PageSignsWhatTheIngressAccepts(t *testing.T) {
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	headgate, folder := repository{t, here}, repository{t, t.TempDir()}
	headgate.run(".", nil, "go", "build", "-o", folder.folder, "./cmd/headgate")
	out := folder.dev()
	webhook := regexp.MustCompile(`webhook +(\S+)`).FindStringSubmatch(out.String())
	if webhook == nil {
		t.Fatalf("no webhook in\n%s", out)
	}
	env := []string{"URL=" + webhook[1], "KEY=" + folder.read(".headgate/secret")}

	blocks := regexp.MustCompile("(?s)```(sh|python)\n(.*?)```").FindAllStringSubmatch(headgate.read("docs/sign.md"), -1)
	if len(blocks) != 3 || !strings.HasPrefix(blocks[0][2], "URL=") {
		t.Fatalf("docs/sign.md has %d programs; want the variables and two", len(blocks))
	}
	for _, b := range blocks[1:] {
		command := map[string][]string{"sh": {"sh", "-euc"}, "python": {"python3", "-c"}}[b[1]]
		cmd := exec.Command(command[0], command[1], b[2])
		cmd.Dir, cmd.Env = folder.folder, append(os.Environ(), env...)
		got, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(got)) != "204" {
			t.Errorf("the %s of docs/sign.md ends with %v and prints %q; want 204\n%s", b[1], err, got, out)
		}
	}
}

// A screen is what a running program prints.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// dev runs headgate dev in the folder until the test ends, and returns what it prints once it is ready.
func (r repository) dev(flags ...string) *screen {
	r.t.Helper()
	flags = append([]string{"dev", "--no-examples", "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, flags...)
	cmd := exec.Command(r.path("headgate"), flags...)
	cmd.Dir = r.folder
	out := new(screen)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			r.t.Errorf("stop headgate dev: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("headgate dev ends with %v\n%s", err, out)
		}
	})
	r.wait("headgate dev is ready", func() bool { return strings.Contains(out.String(), "Next") })
	return out
}
