package process

import (
	"os"
	"runtime/debug"
	"testing"

	"go.uber.org/zap"
)

func TestSetMemoryLimit_KeepsGOMEMLIMIT(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	debug.SetMemoryLimit(1 << 40) // the runtime reads GOMEMLIMIT at the start only
	t.Setenv("GOMEMLIMIT", "1TiB")
	if got := setMemoryLimit(zap.NewNop()); got != 1<<40 || debug.SetMemoryLimit(-1) != 1<<40 {
		t.Errorf("setMemoryLimit = %d, and the limit is %d; want %d", got, debug.SetMemoryLimit(-1), 1<<40)
	}
}

func TestSetGCPercent_KeepsGOGC(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "50") // the runtime reads GOGC at the start only
	setGCPercent()
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("with GOGC set, setGCPercent sets %d; want it to keep 100", got)
	}
	if err := os.Unsetenv("GOGC"); err != nil { // Setenv restores it
		t.Fatal(err)
	}
	setGCPercent()
	if got := debug.SetGCPercent(100); got != gcPercent {
		t.Errorf("without GOGC, setGCPercent sets %d; want %d", got, gcPercent)
	}
}
