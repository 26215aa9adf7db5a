//go:build faults

package pages

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// beside runs headgate dev, and returns its folder, in which bin/headgate is, and the environment by which programs find it,
// and the stand-in for Codat if it runs.
func beside(t *testing.T, flags ...string) (r repository, env []string) {
	t.Helper()
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r = repository{t, t.TempDir()}
	repository{t, here}.run(".", nil, "go", "build", "-o", r.path("bin/headgate"), "./cmd/headgate")
	if err := os.Symlink("bin/headgate", r.path("headgate")); err != nil {
		t.Fatal(err)
	}
	out := r.dev(flags...).String()
	for variable, line := range map[string]string{"HEADGATE_TO": `webhook +(\S+)`, "NATS_URL": `NATS +(\S+)`} {
		found := regexp.MustCompile(line).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("headgate dev does not print %s:\n%s", line, out)
		}
		env = append(env, variable+"="+found[1])
	}
	if found := regexp.MustCompile(`Codat +(\S+), .* key is in (\S+)`).FindStringSubmatch(out); found != nil {
		env = append(env, "HEADGATE_CODAT_URL="+found[1], "HEADGATE_CODAT_KEY_FILE="+r.path(found[2]))
	}
	return r, env
}

// begin starts a command in the folder and returns what it prints. It is killed at the end of the test.
func (r repository) begin(env []string, name string, args ...string) (*exec.Cmd, *screen) {
	r.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = r.folder, append(os.Environ(), env...)
	out := new(screen)
	cmd.Stdout, cmd.Stderr = out, io.Discard
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, out
}

// The commands of the README's first minutes work as they are typed.
func TestREADME_CommandsWorkAsTyped(t *testing.T) {
	r, env := beside(t)
	_, block, _ := strings.Cut(repository{t, "../.."}.read("README.md"), "In a second terminal:\n\n```sh\n")
	block, _, ok := strings.Cut(block, "```")
	commands := strings.Split(strings.TrimSpace(block), "\n")
	if !ok || len(commands) < 5 {
		t.Fatalf("README.md has no commands for a second terminal: %q", commands)
	}
	for _, line := range commands {
		command, _, _ := strings.Cut(line, "#")
		command = strings.TrimSpace(command)
		if command == "bin/headgate tail" { // it ends with an interrupt
			cmd, out := r.begin(env, "bin/headgate", "tail")
			r.wait("headgate tail shows an event", func() bool {
				r.run(".", env, "bin/headgate", "send", "connection.connected")
				return strings.Contains(out.String(), "connection.connected")
			})
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s ends with %v", command, err)
			}
			continue
		}
		r.run(".", env, "sh", "-ec", command)
	}
}

// The Go programs of docs/subscribe.md, with the names that they leave open.
func TestSubscribe_GoProgramsWork(t *testing.T) {
	r, env := beside(t)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(repository{t, "../.."}.read("docs/subscribe.md"), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/subscribe.md has %d Go programs; want the subscription and the state", len(blocks))
	}
	program := func(name, imports, before, block string) *screen {
		file := name + ".go"
		r.write(file, `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/stream"
`+imports+`)

func main() {
	ctx, log := context.Background(), zap.NewNop()
	nc, err := stream.Connect(ctx, stream.NATS{NATSURL: os.Getenv("NATS_URL")}, "billing", log)
	if err != nil {
		panic(err)
	}
	`+before+block+`
	fmt.Println("ended", err)
}
`)
		repository{t, "../.."}.run(".", nil, "go", "build", "-pgo=off", "-o", r.path(name), r.path(file))
		_, out := r.begin(env, r.path(name))
		return out
	}

	state := program("state", "", "js, err := jetstream.New(nc)\ncompanyID := \"c0ffee00-0000-4000-8000-00000000000a\"\n", blocks[1][1])
	r.wait("the state of a connection is shown", func() bool {
		r.run(".", env, "bin/headgate", "send", "connection.connected")
		return strings.Contains(state.String(), `"status":"Linked"`)
	})
	events := program("events", "\t\"github.com/headgate/headgate/pkg/codat\"\n",
		"book := func(_ context.Context, id string, w codat.Write) error { fmt.Println(id, w.PushOperationKey()); return nil }\n", blocks[0][1])
	r.wait("an event is booked", func() bool {
		r.run(".", env, "bin/headgate", "send", "directCosts.write.successful")
		return strings.Contains(events.String(), "msg_")
	})
}
