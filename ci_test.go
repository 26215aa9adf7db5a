package headgate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The last line of .ci/run is what others believe: it must not say that all is well when it is not.
func TestReport(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "report")
	if out, err := exec.Command("go", "build", "-o", bin, ".ci/report.go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	skips := filepath.Join(t.TempDir(), "skips")
	if err := os.WriteFile(skips, []byte("# reviewed\np.TestAway: there is no such thing on Linux\np.TestLazy:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, in   string
		last, says string
		code       int
	}{
		{"a test passes", `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}`, "1 passed, 0 failed", "", 0},
		{"a package is no test", `{"Action":"pass","Package":"p","Elapsed":0.1}`, "0 passed, 0 failed", "", 0},
		{"a package without tests is no skip", `{"Action":"skip","Package":"p","Elapsed":0}`, "0 passed, 0 failed", "", 0},
		{"a test fails with its package, which counts once", `{"Action":"output","Package":"p","Test":"TestA","Output":"got 1; want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, "0 passed, 1 failed", "got 1; want 2", 1},
		{"a test that passes quotes one that failed", `{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestB\n"}
{"Action":"pass","Package":"p","Test":"TestA"}`, "1 passed, 0 failed", "", 0},
		{"a package does not build", `{"ImportPath":"p","Action":"build-output","Output":"syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`, "0 passed, 1 failed", "syntax error", 1},
		{"a test is cut off", `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`, "0 passed, 1 failed", "panic: test timed out", 1},
		{"a skip has its reason", `{"Action":"skip","Package":"p","Test":"TestAway"}`, "0 passed, 0 failed", "", 0},
		{"a skip is not listed", `{"Action":"skip","Package":"p","Test":"TestOther"}`, "0 passed, 1 failed", "p.TestOther was skipped", 1},
		{"a skip is listed without a reason", `{"Action":"skip","Package":"p","Test":"TestLazy"}`, "0 passed, 1 failed", "p.TestLazy was skipped", 1},
		{"a step fails that is no test", "go vet ./...\n" + `{"Action":"fail","Package":".ci","Test":"make test"}`, "0 passed, 1 failed", "go vet ./...", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(bin, skips)
			cmd.Stdin = strings.NewReader(tt.in + "\n")
			out, _ := cmd.Output()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if got := lines[len(lines)-1]; got != tt.last {
				t.Errorf("the last line = %q; want %q", got, tt.last)
			}
			if !strings.Contains(string(out), tt.says) {
				t.Errorf("it says\n%s\nwant %q in it", out, tt.says)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code = %d; want %d", got, tt.code)
			}
		})
	}
}
