// Command generate writes into the deployment's files what follows from the list of built-in workers (workers/builtin)
// and from deploy/monitoring/rules.yml, and into docs the schemas of events and records, which follow from the Go types of
// pkg/codat, pkg/state and pkg/plan. Run it in the root of the repository: make generate.
package main

import (
	"fmt"
	"os"
)

func main() {
	files, err := Render(".")
	if err == nil {
		err = write(".", files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
