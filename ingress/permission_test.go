package ingress_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Whether an event may be published, only a publish finds out. From then on the ingress is not ready, until one may.
func TestAnIngressThatMayNotPublishIsNotReady(t *testing.T) {
	users := func(subjects string) string {
		return `authorization: { users: [
			{ user: admin, password: p }
			{ user: ingress, password: p, permissions: { publish: [ ` + subjects + `, "$JS.API.STREAM.INFO.CODAT" ], subscribe: "_INBOX_ingress.>" } }
		] }`
	}
	url, reload := streamtest.Configured(t, users(`"codat.quarantine"`))
	admin, err := nats.Connect(strings.Replace(url, "//", "//admin:p@", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, js, stream.Plan{Source: streamtest.Source})

	k := key(t, "us")
	s := settings(t, strings.Replace(url, "//", "//ingress:p@", 1), k)
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	g.waitReady(t)
	ask := func(id, body string) int { return send(t, post(g.url, k, id, body)).status }
	if got := ask("msg_1", event("company.created")); got != 503 {
		t.Errorf("answered %d; want 503", got)
	}
	streamtest.Wait(t, func() bool {
		err := g.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "codat.events.company.created")
	}, "it is not ready, and names the subject")
	if got := ask("msg_2", "{}"); got != 204 {
		t.Errorf("what goes to the quarantine is answered %d; want 204", got)
	}

	reload(users(`"codat.events.>"`))
	streamtest.Wait(t, func() bool { return ask("msg_1", event("company.created")) == 204 }, "it may publish again")
	g.waitReady(t)
	if got := ask("msg_3", "{}"); got != 503 {
		t.Errorf("what goes to the quarantine is answered %d; want 503", got)
	}
	if err := g.Health.Ready(); err != nil {
		t.Errorf("Ready() = %v; want none: events are stored", err)
	}
}
