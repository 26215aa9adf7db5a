package process

import (
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

// gcPercent is the value of GOGC. The live heap of these programs is a few megabytes, which Go's default of 100
// collects hundreds of times a second under load; 300 spends tens of megabytes to save that CPU time.
const gcPercent = 300

// setGCPercent sets gcPercent unless the environment sets GOGC.
func setGCPercent() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
}

// setMemoryLimit sets the soft memory limit of the Go runtime to 90 % of the cgroup's limit, so that a full heap costs
// time and not the process. GOMEMLIMIT in the environment wins. It returns the limit that holds, in bytes:
// math.MaxInt64 when there is no limit.
func setMemoryLimit(log *zap.Logger) int64 {
	limit, err := memlimit.Set()
	if err != nil {
		log.Debug("no memory limit from a cgroup", zap.Error(err)) // such as on a system without cgroups
	}
	return limit
}
