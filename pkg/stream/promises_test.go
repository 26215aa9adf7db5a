package stream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Whoever subscribes to a subject that no stream has can answer there whatever it likes. Without a stream's name and a
// sequence it is no ack, and nothing is stored.
func TestPromise1WithoutASequenceNothingIsStored(t *testing.T) {
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
