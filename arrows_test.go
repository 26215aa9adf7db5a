package headgate_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/headgate/headgate"

// A listed package is what go list says of it.
type listed struct {
	ImportPath                                  string
	Doc                                         string
	GoFiles, Imports, TestImports, XTestImports []string
	Deps                                        []string
}

// at is the folder of the package, "" for the root.
func (l listed) at() string { return strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, module), "/") }

// list lists all packages of the module, also those that only tests of minutes have.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-pgo=off", "-tags", "faults,mutants,e2e,browser", "-json=ImportPath,Doc,GoFiles,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, l)
	}
}

// arrow reports whether the package in folder from may import the one in folder to.
func arrow(from, to string) bool {
	top, rest, _ := strings.Cut(from, "/")
	within := func(folder string) bool { return to == folder || strings.HasPrefix(to, folder+"/") }
	switch {
	case top == "cmd":
		// Everything that is not a test's.
		return within("ingress") || within("workers") || within("pkg")
	case from == "", top == "test", top == "bench", top == "deploy":
		return true
	case from == "pkg/codat":
		return false
	case from == "pkg/codat/api":
		// It says what became of a call, and its callers say what that means for an event.
		return to == "pkg/codat" || to == "pkg/watchfile"
	case from == "pkg/state":
		// Downstream services import it.
		return to == "pkg/codat" || to == "pkg/stream"
	case top == "pkg", top == "docs":
		// docs/example is a service as others write it.
		return within("pkg")
	case top == "console":
		return within("console") || within("pkg")
	case top == "ingress":
		return within("ingress") || within("pkg")
	case from == "workers":
		return within("pkg")
	case from == "workers/builtin":
		return within("workers") || within("pkg")
	case top == "workers":
		// One worker knows nothing of another.
		return to == "workers" || within("workers/"+strings.Split(rest, "/")[0]) || within("pkg")
	}
	return false
}

// forTests reports whether a package is there for tests only; by custom its name says so.
func forTests(folder string) bool {
	return strings.HasSuffix(folder, "test") || strings.HasPrefix(folder, "test/")
}

func TestArrows(t *testing.T) {
	for _, l := range list(t) {
		from := l.at()
		for _, imported := range l.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if !arrow(from, to) {
				t.Errorf("%s imports %s: no arrow in the design leads there", from, to)
			}
			// headgate dev --with-codat starts the stand-in.
			development := from == "cmd/headgate" && to == "pkg/codat/codattest"
			if forTests(to) && !forTests(from) && !development {
				t.Errorf("%s imports %s, which is for tests", from, to)
			}
		}
		for _, imported := range slices.Concat(l.TestImports, l.XTestImports) {
			to, ours := strings.CutPrefix(imported, module+"/")
			// Tests in pkg run what they test under a worker.
			runs := to == "workers" && strings.HasPrefix(from, "pkg/")
			if ours && to != from && !arrow(from, to) && !runs && !forTests(to) && !strings.HasPrefix(to, from+"/") {
				t.Errorf("a test of %s imports %s: no arrow in the design leads there", from, to)
			}
		}
	}
}

// A server within the process is for headgate serve, headgate dev and tests: the ingress and the workers do not link it.
func TestOnlyHeadgateReachesTheServer(t *testing.T) {
	may := []string{"cmd/headgate", "pkg/stream/embedded"}
	for _, l := range list(t) {
		if slices.Contains(may, l.at()) || forTests(l.at()) {
			continue
		}
		for _, reached := range l.Deps {
			if strings.HasPrefix(reached, "github.com/nats-io/nats-server/") {
				t.Errorf("%s reaches %s; only %q and tests may", l.at(), reached, may)
				break
			}
		}
	}
}

// Downstream services import pkg/state: it must not bring them the libraries of Headgate's programs. Others can examine an
// installation with pkg/doctor as the command does.
func TestStateAndDoctorReachNoLibraryOfPrograms(t *testing.T) {
	foreign := []string{"github.com/alecthomas/kong", "github.com/prometheus/", "go.opentelemetry.io/", "github.com/nats-io/nats-server/"}
	free := []string{"pkg/state", "pkg/doctor"}
	found := 0
	for _, l := range list(t) {
		if !slices.Contains(free, l.at()) {
			continue
		}
		found++
		for _, reached := range l.Deps {
			for _, prefix := range foreign {
				if strings.HasPrefix(reached, prefix) {
					t.Errorf("%s reaches %s", l.at(), reached)
				}
			}
		}
	}
	if found != len(free) {
		t.Errorf("%d of %q are there", found, free)
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	nothing := []string{"util", "utils", "common", "helpers", "types", "shared", "misc", "base"}
	for _, l := range list(t) {
		if slices.Contains(nothing, path.Base(l.ImportPath)) {
			t.Errorf("%s has a name that says nothing", l.at())
		}
		if l.Doc == "" && len(l.GoFiles) > 0 {
			t.Errorf("%s has no package comment", l.at())
		}
	}
}

func TestArrow(t *testing.T) {
	tests := []struct {
		from, to string
		want     bool
	}{
		{"cmd/ingress", "ingress", true},
		{"cmd/headgate", "workers/connections", true},
		{"cmd/headgate", "cmd/ingress", false},
		{"ingress", "pkg/stream", true},
		{"ingress", "workers", false},
		{"ingress", "workers/connections", false},
		{"workers", "ingress", false},
		{"workers", "pkg/codat", true},
		{"workers", "workers/connections", false},
		{"workers/connections", "workers", true},
		{"workers/connections", "pkg/codat", true},
		{"workers/connections", "workers/writes", false},
		{"workers/connections", "ingress", false},
		{"workers/connections", "pkg/claims/pgclaims", true},
		{"workers/connections", "workers/builtin", false},
		{"workers/builtin", "workers/connections", true},
		{"pkg/stream", "pkg/codat", true},
		{"pkg/stream", "workers", false},
		{"pkg/codat", "pkg/signature", false},
		{"pkg/codat/api", "pkg/codat", true},
		{"pkg/codat/api", "pkg/watchfile", true},
		{"pkg/codat/api", "workers", false},
		{"pkg/codat/api", "pkg/process", false},
		{"workers/connections", "pkg/codat/api", true},
		{"pkg/state", "pkg/stream", true},
		{"pkg/state", "pkg/deadletter", false},
		{"pkg/audit", "workers", false},
		{"pkg/doctor", "pkg/inspect", true},
		{"pkg/doctor", "workers", false},
		{"docs/example", "pkg/plan", true},
		{"docs/example", "workers", false},
		{"console", "pkg/inspect", true},
		{"console", "workers", false},
		{"ingress", "cmd/ingress", false},
		{"somewhere", "pkg/codat", false},
	}
	for _, tt := range tests {
		if got := arrow(tt.from, tt.to); got != tt.want {
			t.Errorf("arrow(%q, %q) = %v; want %v", tt.from, tt.to, got, tt.want)
		}
	}
}
