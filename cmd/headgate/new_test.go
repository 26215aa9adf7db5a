package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clone returns a folder with the files of the repository that new worker reads.
func clone(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"go.mod", workerPage, workerList} {
		text, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// The files of a new worker build in this repository, and their test passes. They are laid over it, and change nothing in it.
func TestNewWorker_BuildsAndPassesItsTest(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	written := headgate(t, 0, "new", "worker", "late-writes", "--repository", folder).out.lines()
	want := []string{
		"workers/late-writes/latewrites.go", "workers/late-writes/latewrites_test.go", "cmd/worker-late-writes/main.go",
		"deploy/k8s/base/workers/late-writes/kustomization.yaml", "workers/builtin/builtin.go",
	}
	if strings.Join(written, " ") != strings.Join(want, " ") {
		t.Fatalf("it writes %q; want %q", written, want)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for _, name := range written {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil || strings.Contains(string(text), workerOfPage) {
			t.Errorf("%s has the name of the page's worker, or cannot be read: %v", name, err)
		}
		overlay.Replace[filepath.Join(root, name)] = filepath.Join(folder, name)
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(t.TempDir(), "late.test")
	for _, args := range [][]string{
		{"go", "build", "-pgo=off", "-o", os.DevNull, "-overlay", file, "./cmd/worker-late-writes"},
		{"go", "build", "-overlay", file, "./workers/builtin"},
		{"go", "test", "-vet=off", "-c", "-o", tests, "-overlay", file, "./workers/late-writes"},
		{tests},
	} {
		command := exec.CommandContext(t.Context(), args[0], args[1:]...)
		command.Dir = root
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestNewWorker_OverwritesNothing(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	mine := filepath.Join(folder, "deploy/k8s/base/workers/late/kustomization.yaml")
	if err := os.MkdirAll(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", mine); err != nil {
		t.Fatal(err)
	}
	c := headgate(t, 2, "new", "worker", "late", "--repository", folder)
	contains(t, c.err.String(), "deploy/k8s/base/workers/late/kustomization.yaml exists", "nothing was written")
	if _, err := os.Stat(filepath.Join(folder, "workers/late")); !os.IsNotExist(err) {
		t.Errorf("it has written: %v", err)
	}
	headgate(t, 0, "new", "worker", "later", "--repository", folder)
	contains(t, headgate(t, 2, "new", "worker", "later", "--repository", folder).err.String(), `named "later" exists`)
	headgate(t, 0, "new", "worker", "latest", "--repository", folder)
	list, err := os.ReadFile(filepath.Join(folder, workerList))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(list), "worker(later.Worker(nil), later.Run),\n\t\tworker(latest.Worker(nil), latest.Run),")
}

// A file that cannot be written leaves the repository as it was, so that the command can run again.
func TestNewWorker_LeavesNothingAfterAnError(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	before, err := os.ReadFile(filepath.Join(folder, workerList))
	if err != nil {
		t.Fatal(err)
	}
	deploy := filepath.Join(folder, "deploy") // of the fourth file
	if err := os.Symlink("/nowhere/at/all", deploy); err != nil {
		t.Fatal(err)
	}
	c := headgate(t, 1, "new", "worker", "late", "--repository", folder)
	contains(t, c.err.String(), "nothing was written")
	if out := c.out.String(); out != "" {
		t.Errorf("it prints %q", out)
	}
	for _, name := range []string{"workers/late", "cmd/worker-late"} {
		if _, err := os.Lstat(filepath.Join(folder, name)); !os.IsNotExist(err) {
			t.Errorf("it leaves %s: %v", name, err)
		}
	}
	if after, err := os.ReadFile(filepath.Join(folder, workerList)); err != nil || string(after) != string(before) {
		t.Errorf("it changes the list of workers: %v", err)
	}
	if err := os.Remove(deploy); err != nil {
		t.Fatal(err)
	}
	headgate(t, 0, "new", "worker", "late", "--repository", folder)
	list, err := os.ReadDir(filepath.Join(folder, "workers/builtin"))
	if err != nil || len(list) != 1 {
		t.Fatalf("beside the list of workers are %v, %v", list, err)
	}
	if info, err := list[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the list of workers has other modes than before: %v, %v", info, err)
	}
}

// A name with the name of the page's worker in it is replaced once.
func TestNewWorker_NamesPackageAndWorker(t *testing.T) {
	t.Parallel()
	for name, pkg := range map[string]string{"write-failures": "writefailures", "fail-ures": "failures", "failures": "failures", "failures-2": "failures2"} {
		folder := clone(t)
		headgate(t, 0, "new", "worker", name, "--repository", folder)
		for file, has := range map[string][]string{
			"workers/" + name + "/" + pkg + ".go":                     {"// Package " + pkg + " is", "\npackage " + pkg + "\n", `Name = "` + name + `"`, "CODAT_" + name + " "},
			"workers/" + name + "/" + pkg + "_test.go":                {"package " + pkg + "_test\n", `/workers/` + name + `"`, pkg + ".Worker(b)"},
			"cmd/worker-" + name + "/main.go":                         {"// Command worker-" + name + " ", `/workers/` + name + `"`, "new(" + pkg + ".Settings), " + pkg + ".Run"},
			workerList:                                                {`/workers/` + name + `"`, "worker(" + pkg + ".Worker(nil), " + pkg + ".Run),"},
			"deploy/k8s/base/workers/" + name + "/kustomization.yaml": {"[name=" + name + "]"},
		} {
			text, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				t.Fatal(err)
			}
			contains(t, string(text), has...)
		}
	}
}

func TestNewWorker_RefusesNames(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	for name, says := range map[string]string{
		"Late": "a name is a small letter", "../late": "a name is a small letter", "late\x1b[2J": "a name is a small letter", "": "a name is a small letter",
		"connections": "exists", "quota": "exists", "provision": "exists", "webhook": "exists", "claims": "choose another", "expected": "choose another",
		"late-": "no dash at its end", "init": "another meaning", "stream": "another meaning", "con-text": "another meaning", "bucket": "another meaning",
		"func": "another meaning", "main": "another meaning", "documentation": "another meaning", "internal": "another meaning",
	} {
		c := headgate(t, 2, "new", "worker", "--repository", folder, "--", name)
		contains(t, c.err.String(), says)
		if strings.Contains(c.err.String(), "\x1b") {
			t.Errorf("it writes a control character: %q", c.err.String())
		}
	}
	contains(t, headgate(t, 2, "new", "worker", "late", "--repository", t.TempDir()).err.String(), "not a clone of Headgate's repository", "docs/own-worker.md")
}
