//go:build faults

// Package faults breaks Headgate where it hurts, with the real binaries as processes of their own: it kills them with
// SIGKILL, freezes them, fills the stream, and counts what reaches the disk. Each test names the promise of
// docs/design.md that must hold all the same. Everything listens on loopback, and ends with the test.
package faults

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "headgate-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// binaries is the folder of what build built.
var binaries string

// sources are the packages of the programs that are not in cmd, by the name of their binary. go build makes them from these
// sources, the server from the version in go.mod.
var sources = map[string]string{
	"counter":     "github.com/headgate/headgate/test/faults/counter",
	"broker":      "github.com/headgate/headgate/test/faults/broker",
	"nats-server": "github.com/nats-io/nats-server/v2",
}

var builds = struct {
	sync.Mutex
	done map[string]error
}{done: map[string]error{}}

// build builds a program, once, and returns where it is.
func build(t testing.TB, name string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	path := filepath.Join(binaries, name)
	err, built := builds.done[name]
	if !built {
		source := cmp.Or(sources[name], "github.com/headgate/headgate/cmd/"+name)
		out, buildErr := exec.Command("go", "build", "-tags", "faults", "-o", path, source).CombinedOutput()
		if err = buildErr; err != nil {
			err = fmt.Errorf("go build %s: %w\n%s", source, err, out)
		}
		builds.done[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
