package process

import (
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// garbage is the percentage that GOGC sets. What these programs hold is a few megabytes, which Go's 100 would have
// collected hundreds of times a second under load; with 300, tens of megabytes of memory buy that CPU time back.
const garbage = 300

// collectLess sets garbage, unless GOGC is set and so somebody has decided already.
func collectLess() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(garbage)
	}
}

// limitMemory tells the garbage collector to stay under 90 % of the container's memory limit, so that a full heap
// costs time and not the process. It returns the limit that holds, in bytes: 0 when the container has none, or when
// GOMEMLIMIT is set and so somebody has decided already.
func limitMemory(root fs.FS) int64 {
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return 0
	}
	limit := containerMemory(root) / 10 * 9
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	return limit
}

// containerMemory is the memory limit of the cgroup that a container sees as its root, in bytes, 0 when there is none.
func containerMemory(root fs.FS) int64 {
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		// Version 2 says "max" for no limit, version 1 a number that no machine has.
		if err == nil && limit > 0 && limit < 1<<50 {
			return limit
		}
	}
	return 0
}
