package inspect

import (
	"testing"

	"go.uber.org/goleak"
)

// Two goroutines of a cluster's server that is killed while it makes a stream stay (nats-server 2.15.2).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"))
}
