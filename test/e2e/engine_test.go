//go:build e2e

// Package e2e runs the real Dockerfile and the real docker-compose.yml on a Docker engine, without a registry, and
// breaks what runs there while events come. At the end every event that was answered 2xx is stored once and done once,
// by the audit of Headgate and by a count of our own. Then it runs the commands that docs/operate.md, docs/subscribe.md and
// docs/own-worker.md have for Compose, and those of deploy/serve/compose.yml, as they stand there. TestServe_UnderSystemd installs
// the unit of deploy/serve in a container in which systemd is process 1. What the tests make is gone when they end.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// project is the name of everything that is made here.
const project = "headgate-e2e"

// outcomes makes the workers say of every event that it is done, and not of a sample.
const outcomes = `services: {worker-connections: {environment: {HEADGATE_LOG_LEVEL: debug}}}`

// compose is docker where docker compose is docker-compose 1.29.2.
const compose = `#!/bin/sh
if [ "$1" = compose ]; then shift; exec docker-compose "$@"; fi
exec %s "$@"
`

// engine runs docker and compose in a copy of the repository, so that no secret and no file of a run gets into it.
type engine struct {
	t      *testing.T
	ctx    context.Context
	folder string
	env    []string
	before map[string]bool // images that were there, and stay
	made   []string        // images that stand in

	hearing sync.WaitGroup
	mu      sync.Mutex
	lines   map[string]bool // what was logged; each line has its own time
}

func newEngine(ctx context.Context, t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, ctx: ctx, folder: t.TempDir(), before: map[string]bool{}, lines: map[string]bool{}}
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("docker-compose"); err == nil {
		bin := t.TempDir()
		if err := os.WriteFile(filepath.Join(bin, "docker"), fmt.Appendf(nil, compose, docker), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	}
	// 1.29 gives up after a minute, on a busy machine too. A VERSION of ours would hide the one in .env.
	e.env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "VERSION=") }),
		"COMPOSE_HTTP_TIMEOUT=300", "COMPOSE_PROJECT_NAME="+project, "COMPOSE_FILE=docker-compose.yml:outcomes.yml")
	if out, err := e.try("docker", "info"); err != nil {
		t.Fatalf("no Docker engine answers: %v\n%s", err, out)
	}
	for _, id := range strings.Fields(e.docker("images", "-q", "--no-trunc")) {
		e.before[id] = true
	}
	e.copyRepository()
	e.up("down", "-v", "--remove-orphans", "-t", "0") // what is left of a run that was killed
	return e
}

// copyRepository copies what the images and compose are made of, without secrets, into a repository with the tag next.
func (e *engine) copyRepository() {
	e.t.Helper()
	for _, name := range []string{"cmd", "ingress", "workers", "pkg", "deploy"} {
		if err := os.CopyFS(filepath.Join(e.folder, name), os.DirFS(filepath.Join("../..", name))); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, name := range []string{"Dockerfile", ".dockerignore", ".gitignore", "docker-compose.yml", "go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("../..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(e.folder, name), content, 0o644)
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
	secrets := filepath.Join(e.folder, "deploy", "compose", "secrets")
	if err := os.RemoveAll(secrets); err != nil { // those of a developer
		e.t.Fatal(err)
	}
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		e.t.Fatal(err)
	}
	e.write("outcomes.yml", outcomes)
	e.write(".env", "VERSION="+project+"\n")
	for _, args := range []string{
		"init -q", "add -A", "-c user.name=e2e -c user.email=e2e@localhost commit -q -m e2e", "tag " + next, "remote add origin .",
	} {
		e.run("git", strings.Fields(args)...)
	}
}

// path is a file in the copy of the repository.
func (e *engine) path(name string) string { return filepath.Join(e.folder, name) }

