package ingress_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// The quarantine is for what is proven. Whatever cannot be read as an event, or names itself oddly, must prove first,
// and is answered as any other forgery.
func TestPromise3_WhatIsUnreadableMustProveToo(t *testing.T) {
	ours, theirs := key(t, "us"), key(t, "somebody else")
	var calls atomic.Int64
	d := openDoor(t, []signature.Key{ours.Key}, 8, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
		calls.Add(1)
		return stream.Receipt{Sequence: 1}, nil
	}))
	tests := []struct {
		name, id, body string
		change         func(http.Header)
	}{
		{"not JSON", "msg_1", "hello", nil},
		{"empty", "msg_1", "", nil},
		{"no object", "msg_1", "[1]", nil},
		{"no type", "msg_1", `{"success":true}`, nil},
		{"a type that cannot be a subject", "msg_1", event("a b"), nil},
		{"an odd id", "msg.1", event("company.created"), nil},
		{"encoded", "msg_1", event("company.created"), func(h http.Header) { h.Set("Content-Encoding", "gzip") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := post(d.url, theirs, tt.id, tt.body)
			if tt.change != nil {
				tt.change(req.Header)
			}
			if got := send(t, req); got.status != 401 {
				t.Errorf("answered %d; want 401", got.status)
			}
		})
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("the store was called %d times; want never", n)
	}
}

// From the signal on the process says that it is not ready because it stops, and goes on saying so.
func TestPromise7_WhoeverStopsIsNotReady(t *testing.T) {
	g, _ := start(t, key(t, "us"))
	g.stop()
	if err := <-g.ended; err != nil {
		t.Errorf("Run = %v; want nil", err)
	}
	if err := g.Health.Ready(); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("readiness says %v; want it to be stopping", err)
	}
}
