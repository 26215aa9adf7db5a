//go:build faults

package pages

import (
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

// megabyte is the unit of the bounds below, which are those of docs/design.md.
const megabyte = 1_000_000

func TestPrograms_AreStaticAndNoLargerThanTheirBound(t *testing.T) {
	r := copyRepository(t)
	r.run(".", nil, "make", "build")
	programs, err := filepath.Glob(r.path("bin/*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(programs) < 3 {
		t.Fatalf("make build makes %q", programs)
	}
	for _, program := range programs {
		bound := int64(25 * megabyte)
		if filepath.Base(program) == "headgate" {
			bound = 44 * megabyte
		}
		info, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s has %.1f MB", filepath.Base(program), float64(info.Size())/megabyte)
		if info.Size() > bound {
			t.Errorf("%s has %d bytes; want at most %d", filepath.Base(program), info.Size(), bound)
		}
		binary, err := elf.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("%s links %q (%v); want a static binary", filepath.Base(program), libraries, err)
		}
		if err := binary.Close(); err != nil {
			t.Error(err)
		}
	}
}
