// Command worker-writes keeps what became of every write, and the client's quota, in the buckets CODAT_writes and CODAT_quota.
package main

import (
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/writes"
)

func main() {
	process.Main("worker-writes", "Keeps what became of every write, and the client's quota.", new(writes.Settings), writes.Run)
}
