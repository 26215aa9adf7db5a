//go:build e2e

package e2e

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// standIns gives the engine the images that our files begin with, under the names that they have there, where it has
// none: made of this machine's Go, of a busybox and of the NATS server from the module, since there may be no registry.
func (e *engine) standIns() {
	e.t.Helper()
	for _, image := range []struct {
		file, name string // where our file names it
		settings   []string
		write      func(string)
	}{
		{"Dockerfile", `(?m)^ARG GO_IMAGE=(\S+)$`, []string{
			"ENV PATH=/usr/local/go/bin:/bin", "ENV GOPATH=/go", "ENV GOTOOLCHAIN=local",
			"ENV GOPROXY=file:///modules", "ENV GONOSUMDB=*",
		}, e.golang},
		{"Dockerfile", `(?m)^ARG RUN_IMAGE=(\S+)$`, []string{
			"USER 65532:65532", "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
		}, e.distroless},
		{"docker-compose.yml", `NATS_IMAGE:-(\S+)}`, []string{"ENV PATH=/usr/local/bin:/bin"}, e.nats},
		{"docker-compose.yml", `NATS_BOX_IMAGE:-(\S+)}`, []string{"ENV PATH=/usr/local/bin:/bin"}, e.box},
	} {
		text, err := os.ReadFile(filepath.Join(e.folder, image.file))
		if err != nil {
			e.t.Fatal(err)
		}
		found := regexp.MustCompile(image.name).FindSubmatch(text)
		if found == nil {
			e.t.Fatalf("%s names no image as %s", image.file, image.name)
		}
		e.load(string(found[1]), image.settings, image.write)
	}
}

// golang is a system with the Go tool chain and, in /modules, a module proxy that has what go.mod needs.
func (e *engine) golang(folder string) {
	e.t.Helper()
	e.busybox(folder)
	e.users(folder)
	e.folders(folder, "go", "usr/local/go")
	// Without what no build reads: the engine walks through all files after each step of a build.
	e.run("sh", "-c", `tar -C "$(go env GOROOT)" --exclude=src/cmd --exclude=testdata --exclude='*_test.go' \
		-c bin src pkg lib go.env VERSION | tar -C `+filepath.Join(folder, "usr/local/go")+` -x`)
	// What a module cache has downloaded is laid out as a proxy serves it.
	cache := e.t.TempDir()
	ours := filepath.Join(e.run("go", "env", "GOMODCACHE"), "cache", "download")
	cmd := exec.CommandContext(e.ctx, "go", "mod", "download")
	cmd.Dir = e.folder
	cmd.Env = append(e.env, "GOMODCACHE="+cache, "GOFLAGS=-modcacherw", "GOPROXY=file://"+ours+","+e.run("go", "env", "GOPROXY"))
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("go mod download: %v\n%s", err, out)
	}
	e.run("cp", "-a", filepath.Join(cache, "cache", "download"), filepath.Join(folder, "modules"))
	e.compiled(filepath.Join(folder, "root", ".cache", "go-build"))
}

// compiled puts what this machine has compiled of our programs where the tool chain of the image looks for it, so that
// the image's build has only to link.
func (e *engine) compiled(folder string) {
	e.t.Helper()
	outputs := map[string]bool{}
	for _, file := range strings.Fields(e.run("env", "CGO_ENABLED=0", "go", "list", "-trimpath", "-deps", "-export", "-f", "{{.Export}}", "./cmd/...", "./deploy/ready")) {
		outputs[strings.TrimSuffix(filepath.Base(file), "-d")] = true
	}
	// The cache has a file <id>-d for each output, and for each action a file <id>-a that names its output.
	cache := e.run("go", "env", "GOCACHE")
	actions, err := filepath.Glob(filepath.Join(cache, "??", "*-a"))
	if err != nil {
		e.t.Fatal(err)
	}
	copied := []string{"-C", cache, "cp", "--parents", "-t", folder}
	for _, action := range actions {
		text, err := os.ReadFile(action)
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 3 || !outputs[fields[2]] {
			continue // another's
		}
		name := filepath.Base(action)
		copied = append(copied, filepath.Join(name[:2], name), filepath.Join(fields[2][:2], fields[2]+"-d"))
	}
	e.folders(folder, ".")
	e.run("env", copied...)
}

// distroless has a user, certificates, and nothing to run.
func (e *engine) distroless(folder string) {
	e.t.Helper()
	e.users(folder)
	e.folders(folder, "home/nonroot")
}

func (e *engine) nats(folder string) {
	e.t.Helper()
	e.busybox(folder)
	e.users(folder)
	e.folders(folder, "usr/local/bin")
	// In the copy of our module, so that it is the version in go.mod.
	e.run("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w",
		"-o", filepath.Join(folder, "usr/local/bin/nats-server"), "github.com/nats-io/nats-server/v2")
}

// box has the nats CLI.
func (e *engine) box(folder string) {
	e.t.Helper()
	e.users(folder)
	e.run("env", "CGO_ENABLED=0", "GOBIN="+filepath.Join(folder, "usr/local/bin"),
		"go", "install", "-trimpath", "-ldflags", "-s -w", "github.com/nats-io/natscli/nats@v0.5.1")
}

// users makes what every system has: a place for files that come and go, users and certificates.
func (e *engine) users(folder string) {
	e.t.Helper()
	e.folders(folder, "tmp", "etc/ssl/certs")
	if err := os.Chmod(filepath.Join(folder, "tmp"), 0o777|os.ModeSticky); err != nil {
		e.t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
		"etc/group":  "root:x:0:\nnonroot:x:65532:\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			e.t.Fatal(err)
		}
	}
	e.run("cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(folder, "etc/ssl/certs"))
}

// busybox puts a shell and its tools into bin: from this machine, or from its distribution.
func (e *engine) busybox(folder string) {
	e.t.Helper()
	e.folders(folder, "bin")
	binary := filepath.Join(folder, "bin", "busybox")
	if own, err := exec.LookPath("busybox"); err == nil && static(own) {
		e.run("cp", own, binary)
	} else {
		download := e.t.TempDir()
		e.run("sh", "-c", "cd "+download+` && get="apt-get download -qq busybox-static" &&
			{ $get || { apt-get update -qq && $get; } } && dpkg -x busybox-static_*.deb .`)
		e.run("cp", filepath.Join(download, "bin", "busybox"), binary)
	}
	for _, tool := range strings.Fields(e.run(binary, "--list")) {
		if tool == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(folder, "bin", tool)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// static reports whether a program runs where there is nothing beside it.
func static(name string) bool {
	f, err := elf.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

func (e *engine) folders(folder string, names ...string) {
	e.t.Helper()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
}