func (e *engine) write(name, text string) {
	e.t.Helper()
	if err := os.MkdirAll(filepath.Dir(e.path(name)), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(e.path(name), []byte(text), 0o644); err != nil {
		e.t.Fatal(err)
	}
}

// try runs a command and returns what it prints.
func (e *engine) try(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(e.ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = e.folder, e.env, 10*time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run runs a command that has to succeed.
func (e *engine) run(name string, args ...string) string {
	e.t.Helper()
	out, err := e.try(name, args...)
	if err != nil {
		e.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (e *engine) docker(args ...string) string {
	e.t.Helper()
	return e.run("docker", args...)
}

// up is compose with arguments.
func (e *engine) up(args ...string) string {
	e.t.Helper()
	return e.docker(append([]string{"compose"}, args...)...)
}

// containers are the running containers of a service.
func (e *engine) containers(service string) []string {
	e.t.Helper()
	return strings.Fields(e.docker("ps", "-q", "--no-trunc",
		"--filter", "label=com.docker.compose.project="+project, "--filter", "label=com.docker.compose.service="+service,
		"--filter", "label=com.docker.compose.oneoff=False"))
}

// container is the only running container of a service.
func (e *engine) container(service string) string {
	e.t.Helper()
	all := e.containers(service)
	if len(all) == 0 {
		e.t.Fatalf("no container of %s runs\n%s", service, e.up("ps"))
	}
	return all[0]
}

// hear keeps what the running containers of a service have logged, and log until they end: then they may be removed.
func (e *engine) hear(service string) {
	e.t.Helper()
	for _, id := range e.containers(service) {
		cmd := exec.CommandContext(e.ctx, "docker", "logs", "--follow", id)
		e.hearing.Go(func() {
			out, _ := cmd.CombinedOutput() // what is not heard is missing in the count
			e.mu.Lock()
			defer e.mu.Unlock()
			for line := range strings.Lines(string(out)) {
				e.lines[line] = true
			}
		})
	}
}

// heard waits until the containers have ended, and returns what they said of events: how often each had each outcome.
func (e *engine) heard() map[string]map[string]int {
	e.t.Helper()
	e.hearing.Wait()
	outcomes := map[string]map[string]int{}
	for text := range e.lines {
		var line struct{ Outcome, ID string }
		if err := json.Unmarshal([]byte(text), &line); err != nil || line.Outcome == "" {
			continue // of something else
		}
		if outcomes[line.Outcome] == nil {
			outcomes[line.Outcome] = map[string]int{}
		}
		outcomes[line.Outcome][line.ID]++
	}
	return outcomes
}

// healthy waits until all containers of a service are.
func (e *engine) healthy(service string, count int) {
	e.t.Helper()
	e.wait(fmt.Sprintf("%d healthy containers of %s", count, service), func() bool {
		all := e.containers(service)
		if len(all) != count {
			return false
		}
		for _, id := range all {
			if e.docker("inspect", "-f", "{{.State.Health.Status}}", id) != "healthy" {
				return false
			}
		}
		return true
	})
}

// wait returns when cond holds; the whole run has a deadline of its own.
func (e *engine) wait(what string, cond func() bool) {
	e.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			running, _ := e.try("docker", "ps", "-a")
			e.t.Fatalf("not within three minutes: %s\n%s", what, running)
		case <-e.ctx.Done():
			e.t.Fatalf("out of time while waiting for %s", what)
		}
	}
}

// load gives the engine an image, whose files write puts under a folder, unless it has one of that name.
func (e *engine) load(image string, settings []string, write func(folder string)) {
	e.t.Helper()
	if _, err := e.try("docker", "image", "inspect", image); err == nil {
		return
	}
	folder, err := os.MkdirTemp("", "headgate-image-")
	if err != nil {
		e.t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	write(folder)
	args := []string{"import"}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	tar := exec.CommandContext(e.ctx, "tar", "-C", folder, "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf", "-", ".")
	docker := exec.CommandContext(e.ctx, "docker", append(args, "-", image)...)
	var said bytes.Buffer
	tar.Stderr, docker.Stderr = &said, &said
	pipe, err := tar.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	docker.Stdin = io.Reader(pipe)
	if err := tar.Start(); err != nil {
		e.t.Fatal(err)
	}
	if err := docker.Run(); err != nil {
		e.t.Fatalf("make the image %s: %v\n%s", image, err, said.String())
	}
	if err := tar.Wait(); err != nil {
		e.t.Fatalf("make the image %s: %v\n%s", image, err, said.String())
	}
	e.made = append(e.made, image)
}
