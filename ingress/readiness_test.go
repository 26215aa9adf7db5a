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

// provisioned creates the streams on a server, as the user of its URL.
func provisioned(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, js, stream.Layout{Source: streamtest.Source})
	return js
}

// Only a publish shows whether the permission to publish is missing. After it the ingress is not ready until a publish
// succeeds.
func TestRun_NotReadyWithoutPermissionToPublish(t *testing.T) {
	t.Parallel()
	users := func(subjects string) string {
		return `authorization: { users: [
			{ user: admin, password: p }
			{ user: ingress, password: p, permissions: { publish: [ ` + subjects + `, "$JS.API.STREAM.INFO.CODAT" ], subscribe: "_INBOX_ingress.>" } }
		] }`
	}
	url, reload := streamtest.Configured(t, users(`"codat.quarantine"`))
	provisioned(t, strings.Replace(url, "//", "//admin:p@", 1))

	k := newKey(t, "us")
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
	g.waitStored(t, k, "msg_2", "{}") // in the quarantine

	reload(users(`"codat.events.>"`))
	g.waitStored(t, k, "msg_1", event("company.created"))
	g.waitReady(t)
	if got := ask("msg_3", "{}"); got != 503 {
		t.Errorf("what goes to the quarantine is answered %d; want 503", got)
	}
	g.waitReady(t) // events are stored
}

// A server whose disk is full answers every request and acknowledges nothing: here events never reach the stream.
func TestRun_NotReadyWhileEventsAreNotStored(t *testing.T) {
	t.Parallel()
	const (
		stored = `mappings: {}`
		away   = `mappings: { "codat.events.>": "away.>" }`
	)
	url, reload := streamtest.Configured(t, stored)
	nc := provisioned(t, url).Conn()
	if _, err := nc.Subscribe("away.>", func(*nats.Msg) {}); err != nil { // so that the server finds a subscriber
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	k := newKey(t, "us")
	s := settings(t, url, k)
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	g.waitReady(t)
	ask := func(id string) int { return send(t, post(g.url, k, id, event("company.created"))).status }
	reload(away)
	streamtest.Wait(t, func() bool { return ask("msg_1") == 503 }, "an event is not stored")
	streamtest.Wait(t, func() bool {
		err := g.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "no ack in time")
	}, "it is not ready, and says why")

	reload(stored)
	g.waitStored(t, k, "msg_2", event("company.created"))
	g.waitReady(t)
}

// The time of the last event is restored although provisioning, without permission, retries forever.
func TestRun_RestoresTheLastEventTimeWhileProvisioningFails(t *testing.T) {
	t.Parallel()
	url, _ := streamtest.Configured(t, `authorization: { users: [
		{ user: admin, password: p }
		{ user: ingress, password: p, permissions: { publish: [ "codat.>", "$JS.API.STREAM.INFO.CODAT" ], subscribe: "_INBOX_ingress.>" } }
	] }`)
	js := provisioned(t, strings.Replace(url, "//", "//admin:p@", 1))
	if _, err := js.Publish(t.Context(), "codat.events.company.created", nil); err != nil {
		t.Fatal(err)
	}
	s := settings(t, strings.Replace(url, "//", "//ingress:p@", 1), newKey(t, "us"))
	s.Provision = true
	g := run(t, s)
	streamtest.Wait(t, func() bool { return len(g.logs.FilterMessage("provisioning failed; it is tried again").All()) > 0 }, "it could not provision")
	streamtest.Wait(t, func() bool { return g.value(t, "last_accepted_timestamp_seconds", "") > 0 }, "it knows when the last event came")
}
