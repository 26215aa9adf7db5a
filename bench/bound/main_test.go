package main

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/valyala/fasthttp"

	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// With all headers the bound stores what the ingress stores.
func TestAllHeadersAreThoseOfTheIngress(t *testing.T) {
	signer, err := load.NewSigner(load.NewSecret(), 600)
	if err != nil {
		t.Fatal(err)
	}
	batch := new(load.Batch)
	signer.Sign(batch, 1, time.Now())
	h, body, err := load.Read(batch.Request(0))
	if err != nil {
		t.Fatal(err)
	}
	head, err := codat.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	want, err := stream.Source("codat").Message(stream.Stored{
		ID: h.Get("webhook-id"), Timestamp: h.Get("webhook-timestamp"), Signature: h.Get("webhook-signature"),
		Head: head, Received: time.Now(), ContentType: h.Get("Content-Type"),
	}, body)
	if err != nil {
		t.Fatal(err)
	}

	var request fasthttp.RequestHeader
	for name := range h {
		request.Set(name, h.Get(name))
	}
	text := header([]byte("NATS/1.0\r\n"), "Nats-Msg-Id", request.Peek("Webhook-Id"))
	text = append(all(text, &request, "codat", member(body, `"eventType":"`), body), "\r\n"...)
	got, err := nats.DecodeHeadersMsg(text)
	if err != nil {
		t.Fatalf("DecodeHeadersMsg(%q) = %v", text, err)
	}
	if names := slices.Sorted(maps.Keys(want.Header)); !slices.Equal(slices.Sorted(maps.Keys(got)), names) {
		t.Errorf("headers = %q; want %q", slices.Sorted(maps.Keys(got)), names)
	}
	for name, values := range want.Header {
		if name != "ce-receivedtime" && !slices.Equal(got[name], values) {
			t.Errorf("%s = %q; want %q", name, got[name], values)
		}
	}
}
