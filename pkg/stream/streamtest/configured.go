package streamtest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/headgate/headgate/pkg/stream/embedded"
)

// Configured starts a server with JetStream and, beside that, a configuration as nats-server reads it: users with
// permissions, or TLS. It returns its address, and a func that gives it another configuration while it runs.
func Configured(t testing.TB, conf string) (url string, reload func(conf string)) {
	t.Helper()
	dir := t.TempDir()
	options := func(conf string) *server.Options {
		t.Helper()
		o := new(server.Options)
		if err := o.ProcessConfigString(conf); err != nil {
			t.Fatalf("configuration: %v", err)
		}
		o.Host, o.Port, o.NoSigs, o.NoLog, o.MaxPayload = "127.0.0.1", server.RANDOM_PORT, true, true, embedded.MaxPayload
		o.JetStream, o.StoreDir, o.JetStreamMaxStore, o.JetStreamMaxMemory = true, dir, 16<<30, 64<<20
		return o
	}
	srv, err := server.NewServer(options(conf))
	if err != nil {
		t.Fatalf("NewServer() = %v", err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return "nats://" + srv.Addr().String(), func(conf string) {
		t.Helper()
		if err := srv.ReloadOptions(options(conf)); err != nil {
			t.Fatalf("ReloadOptions() = %v", err)
		}
	}
}
