package ingress_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A server of a cluster that is killed while it makes a stream can leave that stream's store behind (nats-server 2.15.2).
// These two goroutines of it are the server's own; every other leak is found.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"))
}
