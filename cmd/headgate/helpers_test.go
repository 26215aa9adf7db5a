package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const source = streamtest.Source

// broker is a NATS server with events as the ingress stores them.
type broker struct {
	*streamtest.Server
	testing.TB
	publisher *stream.Publisher
}

func newBroker(t testing.TB, workers ...stream.WorkerSpec) *broker {
	t.Helper()
	s := streamtest.New(t, workers...)
	p, err := stream.NewPublisher(s.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &broker{s, t, p}
}

// headgate runs a command with this server.
func (r *broker) headgate(want int, args ...string) *command {
	r.Helper()
	return headgate(r, want, append(args, "--nats-url", r.URL)...)
}

// store stores a message as the ingress does, and returns its sequence.
func (r *broker) store(e stream.Stored, body []byte) uint64 {
	r.Helper()
	msg, err := source.Message(e, body)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	receipt, err := r.publisher.Publish(ctx, msg)
	if err != nil {
		r.Fatal(err)
	}
	return receipt.Sequence
}

// event stores an example with an id.
func (r *broker) event(typ, id string) uint64 {
	r.Helper()
	e, ok := examples.Of(typ)
	if !ok {
		r.Fatalf("there is no example of %s", typ)
	}
	head, err := codat.Read(e.Body)
	if err != nil {
		r.Fatal(err)
	}
	return r.store(stream.Stored{ID: id, Timestamp: "1", Signature: "v1,x", Head: head, Received: time.Now()}, e.Body)
}

// quarantined stores an unreadable body with an id.
func (r *broker) quarantined(id, reason string, body []byte) uint64 {
	r.Helper()
	head, _ := codat.Read(body)
	return r.store(stream.Stored{
		ID: id, Timestamp: "1700000000", Signature: "v1,x", Head: head, Received: time.Now().Add(-time.Hour).Truncate(time.Second),
		ContentType: "application/json", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Quarantine: reason,
	}, body)
}

// message returns the message of a sequence in a stream.
func (r *broker) message(name string, sequence uint64) *jetstream.RawStreamMsg {
	r.Helper()
	st, err := r.JS.Stream(r.Context(), name)
	if err != nil {
		r.Fatal(err)
	}
	m, err := st.GetMsg(r.Context(), sequence)
	if err != nil {
		r.Fatalf("message %d of %s: %v", sequence, name, err)
	}
	return m
}

// messages returns the messages of a stream with this subject, in order.
func (r *broker) messages(name, subject string) []*jetstream.RawStreamMsg {
	r.Helper()
	st, err := r.JS.Stream(r.Context(), name)
	if err != nil {
		r.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := st.CachedInfo().State
	for sequence := state.FirstSeq; sequence > 0 && sequence <= state.LastSeq; sequence++ {
		if m := r.message(name, sequence); m.Subject == subject {
			all = append(all, m)
		}
	}
	return all
}

// records returns the operators' records.
func (r *broker) records() []operator.Entry {
	r.Helper()
	var all []operator.Entry
	for _, m := range r.messages(source.OperatorStream(), source.OperatorSubject()) {
		var d operator.Entry
		if err := json.Unmarshal(m.Data, &d); err != nil {
			r.Fatal(err)
		}
		if d.Host == "" || d.User == "" || time.Since(d.At) > time.Hour {
			r.Errorf("the record %s has no user, host or time", m.Data)
		}
		all = append(all, d)
	}
	return all
}

// wantHeaders reports headers that differ; "" means absent.
func wantHeaders(t testing.TB, h nats.Header, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := h.Get(name); got != value {
			t.Errorf("header %s = %q; want %q", name, got, value)
		}
	}
}

// decode parses lines of JSON.
func decode[T any](t testing.TB, lines []string) []T {
	t.Helper()
	var all []T
	for _, line := range lines {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, v)
	}
	return all
}

// printedEvent is an event as commands print it with --json --payload.
type printedEvent struct {
	inspect.Event
	payload
}
