package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const patience = time.Minute

const codatSource = streamtest.Source

// event is a message of an event as the ingress stores it.
func event(t testing.TB, id string) *nats.Msg {
	t.Helper()
	m, err := codatSource.Message(stream.Stored{
		ID:        id,
		Timestamp: "1700000000",
		Signature: "v1,c2lnbmF0dXJl",
		Head:      codat.Head{Type: "invoices.write.successful", Company: "company-1"},
		Received:  time.Unix(1700000000, 0),
	}, []byte(`{"eventType":"invoices.write.successful"}`))
	if err != nil {
		t.Fatalf("Message() = %v", err)
	}
	return m
}

func publisher(t testing.TB, nc *nats.Conn, o stream.PublisherOptions) *stream.Publisher {
	t.Helper()
	p, err := stream.NewPublisher(nc, o)
	if err != nil {
		t.Fatalf("NewPublisher() = %v", err)
	}
	t.Cleanup(p.Close)
	return p
}

// within is a context that ends after d.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestPublisher_RecognizesIDAfterRestart(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})

	first, err := p.Publish(within(t, patience), event(t, "msg_1"))
	if want := (stream.Receipt{Stream: "CODAT", Sequence: 1}); err != nil || first != want {
		t.Fatalf("Publish() = %+v, %v; want %+v", first, err, want)
	}
	again := stream.Receipt{Stream: "CODAT", Sequence: 1, Duplicate: true}
	if r, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil || r != again {
		t.Errorf("Publish() of the same id = %+v, %v; want %+v", r, err, again)
	}

	s.Restart()

	if r, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil || r != again {
		t.Errorf("Publish() of the same id after a restart = %+v, %v; want %+v", r, err, again)
	}
	if r, err := p.Publish(within(t, patience), event(t, "msg_2")); err != nil || r.Sequence != 2 || r.Duplicate {
		t.Errorf("Publish() of another id = %+v, %v; want sequence 2", r, err)
	}
}

func TestPublisher_SurvivesServerRestart(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	s.Stop()

	type result struct {
		r   stream.Receipt
		err error
	}
	done := make(chan result)
	go func() {
		r, err := p.Publish(within(t, patience), event(t, "msg_1"))
		done <- result{r, err}
	}()
	streamtest.Wait(t, func() bool { return s.NC.IsReconnecting() }, "the connection is lost")
	s.Start()
	if got := <-done; got.err != nil || got.r.Sequence != 1 {
		t.Errorf("Publish() = %+v, %v; want it stored once the server is back", got.r, got.err)
	}
}

func TestPublisher_FullStream(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	limit(t, s, func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 })
	p := publisher(t, s.NC, stream.PublisherOptions{})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = p.Publish(within(t, patience), event(t, fmt.Sprintf("msg_%d", i)))
	}
	if !errors.Is(err, stream.ErrFull) || errors.Is(err, stream.ErrUnavailable) {
		t.Fatalf("Publish() into a full stream = %v; want ErrFull", err)
	}

	limit(t, s, func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 })
	r, err := p.Publish(within(t, patience), event(t, "msg_after"))
	if err != nil || r.Duplicate {
		t.Errorf("Publish() once there is room = %+v, %v; want it stored", r, err)
	}
}

func TestPublisher_TooLarge(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})

	m := event(t, "msg_1")
	m.Data = make([]byte, s.NC.MaxPayload())
	if _, err := p.Publish(within(t, patience), m); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("Publish() of more than the server takes = %v; want ErrTooLarge", err)
	}

	m = event(t, "msg_1")
	m.Header["large"] = []string{strings.Repeat("x", 64<<10)}
	if _, err := p.Publish(within(t, patience), m); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("Publish() of more headers than the stream takes = %v; want ErrTooLarge", err)
	}

	limit(t, s, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	m = event(t, "msg_1")
	m.Data = make([]byte, 1000)
	if _, err := p.Publish(within(t, patience), m); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("Publish() of more than the stream takes = %v; want ErrTooLarge", err)
	}

	if r, err := p.Publish(within(t, patience), event(t, "msg_1")); err != nil || r.Duplicate {
		t.Errorf("Publish() of a smaller one with the same id = %+v, %v; want it stored", r, err)
	}
}

func TestPublisher_BadSubject(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	m := event(t, "msg_1")
	m.Subject = "codat.events.two words"
	if _, err := p.Publish(within(t, patience), m); !errors.Is(err, stream.ErrBadSubject) {
		t.Errorf("Publish() = %v; want ErrBadSubject", err)
	}
}

