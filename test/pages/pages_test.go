//go:build faults

// Package pages follows README.md and pages of docs. Of add-a-worker.md it makes the worker in a copy of the repository, tests it,
// runs it on a server with its own permissions, and finds it in the deployment's files. It needs a minute.
package pages

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	source = stream.Source("codat")
	// worker is the name of the page's worker.
	worker = "failures"
	// patience bounds each command and each wait.
	patience = 5 * time.Minute
)

// A repository is a copy of this one.
type repository struct {
	t      *testing.T
	folder string
}

// copyRepository copies what is in the working tree, without what was built and without secrets.
func copyRepository(t *testing.T) repository {
	t.Helper()
	r := repository{t, t.TempDir()}
	from, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch name {
		case ".git", ".headgate", "bin", "deploy/compose/secrets":
			return fs.SkipDir
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(r.path(name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(r.path(name), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r repository) path(name string) string { return filepath.Join(r.folder, name) }

func (r repository) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func (r repository) write(name, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// run runs a command in a folder of the repository. It must exit 0.
func (r repository) run(folder string, env []string, name string, args ...string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.path(folder)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

// file is a file on the page: a heading with its path, and the first block of code after it.
var file = regexp.MustCompile("(?ms)^### \\d+\\. `([^`]+)`\n.*?^```[a-z]+\n(.*?)^```$")

// writeFiles writes the files of docs/add-a-worker.md with the page's first command.
func (r repository) writeFiles() {
	r.t.Helper()
	r.run(".", nil, "go", "run", "-pgo=off", "./cmd/headgate", "new", "worker", worker)
	for _, f := range file.FindAllStringSubmatch(r.read("docs/add-a-worker.md"), -1) {
		if text := r.read(f[1]); text != f[2] && f[1] != "workers/builtin/builtin.go" {
			r.t.Fatalf("%s is\n%s\nand not as on the page", f[1], text)
		}
	}
}

// serve starts a NATS server with the repository's configuration and the keys in secrets, on a free port.
func (r repository) serve(secrets string) *server.Server {
	r.t.Helper()
	root := r.t.TempDir()
	for link, to := range map[string]string{"config": r.path("deploy/nats"), "keys": filepath.Join(secrets, "nats")} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			r.t.Fatal(err)
		}
	}
	r.t.Setenv("NATS_SERVER_NAME", "nats")
	r.t.Setenv("NATS_MAX_FILE_STORE", "8GB")
	options, err := server.ProcessConfigFile(filepath.Join(root, "config", "server.conf"))
	if err != nil {
		r.t.Fatal(err)
	}
	options.Host, options.Port, options.HTTPPort = "127.0.0.1", server.RANDOM_PORT, 0
	options.StoreDir, options.NoSigs = r.t.TempDir(), true
	s, err := server.NewServer(options)
	if err != nil {
		r.t.Fatal(err)
	}
	s.Start()
	r.t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	r.wait("the server listens", func() bool { return s.Addr() != nil })
	return s
}

// start runs a worker's binary until the test ends. It must stop without an error.
func (r repository) start(binary string, env []string) {
	r.t.Helper()
	cmd := exec.Command(r.path(binary), "--admin-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			r.t.Errorf("stop the worker: %v", err)
		}
		if err := cmd.Wait(); err != nil || strings.Contains(log.String(), `"level":"error"`) {
			r.t.Errorf("the worker ends with %v\n%s", err, log.String())
		}
	})
}

// publish stores an event as the ingress does, as the ingress's user.
func (r repository) publish(url, secrets, id, typ string) {
	r.t.Helper()
	example, ok := examples.Of(typ)
	if !ok {
		r.t.Fatalf("there is no example of %s", typ)
	}
	head, err := codat.Read(example.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, example.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	nc, err := stream.Connect(ctx, stream.NATS{NATSURL: url, NATSNKey: filepath.Join(secrets, "ingress", "nkey")}, "ingress", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer nc.Close()
	p, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Publish(ctx, m); err != nil {
		r.t.Fatal(err)
	}
}

// wait returns when cond holds, and ends the test when it does not in time.
func (r repository) wait(what string, cond func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// stored returns the number of messages of a stream in the account of Headgate.
func stored(t *testing.T, s *server.Server, name string) uint64 {
	t.Helper()
	info, err := s.Jsz(&server.JSzOptions{Account: "HEADGATE", Streams: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range info.AccountDetails {
		for _, st := range account.Streams {
			if st.Name == name {
				return st.State.Msgs
			}
		}
	}
	return 0
}

// postgres are the blocks of code in the page's section about PostgreSQL: the program, and the lines for Kubernetes.
var postgres = regexp.MustCompile("(?s)## Claims in PostgreSQL\n.*?```go\n(.*?)```\n.*?```yaml\n(.*?)```\n")

// A worker that requires a database is built, tested and deployed as others are; headgate dev and tests leave it out.
func TestPage_KeepsClaimsInPostgreSQL(t *testing.T) {
	r := copyRepository(t)
	r.writeFiles()
	blocks := postgres.FindStringSubmatch(r.read("docs/add-a-worker.md"))
	if blocks == nil {
		t.Fatal("docs/add-a-worker.md has no two blocks of code about PostgreSQL")
	}
	var imports strings.Builder
	for _, name := range []string{"pkg/claims/pgclaims", "pkg/codat", "pkg/process", "pkg/stream", "workers"} {
		imports.WriteString("\t\"github.com/headgate/headgate/" + name + "\"\n")
	}
	r.write("workers/"+worker+"/"+worker+".go", "// Package failures is a worker.\npackage failures\n\n"+
		"import (\n\t\"context\"\n\n\t\"github.com/jackc/pgx/v5/pgxpool\"\n\n"+imports.String()+")\n\n"+
		"// Name is the worker's name.\nconst Name = \"failures\"\n\n"+blocks[1])
	if err := os.Remove(r.path("workers/" + worker + "/" + worker + "_test.go")); err != nil {
		t.Fatal(err)
	}
	kustomization := "deploy/k8s/base/workers/" + worker + "/kustomization.yaml"
	r.write(kustomization, r.read(kustomization)+blocks[2])
	r.run(".", nil, "go", "run", "./deploy/generate")
	r.run(".", nil, "go", "vet", "./workers/"+worker, "./cmd/worker-"+worker)
	r.run(".", nil, "go", "test", "./workers/builtin", "./deploy", "./deploy/generate", "-run", ".")
	r.run(".", nil, "go", "test", ".", "-run", "TestArrow|TestPackages")
	r.run(".", []string{"UPDATE=1"}, "go", "test", "./cmd/headgate", "-run", "TestSettings")
	if !strings.Contains(r.read("docs/settings.md"), "| worker-failures |") {
		t.Error("docs/settings.md does not list the setting of the worker")
	}
	r.run(".", nil, "go", "test", "./cmd/headgate", "-run", "TestMonitoring|TestBuiltin|TestDeploy|TestSettings|Metric")
	r.run("deploy/check", nil, "go", "test", "-run", "TestWorkloads|TestREADME", ".")
	if got := r.read("deploy/nats/worker-" + worker + ".conf"); strings.Contains(got, "# Its state") {
		t.Errorf("a worker without a state may write one:\n%s", got)
	}
}

func TestPage_MakesAWorker(t *testing.T) {
	r := copyRepository(t)
	r.writeFiles()
	r.run(".", nil, "go", "run", "./deploy/generate")
	r.run(".", nil, "git", "init", "-q") // tests ask git for the files
	r.run(".", nil, "git", "add", "-A")
	r.run(".", nil, "go", "vet", "./workers/...", "./cmd/worker-"+worker)

	t.Log("the tests of the worker, of the layout and of the deployment's files")
	r.run(".", nil, "go", "test", "./workers/"+worker, ".", "./deploy", "./deploy/generate")
	r.run("deploy/check", nil, "go", "test", "-run", "TestOverlays|TestWorkloads|TestWorkers|TestObjects|TestManifests|TestREADME|TestNetwork", ".")
	for name, has := range map[string]string{
		"docker-compose.yml": "\n  worker-" + worker + ":\n",
		"README.md":          "worker-" + worker,
		"deploy/k8s/overlays/dev/kustomization.yaml": "headgate/worker-" + worker,
		"deploy/nats/worker-" + worker + ".conf":     "KV_CODAT_" + worker,
	} {
		if !strings.Contains(r.read(name), has) {
			t.Errorf("%s has no %q", name, has)
		}
	}

	t.Log("the worker runs with its own permissions")
	r.run(".", nil, "go", "build", "-o", "bin/", "./cmd/headgate", "./cmd/worker-"+worker)
	secrets := filepath.Join(t.TempDir(), "secrets")
	r.run(".", nil, r.path("bin/headgate"), "keys", secrets)
	s := r.serve(secrets)
	url := "nats://" + s.Addr().String()
	as := func(role string) []string {
		return []string{"NATS_URL=" + url, "NATS_NKEY=" + filepath.Join(secrets, role, "nkey")}
	}
	r.run(".", as("provision"), r.path("bin/headgate"), "provision")
	r.start("bin/worker-"+worker, as(worker))
	r.publish(url, secrets, "msg_1", "invoices.write.unsuccessful")
	r.publish(url, secrets, "msg_2", "bills.write.unsuccessful")
	r.wait("the worker counts two failed writes", func() bool { return stored(t, s, "KV_CODAT_"+worker) == 2 })
}
