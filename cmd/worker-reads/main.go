// Command worker-reads keeps how fresh the data of every connection is in the bucket CODAT_reads.
package main

import (
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/reads"
)

func main() {
	process.Main("worker-reads", "Keeps, for each connection and data type, when Codat read it last and how that ended.", new(reads.Settings), reads.Run)
}