func TestPublisher_NamesReasonAtDeadline(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*testing.T, *streamtest.Server)
		try     time.Duration
		says    string
	}{
		{
			"when no stream takes the subject",
			func(t *testing.T, s *streamtest.Server) {
				if err := s.JS.DeleteStream(t.Context(), "CODAT"); err != nil {
					t.Fatal(err)
				}
			},
			0, "no stream takes the subject",
		},
		{
			"when the server is gone",
			func(t *testing.T, s *streamtest.Server) {
				s.Stop()
				streamtest.Wait(t, func() bool { return !s.NC.IsConnected() }, "the connection is lost")
			},
			0, "server is disconnected: no server",
		},
		{
			"when the stream takes no ack",
			func(t *testing.T, s *streamtest.Server) {
				limit(t, s, func(c *jetstream.StreamConfig) { c.NoAck = true })
			},
			50 * time.Millisecond, "no ack in time",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := streamtest.New(t)
			p := publisher(t, s.NC, stream.PublisherOptions{TryTimeout: tt.try})
			tt.prepare(t, s)
			_, err := p.Publish(within(t, 2*time.Second), event(t, "msg_1"))
			if !errors.Is(err, stream.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Publish() = %v; want ErrUnavailable and DeadlineExceeded", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Publish() = %v; want it to say %q", err, tt.says)
			}
		})
	}
}

// nats.go says of a server that was never reached that it takes no headers.
func TestPublisher_WaitsForFirstServer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(s.URL, "nats://"))
	proxy.Cut()
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: proxy.URL()}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := publisher(t, nc, stream.PublisherOptions{})

	_, err = p.Publish(within(t, time.Second), event(t, "msg_1"))
	if !errors.Is(err, stream.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, nats.ErrDisconnected) {
		t.Fatalf("Publish() = %v; want ErrUnavailable, DeadlineExceeded and ErrDisconnected", err)
	}
	if why := "server is disconnected: no server"; !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "headers") {
		t.Errorf("Publish() = %v; want it to say %q, and nothing of headers", err, why)
	}

	done := make(chan error)
	go func() {
		_, err := p.Publish(within(t, patience), event(t, "msg_2"))
		done <- err
	}()
	proxy.Heal()
	if err := <-done; err != nil {
		t.Errorf("Publish() = %v; want it stored once there is a server", err)
	}
}

func TestPublisher_NamesCancelledContext(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Publish(ctx, event(t, "msg_1")); !errors.Is(err, context.Canceled) || !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Publish() = %v; want Canceled and ErrUnavailable", err)
	}
	if n := stored(t, s.JS, "CODAT"); n != 0 {
		t.Errorf("stored %d messages; want none of a caller that had gone", n)
	}
}

func TestPublisher_BusyWhenWindowIsFull(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	limit(t, s, func(c *jetstream.StreamConfig) { c.NoAck = true })
	p := publisher(t, s.NC, stream.PublisherOptions{Window: 3})

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 3 {
		m := event(t, fmt.Sprintf("msg_%d", i))
		wg.Go(func() {
			if _, err := p.Publish(ctx, m); !errors.Is(err, stream.ErrUnavailable) {
				t.Errorf("Publish() of one in the window = %v; want ErrUnavailable", err)
			}
		})
	}
	streamtest.Wait(t, func() bool { return stored(t, s.JS, "CODAT") == 3 }, "three are in flight")
	if _, err := p.Publish(within(t, patience), event(t, "msg_4")); !errors.Is(err, stream.ErrBusy) {
		t.Errorf("Publish() over the window = %v; want ErrBusy", err)
	}
	cancel()
	wg.Wait()

	limit(t, s, func(c *jetstream.StreamConfig) { c.NoAck = false })
	if _, err := p.Publish(within(t, patience), event(t, "msg_5")); err != nil {
		t.Errorf("Publish() once the window is free = %v", err)
	}
}

func TestPublisher_RefusesAfterClose(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	p.Close()
	p.Close()
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Publish() = %v; want ErrUnavailable", err)
	}

	p = publisher(t, s.NC, stream.PublisherOptions{})
	s.NC.Close()
	if _, err := p.Publish(within(t, patience), event(t, "msg_1")); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Publish() on a closed connection = %v; want ErrUnavailable", err)
	}
}

