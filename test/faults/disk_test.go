//go:build faults

package faults

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// synced matches a call that waited for the disk, when it has returned: strace writes one line for it, or two.
var synced = regexp.MustCompile(`(?m)(fsync|fdatasync)(\(.*| resumed>.*)\) += 0`)

// What is acknowledged is on the disk, and not only in the page cache, where it survives every kill and no power cut:
// when the ack of the n-th event comes, the server of headgate dev has waited for the disk n times. Only one that was
// told to be lazy has not.
func TestPromise1_AnAckMeansThatTheDiskHasIt(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed, and nothing else can tell what reached the disk")
	}
	const events = 50
	t.Run("always", func(t *testing.T) {
		before, after := publishUnderStrace(t, events)
		for n := range after {
			if got := after[n] - before; got < n+1 {
				t.Fatalf("the disk was waited for %d times when event %d was acknowledged; want %d or more", got, n+1, n+1)
			}
		}
	})
	t.Run("lazily", func(t *testing.T) {
		before, after := publishUnderStrace(t, events, "-lazy")
		if got := after[events-1] - before; got > events/5 {
			t.Errorf("a lazy server waited for the disk %d times for %d events: then the count says nothing", got, events)
		}
	})
}

// publishUnderStrace stores events one after the other, and returns how often the server had waited for the disk before
// the first and after each of them.
func publishUnderStrace(t *testing.T, events int, args ...string) (before int, after []int) {
	t.Helper()
	calls := filepath.Join(t.TempDir(), "calls")
	cmd := exec.Command("strace", append([]string{
		"-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", calls,
		build(t, "broker"), "-dir", t.TempDir(),
	}, args...)...)
	cmd.Env = environment()
	// strace does not pass a SIGTERM on: both are one process group, which gets the signal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it says that it was killed
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}

	js := connect(t, strings.TrimSpace(url))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := stream.Provision(ctx, js, stream.Layout{Source: source}, false); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		text, err := os.ReadFile(calls)
		if err != nil {
			t.Fatal(err)
		}
		return len(synced.FindAll(text, -1))
	}
	publish := func(id string) {
		if _, err := js.Publish(ctx, "codat.events.company.created", []byte("{}"), jetstream.WithMsgID(id)); err != nil {
			t.Fatalf("publish %s: %v", id, err)
		}
	}
	publish("the first one makes files")
	before = count()
	for n := range events {
		publish(string(rune('a'+n/26)) + string(rune('a'+n%26)))
		after = append(after, count())
	}
	return before, after
}
