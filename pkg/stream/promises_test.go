package stream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Any subscriber of a subject that no stream takes can answer a publish there. Without a stream's name and a
// sequence it is no ack, and nothing is stored.
func TestPromise1_AckWithoutSequenceIsNoSuccess(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	for _, answer := range []string{`{"stream":"S"}`, `{"stream":"S","seq":0}`, `{"seq":7}`, `{}`, "", "+OK"} {
		t.Run(answer, func(t *testing.T) {
			sub, err := s.NC.Subscribe("answers", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Unsubscribe()
			if err := s.NC.Flush(); err != nil {
				t.Fatal(err)
			}
			r, err := p.Publish(within(t, 300*time.Millisecond), &nats.Msg{Subject: "answers"})
			if !errors.Is(err, stream.ErrUnavailable) {
				t.Errorf("Publish() = %+v, %v; want ErrUnavailable", r, err)
			}
		})
	}
}

// A stream that was made with compression, by hand or by an older version, loses it: what the server compresses it may
// not be able to read again. What is in it stays.
func TestPromise1_ProvisionRemovesCompression(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	st, err := s.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	compressed := st.CachedInfo().Config
	compressed.Compression = jetstream.S2Compression
	if _, err := s.JS.UpdateStream(t.Context(), compressed); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s.NC, stream.PublisherOptions{})
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	changes := streamtest.Provision(t, s.JS, stream.Layout{Source: streamtest.Source})
	if got := changes[0]; got.Object != "stream CODAT" || got.Action != stream.Update {
		t.Errorf("Provision() reports %v; want stream CODAT updated", got)
	}
	st, err = s.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	if got := st.CachedInfo(); got.Config.Compression != jetstream.NoCompression || got.State.Msgs != 1 {
		t.Errorf("after Provision() compression %v, %d messages; want none, and the one that was stored", got.Config.Compression, got.State.Msgs)
	}
}