// Any subscriber of a subject can answer a publish. Only the ack of a stream counts.
func TestPublisher_WaitsForAckOfStream(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"thanks", "", "{}", `{"stream":"CODAT"}`, `{"stream":"","seq":7}`, "+OK"} {
		t.Run(answer, func(t *testing.T) {
			s := streamtest.New(t)
			if _, err := s.NC.Subscribe("codat.events.>", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) }); err != nil {
				t.Fatal(err)
			}
			p := publisher(t, s.NC, stream.PublisherOptions{})
			r, err := p.Publish(within(t, patience), event(t, "msg_1"))
			if want := (stream.Receipt{Stream: "CODAT", Sequence: 1}); err != nil || r != want {
				t.Errorf("Publish() = %+v, %v; want %+v", r, err, want)
			}
		})
	}
}

func TestPublisher_ReadsAcksInAnyForm(t *testing.T) {
	t.Parallel()
	tests := []struct {
		answer string
		want   stream.Receipt
		err    error
	}{
		{`{"stream":"S","seq":12}`, stream.Receipt{Stream: "S", Sequence: 12}, nil},
		{`{"stream":"S","seq":12,"duplicate": true}`, stream.Receipt{Stream: "S", Sequence: 12, Duplicate: true}, nil},
		{`{"stream":"S", "seq": 12, "duplicate":true, "new": [1]}`, stream.Receipt{Stream: "S", Sequence: 12, Duplicate: true}, nil},
		{`{"stream":"S","domain":"hub","seq":12}`, stream.Receipt{Stream: "S", Sequence: 12}, nil},
		{`{"stream":"S","seq":18446744073709551615}`, stream.Receipt{Stream: "S", Sequence: 1<<64 - 1}, nil},
		{`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}`, stream.Receipt{}, stream.ErrFull},
		{`{"error":{"code":503,"err_code":10077,"description":"message to large"},"stream":"S","seq":0}`, stream.Receipt{}, stream.ErrTooLarge},
		{`{"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}`, stream.Receipt{}, stream.ErrFull},
		{`{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"}}`, stream.Receipt{}, stream.ErrFull},
		{`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`, stream.Receipt{}, stream.ErrTooLarge},
		{`{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}}`, stream.Receipt{}, stream.ErrUnavailable},
	}
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	for i, tt := range tests {
		t.Run(tt.answer, func(t *testing.T) {
			subject := fmt.Sprintf("answers.%d", i)
			sub, err := s.NC.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(tt.answer)) })
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Unsubscribe()
			r, err := p.Publish(within(t, patience), &nats.Msg{Subject: subject})
			if !errors.Is(err, tt.err) || r != tt.want {
				t.Errorf("Publish() = %+v, %v; want %+v, %v", r, err, tt.want, tt.err)
			}
		})
	}
}

