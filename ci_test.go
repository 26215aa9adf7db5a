package headgate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The last line and the exit code of .ci/run must not report success when a test failed.
func TestReport(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "report")
	if out, err := exec.Command("go", "build", "-o", bin, ".ci/report.go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	skips := filepath.Join(t.TempDir(), "skips")
	if err := os.WriteFile(skips, []byte("# reviewed\np.TestAway: Linux has no such file\np.TestLazy:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, in   string
		last, want string
		code       int
	}{
		{"a test passes", `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}`, "1 passed, 0 failed", "", 0},
		{"tests take over 2 s", `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":2.1}
{"Action":"pass","Package":"p","Test":"TestB","Elapsed":31}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":2}`, "3 passed, 0 failed", "2 tests took over 2 s:\n   31.0 s  p.TestB\n    2.1 s  p.TestA\n3 passed", 0},
		{"a package is not counted", `{"Action":"pass","Package":"p","Elapsed":0.1}`, "0 passed, 0 failed", "", 0},
		{"a package without tests is not a skipped test", `{"Action":"skip","Package":"p","Elapsed":0}`, "0 passed, 0 failed", "", 0},
		{"a test and its package fail, which counts once", `{"Action":"output","Package":"p","Test":"TestA","Output":"got 1; want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, "0 passed, 1 failed", "got 1; want 2", 1},
		{"a test that passes prints the failure of another", `{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestB\n"}
{"Action":"pass","Package":"p","Test":"TestA"}`, "1 passed, 0 failed", "", 0},
		{"a package does not build", `{"ImportPath":"p","Action":"build-output","Output":"syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`, "0 passed, 1 failed", "syntax error", 1},
		{"a test reaches the time limit", `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`, "0 passed, 1 failed", "panic: test timed out", 1},
		{"a skipped test is listed with a reason", `{"Action":"skip","Package":"p","Test":"TestAway"}`, "0 passed, 0 failed", "", 0},
		{"a skipped test is not listed", `{"Action":"skip","Package":"p","Test":"TestOther"}`, "0 passed, 1 failed", "p.TestOther was skipped", 1},
		{"a skipped test is listed without a reason", `{"Action":"skip","Package":"p","Test":"TestLazy"}`, "0 passed, 1 failed", "p.TestLazy was skipped", 1},
		{"a step without tests fails", "go vet ./...\n" + `{"Action":"fail","Package":".ci","Test":"make test"}`, "0 passed, 1 failed", "go vet ./...", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(bin, skips)
			cmd.Stdin = strings.NewReader(tt.in + "\n")
			out, _ := cmd.Output()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if got := lines[len(lines)-1]; got != tt.last {
				t.Errorf("last line = %q; want %q", got, tt.last)
			}
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("output =\n%s\nwant %q in it", out, tt.want)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code = %d; want %d", got, tt.code)
			}
		})
	}
}

// make faults selects the tests of other packages by their names.
func TestMakefile_RunsEveryTestWithTheTagFaults(t *testing.T) {
	files, err := exec.Command("git", "ls-files", "*_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(files)) {
		if strings.HasPrefix(name, "test/") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // moved, and not committed yet
		}
		tagged := strings.HasPrefix(string(text), "//go:build faults\n")
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "Faults_") != tagged {
				t.Errorf("%s: %s: the name must contain Faults_ if and only if the file has the build tag faults", name, m[1])
			}
		}
	}
}

// Every clone has every version of a file: programs, archives and dumps do not belong in the repository.
func TestFiles_AreSmall(t *testing.T) {
	files, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		if info, err := os.Lstat(name); err == nil && info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes; at most 1 MiB belongs in the repository", name, info.Size())
		}
	}
}
