package ingress_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A server of a cluster that is killed while it creates a stream can leave the stream's store behind (nats-server 2.15.2).
// These two goroutines are the server's own. Every other leak fails the tests.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"))
}
