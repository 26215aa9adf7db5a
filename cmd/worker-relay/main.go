// Command worker-relay forwards stored events to the HTTP endpoint of one route, signed the Standard Webhooks way.
package main

import (
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/relay"
)

func main() {
	process.Main("worker-relay", "Forwards stored events to the HTTP endpoint of one route, signed the Standard Webhooks way.", new(relay.Settings), relay.Run)
}