// After a partition, the leader of nats-server 2.15.2 can give this answer for one id until it is restarted.
func TestPublisher_SaysThatIDIsInProcess(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	if _, err := s.NC.Subscribe("answers", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}`))
	}); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s.NC, stream.PublisherOptions{})
	m := event(t, "msg_1")
	m.Subject = "answers"
	_, err := p.PublishUntil(t.Context(), time.Now().Add(500*time.Millisecond), m)
	if !errors.Is(err, stream.ErrInProcess) || !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Publish() = %v; want ErrInProcess and ErrUnavailable", err)
	}
}

func TestPublisher_RetriesUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		`{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}`,
		`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`,
		`{"error":{"code":429,"err_code":10167,"description":"too many requests"}}`,
		`{"error":{"code":503,"err_code":10077,"description":"store is closed"}}`,
	} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			s := streamtest.New(t)
			var tries atomic.Int64
			var ids sync.Map
			if _, err := s.NC.Subscribe("answers", func(m *nats.Msg) {
				ids.Store(m.Header.Get(jetstream.MsgIDHeader), true)
				if tries.Add(1) < 3 {
					_ = m.Respond([]byte(answer))
					return
				}
				_ = m.Respond([]byte(`{"stream":"S","seq":1}`))
			}); err != nil {
				t.Fatal(err)
			}
			p := publisher(t, s.NC, stream.PublisherOptions{})
			m := event(t, "msg_1")
			m.Subject = "answers"
			if r, err := p.Publish(within(t, patience), m); err != nil || r.Sequence != 1 || tries.Load() != 3 {
				t.Errorf("Publish() = %+v, %v after %d tries; want sequence 1 after 3", r, err, tries.Load())
			}
			if _, ok := ids.Load("msg_1"); !ok {
				t.Error("the tries did not carry the message id")
			}
		})
	}
}

// An ack that comes while the next try waits is as good as any.
func TestPublisher_AcceptsLateAck(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	var tries atomic.Int64
	first := make(chan *nats.Msg, 10)
	if _, err := s.NC.Subscribe("answers", func(m *nats.Msg) {
		tries.Add(1)
		first <- m
	}); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s.NC, stream.PublisherOptions{TryTimeout: time.Millisecond})
	done := make(chan error)
	go func() {
		_, err := p.Publish(within(t, patience), &nats.Msg{Subject: "answers"})
		done <- err
	}()
	m := <-first
	<-first // the second try is on its way, and the first is answered
	if err := m.Respond([]byte(`{"stream":"S","seq":1}`)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Publish() = %v; want the ack of the first try", err)
	}
}

// The ack of a message whose caller has gone is dropped, and does not count for the next message.
func TestPublisher_IgnoresAckOfAnotherMessage(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	sent := make(chan *nats.Msg, 10)
	if _, err := s.NC.Subscribe("answers", func(m *nats.Msg) { sent <- m }); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s.NC, stream.PublisherOptions{Window: 1})
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		r   stream.Receipt
		err error
	}
	done := make(chan result)
	publish := func(ctx context.Context) {
		r, err := p.Publish(ctx, &nats.Msg{Subject: "answers"})
		done <- result{r, err}
	}
	go publish(ctx)
	first := <-sent
	cancel()
	<-done

	go publish(within(t, patience))
	second := <-sent
	for i, m := range []*nats.Msg{first, second} {
		if err := m.Respond(fmt.Appendf(nil, `{"stream":"S","seq":%d}`, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-done; got.err != nil || got.r.Sequence != 2 {
		t.Errorf("Publish() = %+v, %v; want its own ack, at 2", got.r, got.err)
	}
}

// The ingress reuses the memory of a body as soon as Publish has returned, however it returned.
func TestPublisher_KeepsNothingOfBody(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	body := make([]byte, 100)
	for i := range 200 {
		want := []byte(fmt.Sprintf("%0100d", i))
		copy(body, want)
		m := event(t, fmt.Sprintf("msg_%d", i))
		m.Data = body
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if i%2 == 0 {
			time.AfterFunc(50*time.Microsecond, cancel)
		}
		_, _ = p.Publish(ctx, m)
		cancel()
		for j := range body {
			body[j] = 'X'
		}
	}
	if err := s.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	each(t, s.JS, "CODAT", func(m jetstream.Msg) {
		if strings.Contains(string(m.Data()), "X") {
			t.Errorf("stored %q; want the body as it was when Publish was called", m.Data())
		}
	})
}

func TestPublisher_DoesNotChangeMessage(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	m := event(t, "msg_1")
	want := fmt.Sprintf("%+v", *m)
	if _, err := p.Publish(within(t, patience), m); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", *m); got != want {
		t.Errorf("after Publish() the message is %s; want %s", got, want)
	}
}

func TestNewPublisher_RefusesNegativeNumbers(t *testing.T) {
	t.Parallel()
	if _, err := stream.NewPublisher(nil, stream.PublisherOptions{Window: -1}); err == nil {
		t.Error("NewPublisher() = nil for a window of -1")
	}
}

// limit changes the stream of the events behind Provision's back.
func limit(t testing.TB, s *streamtest.Server, change func(*jetstream.StreamConfig)) {
	t.Helper()
	st, err := s.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	change(&cfg)
	if _, err := s.JS.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatalf("UpdateStream() = %v", err)
	}
}

// stored is how many messages a stream has.
func stored(t testing.TB, js jetstream.JetStream, name string) uint64 {
	t.Helper()
	st, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatalf("Stream(%s) = %v", name, err)
	}
	return st.CachedInfo().State.Msgs
}

// each gives all messages of a stream, in order.
func each(t testing.TB, js jetstream.JetStream, name string, do func(jetstream.Msg)) {
	t.Helper()
	n := stored(t, js, name)
	if n == 0 {
		return
	}
	c, err := js.OrderedConsumer(t.Context(), name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	it, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer it.Stop()
	for range n {
		m, err := it.Next(jetstream.NextContext(within(t, patience)))
		if err != nil {
			t.Fatal(err)
		}
		do(m)
	}
}

func BenchmarkPublish(b *testing.B) {
	s := streamtest.New(b)
	p := publisher(b, s.NC, stream.PublisherOptions{})
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := event(b, fmt.Sprintf("msg_%d", n.Add(1)))
			if _, err := p.Publish(context.Background(), m); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
