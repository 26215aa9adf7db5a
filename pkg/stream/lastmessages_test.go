package stream_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestLast_ReadsTheNewestMessageOfEachSubject(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, stream.WorkerSpec{Name: "bookkeeper"})
	bucket := "KV_" + streamtest.Source.ClaimsBucket("bookkeeper")
	var subjects []string
	for i := range 1100 { // more than one request asks for
		subject := fmt.Sprintf("$KV.%s.%d", streamtest.Source.ClaimsBucket("bookkeeper"), i)
		subjects = append(subjects, subject)
		if i%2 == 1 {
			continue // nothing is stored there
		}
		for _, text := range []string{"old", "new"} {
			if _, err := s.JS.PublishAsync(subject, []byte(text), jetstream.WithStallWait(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-s.JS.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("the messages are not stored")
	}
	got := map[string]string{}
	err := stream.Last(t.Context(), s.JS, bucket, subjects, func(m *jetstream.RawStreamMsg) error {
		got[m.Subject] = string(m.Data)
		return nil
	})
	if err != nil || len(got) != len(subjects)/2 || got[subjects[0]] != "new" || got[subjects[1098]] != "new" {
		t.Errorf("Last read %d messages, %v; want the newest of %d subjects", len(got), err, len(subjects)/2)
	}
	if err := stream.Last(t.Context(), s.JS, bucket, subjects[1:2], func(*jetstream.RawStreamMsg) error { return errors.New("called") }); err != nil {
		t.Errorf("Last of a subject without a message = %v; want no call", err)
	}
	if err := stream.Last(t.Context(), s.JS, "NONE", subjects, nil); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("Last = %v; want %v", err, jetstream.ErrStreamNotFound)
	}
}
