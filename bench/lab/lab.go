// Package lab builds, starts, watches and ends the processes that are measured. Whatever it started has ended when the
// lab is closed, and their files are gone.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// patience is how long a process may take to be ready, or to end when it is told to.
const patience = 30 * time.Second

// Lab is a folder with programs, and the processes that run.
type Lab struct {
	dir       string
	programs  string
	processes []*Process
	others    []string // folders elsewhere
	made      int
}

// New makes a lab in a new folder under dir, in the folder for temporary files when dir is empty.
func New(dir string) (*Lab, error) {
	dir, err := os.MkdirTemp(dir, "headgate-bench-")
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: dir, programs: filepath.Join(dir, "bin")}
	return l, os.Mkdir(l.programs, 0o700)
}

// Close ends all processes and removes their folders.
func (l *Lab) Close() error {
	err := l.Stop(l.processes...)
	for _, dir := range append(l.others, l.dir) {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Dir makes a new folder in the lab.
func (l *Lab) Dir(name string) (string, error) {
	l.made++
	dir := filepath.Join(l.dir, fmt.Sprintf("%s-%d", name, l.made))
	return dir, os.Mkdir(dir, 0o700)
}

// Build builds the main package in folder, stripped as for an image, and returns the program.
func (l *Lab) Build(ctx context.Context, folder, name, of string) (string, error) {
	program := filepath.Join(l.programs, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-C", folder, "-trimpath", "-ldflags", "-s -w", "-o", program, of)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", of, err, out)
	}
	return program, nil
}

// A Process is a program that runs.
type Process struct {
	Name string
	PID  int

	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error
}

// Start starts a program with more arguments and variables. What it prints goes to a file, as a container's does. It is
// killed when this process dies.
func (l *Lab) Start(name, program string, args, env []string) (*Process, error) {
	return l.start(name, program, args, env, "", &syscall.SysProcAttr{})
}

func (l *Lab) start(name, program string, args, env []string, dir string, attr *syscall.SysProcAttr) (*Process, error) {
	l.made++
	log, err := os.OpenFile(filepath.Join(l.dir, fmt.Sprintf("%s-%d.log", name, l.made)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = dir
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	p := &Process{Name: name, PID: cmd.Process.Pid, cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	l.processes = append(l.processes, p)
	return p, nil
}

// Stop tells processes to end, and waits until they have. The error says which had to be killed, or ended on their own.
func (l *Lab) Stop(processes ...*Process) error {
	processes = slices.Clone(processes)
	for _, p := range processes {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	var all error
	for _, p := range processes {
		select {
		case <-p.ended:
		case <-time.After(patience):
			_ = p.cmd.Process.Kill() // it may have ended
			<-p.ended
			all = errors.Join(all, fmt.Errorf("%s did not end within %s and was killed", p.Name, patience))
		}
		all = errors.Join(all, p.log.Close())
		l.processes = slices.DeleteFunc(l.processes, func(other *Process) bool { return other == p })
	}
	return all
}

// Running are all processes that were started and not stopped.
func (l *Lab) Running() []*Process { return slices.Clone(l.processes) }

// Alive reports a process that has ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended: %v\n%s", p.Name, p.err, p.Last())
	default:
		return nil
	}
}

// Forget empties what the process has printed.
func (p *Process) Forget() error { return p.log.Truncate(0) }

// Printed is how many bytes the process has printed since it was told to forget.
func (p *Process) Printed() (int64, error) {
	info, err := p.log.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Last is the end of what the process has printed.
func (p *Process) Last() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// Said returns the first line that the process has printed with a word in it, or "".
func (p *Process) Said(word string) string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(word)) {
			return string(line)
		}
	}
	return ""
}

// Await calls ready until it returns no error, the process has ended, or half a minute is over.
func (p *Process) Await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, end := context.WithTimeout(ctx, patience/10) // a cluster without a leader does not answer at all
		err := ready(try)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %w\n%s", p.Name, errors.Join(err, p.err), p.Last())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.Name, err, p.Last())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Answers is ready when an address answers GET with 200.
func Answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, res.Status)
		}
		return nil
	}
}

// Listens is ready when somebody listens at an address.
func Listens(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return nc.Close()
	}
}

// Address is one on the loopback at which nobody listens.
func Address() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
