package stream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The smallest permissions with which each role works. deploy/nats gives no more.
const roles = `authorization: { users: [
	{ user: admin, password: p }
	{ user: ingress, password: p, permissions: {
		publish: [ "codat.events.>", "codat.quarantine", "$JS.API.STREAM.INFO.CODAT" ]
		subscribe: "_INBOX_ingress.>" } }
	{ user: writer, password: p, permissions: {
		publish: [
			"$JS.API.CONSUMER.INFO.CODAT.writer", "$JS.API.CONSUMER.MSG.NEXT.CODAT.writer", "$JS.ACK.CODAT.writer.>", "$JS.ACK.*.*.CODAT.writer.>"
			"$JS.API.CONSUMER.INFO.CODAT_PARKED.writer", "$JS.API.CONSUMER.MSG.NEXT.CODAT_PARKED.writer", "$JS.ACK.CODAT_PARKED.writer.>", "$JS.ACK.*.*.CODAT_PARKED.writer.>"
			"codat.dead.writer.>", "codat.parked.writer.>"
			"$JS.API.STREAM.INFO.KV_CODAT_claims_writer", "$JS.API.DIRECT.GET.KV_CODAT_claims_writer.>", "$KV.CODAT_claims_writer.>"
		]
		subscribe: "_INBOX_writer.>" } }
	{ user: nobody, password: p, permissions: { publish: "nothing", subscribe: "_INBOX_nobody.>" } }
] }`

func as(t testing.TB, url, user string, log *zap.Logger) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: strings.Replace(url, "nats://", "nats://"+user+":p@", 1)}, user, log)
	if err != nil {
		t.Fatalf("Connect() as %s = %v", user, err)
	}
	t.Cleanup(nc.Close)
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Fatalf("Connected() as %s = %v", user, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestPermissions_OfRolesAreEnough(t *testing.T) {
	t.Parallel()
	url, _ := streamtest.Configured(t, roles)
	writer := stream.WorkerSpec{Name: "writer", Types: []codat.Pattern{"*.write.successful"}}
	_, admin := as(t, url, "admin", nil)
	streamtest.Provision(t, admin, stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{writer}})

	ingress, ijs := as(t, url, "ingress", nil)
	if err := codatSource.Check(within(t, patience), ijs, 64<<10); err != nil {
		t.Errorf("Check() as ingress = %v", err)
	}
	p := publisher(t, ingress, stream.PublisherOptions{})
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil {
		t.Errorf("Publish() as ingress = %v", err)
	}

	worker, wjs := as(t, url, "writer", nil)
	events, parked, err := stream.Bind(within(t, patience), wjs, codatSource, writer)
	if err != nil {
		t.Fatalf("Bind() as writer = %v", err)
	}
	wp := publisher(t, worker, stream.PublisherOptions{})
	m := event(t, "msg_1")
	for _, subject := range []string{codatSource.ParkedSubject("writer", "x"), codatSource.DeadSubject("writer", "x")} {
		m.Subject = subject
		if _, err := wp.Publish(within(t, patience), m); err != nil {
			t.Errorf("Publish() to %s as writer = %v", subject, err)
		}
	}
	for _, c := range []jetstream.Consumer{events, parked} {
		// The consumer of the events begins with what comes after it was made: with the event above.
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatalf("Next() as writer = %v", err)
		}
		if err := m.DoubleAck(within(t, patience)); err != nil {
			t.Errorf("DoubleAck() as writer = %v", err)
		}
	}
	kv, err := wjs.KeyValue(within(t, patience), codatSource.ClaimsBucket("writer"))
	if err != nil {
		t.Fatalf("KeyValue() as writer = %v", err)
	}
	if _, err := kv.Create(within(t, patience), "key", []byte("claim")); err != nil {
		t.Errorf("Create() as writer = %v", err)
	}
	if e, err := kv.Get(within(t, patience), "key"); err != nil || string(e.Value()) != "claim" {
		t.Errorf("Get() as writer = %v, %v", e, err)
	}
}

// A permission that is missing is named, and long before a request would run into its deadline.
func TestPermissionError_NamesSubject(t *testing.T) {
	t.Parallel()
	url, _ := streamtest.Configured(t, roles)
	logged, logs := observer.New(zap.ErrorLevel)
	nc, js := as(t, url, "nobody", zap.New(logged))
	writer := stream.WorkerSpec{Name: "writer", Types: []codat.Pattern{"*.write.successful"}}
	p := publisher(t, nc, stream.PublisherOptions{TryTimeout: 100 * time.Millisecond})

	_, provisionErr := stream.Provision(within(t, patience), js, stream.Layout{Source: codatSource}, true)
	_, _, bindErr := stream.Bind(within(t, patience), js, codatSource, writer)
	_, publishErr := p.Publish(within(t, 3*time.Second), event(t, "msg_1"))
	for _, tt := range []struct {
		what    string
		err     error
		subject string
	}{
		{"Check()", codatSource.Check(within(t, patience), js, 64<<10), "$JS.API.STREAM.INFO.CODAT"},
		{"Provision()", provisionErr, "$JS.API.STREAM.INFO.CODAT"},
		{"Bind()", bindErr, "$JS.API.CONSUMER.INFO.CODAT.writer"},
		{"Publish()", publishErr, "codat.events.invoices.write.successful"},
	} {
		if !errors.Is(tt.err, nats.ErrPermissionViolation) || !strings.Contains(tt.err.Error(), fmt.Sprintf("%q", tt.subject)) {
			t.Errorf("%s = %v; want it to name the permission on %s", tt.what, tt.err, tt.subject)
		}
		streamtest.Wait(t, func() bool {
			for _, e := range logs.FilterMessage("permission missing").All() {
				if strings.Contains(e.ContextMap()["error"].(string), tt.subject) {
					return true
				}
			}
			return false
		}, "the permission on "+tt.subject+" is logged as missing")
	}
}
