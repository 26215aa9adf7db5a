package streamtest_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestServer_KeepsMessagesOverRestart(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	if _, err := s.JS.Publish(t.Context(), "codat.events.company.created", []byte("{}"), jetstream.WithMsgID("msg_1")); err != nil {
		t.Fatalf("Publish() = %v", err)
	}
	url := s.URL

	s.Restart()

	if s.NC.ConnectedUrl() != url {
		t.Errorf("after Restart() the server is at %s; want %s", s.NC.ConnectedUrl(), url)
	}
	ack, err := s.JS.Publish(t.Context(), "codat.events.company.created", []byte("{}"), jetstream.WithMsgID("msg_1"))
	if err != nil {
		t.Fatalf("Publish() after Restart() = %v", err)
	}
	if !ack.Duplicate || ack.Sequence != 1 {
		t.Errorf("Publish() after Restart() = duplicate %t at %d; want the duplicate of 1", ack.Duplicate, ack.Sequence)
	}
}
