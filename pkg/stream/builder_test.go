package stream

import (
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
)

// A message that is made in the place of another has nothing of it.
func TestBuilder_ReusesNoValue(t *testing.T) {
	t.Parallel()
	text := func(t *rapid.T, name string) string {
		return rapid.SampledFrom([]string{"", "", "a", "b", "\x01", "\u00e9 %"}).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		var b Builder
		for range 5 {
			e := Stored{
				ID: rapid.SampledFrom([]string{"msg_1", "msg_2"}).Draw(t, "id"), Timestamp: text(t, "timestamp"), Signature: text(t, "signature"),
				Head:        codat.Head{Type: "company.created", Company: text(t, "company"), Connection: text(t, "connection")},
				ContentType: text(t, "type"), ContentEncoding: text(t, "encoding"), TraceParent: text(t, "trace"), Quarantine: text(t, "quarantine"),
			}
			if rapid.Bool().Draw(t, "dated") {
				e.Head.Generated, e.Received = time.Unix(1, 2), time.Unix(3, 4)
			}
			body := []byte(text(t, "body"))
			want, err := Source("codat").Message(e, body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := b.Message("codat", e, body); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Message() = %+v, %v; want %+v", got, err, want)
			}
		}
	})
}

// However often a connection was lost, a publish has a place for the answer that comes then.
func TestPublisher_HasSpaceForAnAnswerAfterLostConnections(t *testing.T) {
	t.Parallel()
	p := &Publisher{inbox: "_INBOX.x", slots: make([]atomic.Pointer[slot], 1), free: make(chan *slot, 1)}
	s := p.take()
	subject := s.begin()
	for range 5 {
		p.wakeAll()
	}
	ack := &nats.Msg{Subject: subject}
	p.deliver(ack)
	for {
		select {
		case m := <-s.acks:
			if m == ack {
				return
			}
		default:
			t.Fatal("the answer was dropped")
		}
	}
}

func TestPublisher_EndsAtDeadline(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name  string
		ctx   context.Context
		until time.Time
		want  error
	}{
		{"no end", t.Context(), time.Time{}, nil},
		{"later", t.Context(), now.Add(time.Hour), nil},
		{"past", t.Context(), now, context.DeadlineExceeded},
		{"cancelled", cancelled, now.Add(time.Hour), context.Canceled},
	} {
		if got := expired(tt.ctx, tt.until); !errors.Is(got, tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%s: ended() = %v; want %v", tt.name, got, tt.want)
		}
	}
	s := &slot{timer: time.NewTimer(time.Hour)}
	s.wait(time.Hour, now)
	<-s.timer.C // the end comes first
}
