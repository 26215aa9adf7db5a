package stream_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A stream that took the subject of the events acknowledges them, and no worker ever sees them.
func TestPromise1_AckOfAnotherStreamIsNotTheEvents(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	limit(t, s, func(c *jetstream.StreamConfig) {
		c.Subjects = slices.DeleteFunc(c.Subjects, func(subject string) bool { return subject == "codat.events.>" })
	})
	if _, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"codat.events.>"}}); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s.NC, stream.PublisherOptions{})
	r, err := p.Publish(within(t, 500*time.Millisecond), event(t, "msg_1"))
	if !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Publish() = %+v, %v with the event in OTHER only; want ErrUnavailable", r, err)
	}

	if err := s.JS.DeleteStream(t.Context(), "OTHER"); err != nil {
		t.Fatal(err)
	}
	limit(t, s, func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "codat.events.>") })
	if r, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil || r.Stream != "CODAT" || r.Duplicate {
		t.Errorf("Publish() = %+v, %v once CODAT has its subject; want it stored there", r, err)
	}
}

// encoding/json reads the second form.
func TestPublisher_WaitsForTheAckOfTheSubjectsStream(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"stream":"OTHER","seq":7}`, `{"seq":7, "stream":"OTHER"}`} {
		s := streamtest.New(t)
		if _, err := s.NC.Subscribe("codat.events.>", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) }); err != nil {
			t.Fatal(err)
		}
		p := publisher(t, s.NC, stream.PublisherOptions{})
		r, err := p.Publish(within(t, patience), event(t, "msg_1"))
		if want := (stream.Receipt{Stream: "CODAT", Sequence: 1}); err != nil || r.Stream != want.Stream || r.Sequence != want.Sequence {
			t.Errorf("Publish() with the answer %s = %+v, %v; want %+v", answer, r, err, want)
		}
	}
}
