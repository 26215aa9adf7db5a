package doctor

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// plainServer starts a server and returns the address for a user who may not publish to denied: without JetStream when denied is nil,
// and otherwise with the streams of an installation.
func plainServer(in *installation, denied []string) string {
	in.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 2 << 20}
	if denied != nil {
		o.JetStream, o.StoreDir = true, in.TempDir()
		o.Users = []*server.User{
			{Username: "admin", Password: "x"},
			{Username: "limited", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: denied}}},
		}
	}
	s, err := server.NewServer(o)
	in.must(err)
	s.Start()
	in.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(2 * time.Minute) {
		in.Fatal("the server does not start")
	}
	if denied == nil {
		return s.ClientURL()
	}
	address := s.Addr().String()
	nc, err := nats.Connect("nats://admin:x@" + address)
	in.must(err)
	in.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	in.must(err)
	streamtest.Provision(in, js, stream.Layout{Source: source, Workers: []stream.WorkerSpec{spec}})
	for _, subject := range []string{"codat.events.company.created", "$KV.CODAT_expected.learned.company.created"} {
		_, err := js.Publish(in.Context(), subject, []byte("{}"))
		in.must(err)
	}
	return "nats://limited:x@" + address
}

// A user of another role sees less, and each check that it cannot make says why.
func TestExamine_SkipsWhatAUserMayNotRead(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.Connect = in.connect(plainServer(in, []string{"$JS.API.STREAM.NAMES", "$JS.API.DIRECT.GET.>"}))
	in.until(nil, func(r *Report) (problems []string) {
		for _, one := range r.Results {
			if one.Status == Fail || one.Status == Skipped && one.Reason == "" {
				problems = append(problems, fmt.Sprintf("%+v; want it made or skipped with the reason", one))
			}
		}
		if got := statuses(r); got["HG-STR-003"] != Skipped || got["HG-NATS-006"] != Warn || got["HG-SRV-003"] != OK {
			problems = append(problems, fmt.Sprintf("%v; want the streams skipped, the permissions warned of, and the servers ok", got))
		}
		return problems
	})
}
