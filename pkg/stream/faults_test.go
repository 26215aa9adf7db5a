package stream_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The stream has the event, and its ack is lost: the publisher asks again with the same id, and is told.
func TestPublisher_RetriesLostAck(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(s.URL, "nats://"))
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: proxy.URL()}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p := publisher(t, nc, stream.PublisherOptions{TryTimeout: 100 * time.Millisecond})
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	tries := watchTries(t, s, "msg_2")

	proxy.Mute()
	done := make(chan error)
	var r stream.Receipt
	go func() {
		var err error
		r, err = p.Publish(within(t, patience), event(t, "msg_2"))
		done <- err
	}()
	streamtest.Wait(t, func() bool { return tries.Load() >= 2 }, "the publisher tries again while it hears nothing")
	proxy.Heal()

	if err := <-done; err != nil {
		t.Fatalf("Publish() = %v", err)
	}
	if want := (stream.Receipt{Stream: "CODAT", Sequence: 2, Duplicate: true}); r != want {
		t.Errorf("Publish() = %+v; want %+v", r, want)
	}
	if n := stored(t, s.JS, "CODAT"); n != 2 {
		t.Errorf("stored %d messages; want 2", n)
	}
}

// A connection that breaks is noticed at once, and not when the ack is late.
func TestPublisher_NoticesLostConnection(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(s.URL, "nats://"))
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: proxy.URL()}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc, stream.PublisherOptions{TryTimeout: time.Hour})
	tries := watchTries(t, s, "msg_1")

	proxy.Mute()
	done := make(chan error)
	go func() {
		_, err := p.Publish(within(t, patience), event(t, "msg_1"))
		done <- err
	}()
	streamtest.Wait(t, func() bool { return tries.Load() >= 1 }, "the event has reached the server")
	proxy.Heal() // breaks the connection on which the ack was lost
	if err := <-done; err != nil {
		t.Errorf("Publish() = %v; want it to ask again on the next connection", err)
	}
}

// watchTries counts how often a message is published.
func watchTries(t testing.TB, s *streamtest.Server, id string) *atomic.Int64 {
	t.Helper()
	var tries atomic.Int64
	if _, err := s.NC.Subscribe("codat.events.>", func(m *nats.Msg) {
		if m.Header.Get(jetstream.MsgIDHeader) == id {
			tries.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	return &tries
}

// What fails stays failed: nothing of it is sent when the connection is back.
func TestPublisher_SendsNothingAfterFailure(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	s.Stop()
	streamtest.Wait(t, func() bool { return !s.NC.IsConnected() }, "the connection is lost")
	if _, err := p.Publish(within(t, 100*time.Millisecond), event(t, "msg_1")); err == nil {
		t.Fatal("Publish() without a server = nil")
	}
	s.Start()
	if r, err := p.Publish(within(t, patience), event(t, "msg_2")); err != nil || r.Sequence != 1 {
		t.Errorf("Publish() = %+v, %v; want the first that is stored", r, err)
	}
}
