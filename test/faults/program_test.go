//go:build faults

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a condition may take on a machine that has other things to do.
const patience = 2 * time.Minute

// A program is a process that is killed, stopped, frozen and started again under the same name, with the same
// arguments and addresses.
type program struct {
	t     testing.TB
	name  string
	path  string
	args  []string
	admin string // host:port of its probes
	log   string // file
	cmd   *exec.Cmd
	lives []life
}

// A life is a program from one start to the next.
type life struct {
	pid    int
	log    int64 // where its part of the log begins
	killed bool  // by SIGKILL
}

// launch starts a program, which ends with the test at the latest. When the test fails, it shows the end of its log.
func launch(t testing.TB, name, binary, admin string, args ...string) *program {
	t.Helper()
	return launchCommand(t, name, admin, append([]string{build(t, binary)}, args...))
}

// launchCommand is launch for any command that becomes the program.
func launchCommand(t testing.TB, name, admin string, command []string) *program {
	t.Helper()
	p := &program{t: t, name: name, path: command[0], args: command[1:], admin: admin, log: filepath.Join(t.TempDir(), name+".log")}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, tail(p.log, 80))
		}
	})
	p.start()
	return p
}

// environment is this process's without what would change a program's settings.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "HEADGATE_") || strings.HasPrefix(entry, "NATS_")
	})
}

// start starts the program; it does not wait for anything.
func (p *program) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	written, err := log.Stat()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env = environment()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.lives = append(p.lives, life{pid: p.cmd.Process.Pid, log: written.Size()})
}

// kill ends the program with SIGKILL: it learns nothing of it.
func (p *program) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("kill -9 %s: %v: it had ended by itself", p.name, err)
	}
	_ = p.cmd.Wait() // it says that it was killed
	p.cmd = nil
	p.lives[len(p.lives)-1].killed = true
}

// stop ends the program with SIGTERM and returns its exit code.
func (p *program) stop() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	cmd := p.cmd
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			p.t.Fatalf("stop %s: %v", p.name, err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-ended
		p.t.Errorf("%s had not ended %v after SIGTERM", p.name, patience)
	}
	p.cmd = nil
	return cmd.ProcessState.ExitCode()
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%v to %s: %v", s, p.name, err)
	}
}

// probe asks one of the program's probes, and returns what it says; status 0 is no answer.
func (p *program) probe(path string) (status int, says string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := probes.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

var probes = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// waitReady waits until the program can take work.
func (p *program) waitReady() {
	p.t.Helper()
	path := "/readyz"
	if strings.HasPrefix(p.name, "nats") {
		path = "/healthz"
	}
	var says string
	wait(p.t, func() bool {
		var status int
		status, says = p.probe(path)
		return status == http.StatusOK
	}, func() string { return p.name + " is ready: " + says })
}

// wait returns when cond holds, and ends the test when it does not in time.
func wait(t testing.TB, cond func() bool, what func() string) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %v: %s", patience, what())
		}
	}
}

func what(s string) func() string { return func() string { return s } }

// address is a host and port on loopback that nothing listens on. It is not one of those that the system gives to
// connections: a client that tries to reach a program which is down must not reach itself.
func address(t testing.TB) string {
	t.Helper()
	for range 1000 {
		a := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if l, err := net.Listen("tcp", a); err == nil {
			l.Close()
			return a
		}
	}
	t.Fatal("no free port between 10000 and 30000")
	return ""
}

// tail is the end of a file.
func tail(name string, lines int) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	// What the server says each time that it is asked for its health hides what happened before.
	all = slices.DeleteFunc(all, func(line string) bool { return strings.Contains(line, "Healthcheck failed") })
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
