package lab_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/bench/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return l
}

func start(t *testing.T, l *lab.Lab, script string) *lab.Process {
	t.Helper()
	p, err := l.Start("script", "/bin/sh", []string{"-c", script}, []string{"WORD=hello"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// says is ready when a process has printed a word.
func says(p *lab.Process, word string) func(context.Context) error {
	return func(context.Context) error {
		if !strings.Contains(p.Last(), word) {
			return errors.New("not said yet")
		}
		return nil
	}
}

func TestAProcessIsWatchedAndEnded(t *testing.T) {
	l := newLab(t)
	p := start(t, l, `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $WORD; exec sleep 1000`)
	if err := p.Await(t.Context(), says(p, "hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.Alive(); err != nil {
		t.Errorf("Alive() = %v; want nil", err)
	}
	if cpu, err := lab.CPU(p, p); err != nil || cpu <= 0 {
		t.Errorf("CPU() = %s, %v; want what counting to 200,000 takes", cpu, err)
	}
	if all, err := lab.Machine(); err != nil || all <= 0 {
		t.Errorf("Machine() = %s, %v; want some", all, err)
	}
	if now, most, err := p.Memory(); err != nil || now <= 0 || most <= 0 {
		t.Errorf("Memory() = %d, %d, %v; want some", now, most, err)
	}
	if got := p.Said("ell"); got != "hello\n" || p.Said("nothing") != "" {
		t.Errorf("Said() = %q; want the line", got)
	}
	if err := p.Forget(); err != nil || p.Last() != "" {
		t.Errorf("after Forget() = %v it has said %q; want nothing", err, p.Last())
	}
	if n := len(l.Running()); n != 1 {
		t.Errorf("%d are running; want 1", n)
	}
	if err := l.Stop(p); err != nil {
		t.Errorf("Stop() = %v", err)
	}
	if n := len(l.Running()); n != 0 {
		t.Errorf("%d are running after Stop; want none", n)
	}
	if _, err := lab.CPU(p); err == nil {
		t.Error("CPU() = nil for a process that has ended")
	}
}

func TestAwaitSaysWhyAProcessEnded(t *testing.T) {
	l := newLab(t)
	p := start(t, l, "echo no port >&2; exit 3")
	never := errors.New("never ready")
	err := p.Await(t.Context(), func(context.Context) error { return never })
	if !errors.Is(err, never) || !strings.Contains(err.Error(), "no port") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("Await() = %v; want what it printed and its exit", err)
	}
	if err := p.Alive(); err == nil || !strings.Contains(err.Error(), "no port") {
		t.Errorf("Alive() = %v; want what it printed", err)
	}
}

func TestCloseEndsAllAndRemovesTheFolder(t *testing.T) {
	parent := t.TempDir()
	l, err := lab.New(parent)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, l, "exec sleep 1000")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Alive(); err == nil {
		t.Error("a process is alive after Close")
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("Close left %v, %v; want nothing", left, err)
	}
}
