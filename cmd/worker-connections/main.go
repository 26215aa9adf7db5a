// Command worker-connections keeps the state of every connection in the bucket CODAT_connections.
package main

import (
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/connections"
)

func main() {
	process.Main("worker-connections", "Keeps the state of every Codat connection in a KV bucket.", new(connections.Settings), connections.Run)
}
