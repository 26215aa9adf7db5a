package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
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

// put stores an event as the ingress does.
func put(t testing.TB, js jetstream.JetStream, typ, id, body string) {
	t.Helper()
	m, err := codatSource.Message(stream.Stored{ID: id, Head: codat.Head{Type: typ, Company: "company-1"}, Received: time.Unix(1700000000, 0)}, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(within(t, patience), m); err != nil {
		t.Fatal(err)
	}
}

func putWrite(t testing.TB, js jetstream.JetStream, id string) {
	put(t, js, "invoices.write.successful", id, fmt.Sprintf(`{"payload":{"id":"push-%s"}}`, id))
}

// A service is a subscription that writes down what its handler got.
type service[P any] struct {
	t     testing.TB
	stop  context.CancelFunc
	ended chan error

	mu  sync.Mutex
	got []codat.Event[P]
}

// serve subscribes until stop is called or the test ends. act says what the handler answers.
func serve[P any](t testing.TB, js jetstream.JetStream, name codat.Name[P], o stream.Subscription, act func(context.Context, codat.Event[P]) error) *service[P] {
	t.Helper()
	o.Source = codatSource
	ctx, cancel := context.WithCancel(context.Background())
	s := &service[P]{t: t, stop: cancel, ended: make(chan error, 1)}
	go func() {
		s.ended <- stream.Subscribe(ctx, js, name, o, func(ctx context.Context, e codat.Event[P]) error {
			err := act(ctx, e)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.got = append(s.got, e)
			return err
		})
	}()
	t.Cleanup(func() { s.end(nil) })
	return s
}

// end stops the service, and reports an end that is not as wanted.
func (s *service[P]) end(want error) {
	s.t.Helper()
	s.stop()
	select {
	case err := <-s.ended:
		if !errors.Is(err, want) {
			s.t.Errorf("Subscribe() = %v; want %v", err, want)
		}
		s.ended <- want
	case <-time.After(patience):
		s.t.Error("Subscribe() does not end")
	}
}

// ids are those of the events that were handled, as often as they were.
func (s *service[P]) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.got {
		ids = append(ids, e.WebhookID)
	}
	return ids
}

func (s *service[P]) waits(want ...string) {
	s.t.Helper()
	streamtest.Wait(s.t, func() bool { return len(s.ids()) >= len(want) }, strings.Join(want, " ")+" to be handled")
	if got := s.ids(); !slices.Equal(got, want) {
		s.t.Errorf("handled are %q; want %q", got, want)
	}
}

func fine[P any](context.Context, codat.Event[P]) error { return nil }

// Five hundred large events at once would be more than a server keeps for a connection on a slow link.
func TestSubscribe_InOrderBoundsItsRequestsInBytes(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	requests, err := srv.NC.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.CODAT.>")
	if err != nil {
		t.Fatal(err)
	}
	large := `{"payload":{"id":"` + strings.Repeat("x", 900<<10) + `"}}`
	var want []string
	for i := range 12 { // more than two requests may bring
		want = append(want, fmt.Sprintf("msg_%d", i))
		put(t, srv.JS, "invoices.write.successful", want[i], large)
	}
	s := serve(t, srv.JS, codat.InvoicesWriteSuccessful, stream.Subscription{Begin: stream.BeginAll()}, fine[codat.Write])
	s.waits(want...)
	for n := 0; ; n++ {
		m, err := requests.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		var asked struct {
			MaxBytes int `json:"max_bytes"`
		}
		if err := json.Unmarshal(m.Data, &asked); err != nil || asked.MaxBytes != 4<<20 {
			t.Errorf("a request asks for %s, %v; want 4 MiB at most", m.Data, err)
		}
		if n == 1 {
			return
		}
	}
}

func TestSubscribe_TypedEvents(t *testing.T) {
	t.Parallel()
	for _, durable := range []string{"billing", ""} {
		t.Run("durable "+durable, func(t *testing.T) {
			srv := streamtest.New(t)
			putWrite(t, srv.JS, "msg_1")
			put(t, srv.JS, "connection.connected", "msg_2", `{"payload":{}}`)
			s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: durable, Begin: stream.BeginAll()}, fine[codat.Write])
			s.waits("msg_1")
			putWrite(t, srv.JS, "msg_3")
			s.waits("msg_1", "msg_3")
			e := s.got[0]
			if e.Payload.PushOperationKey() != "push-msg_1" || e.Type != "invoices.write.successful" || e.Company != "company-1" ||
				!e.Received.Equal(time.Unix(1700000000, 0)) || e.Sequence != 1 || e.Attempt != 1 || len(e.Body) == 0 {
				t.Errorf("the event is %+v", e)
			}
		})
	}
}

func TestSubscribe_Begin(t *testing.T) {
	t.Parallel()
	for _, durable := range []string{"billing", ""} {
		for _, tt := range []struct {
			begin stream.Begin
			want  []string
		}{
			{stream.BeginAll(), []string{"msg_1", "msg_2"}},
			{stream.BeginFrom(time.Now().Add(-time.Hour)), []string{"msg_1", "msg_2"}},
			{stream.BeginNew(), []string{"msg_2"}},
		} {
			t.Run(durable+" "+tt.begin.String(), func(t *testing.T) {
				srv := streamtest.New(t)
				putWrite(t, srv.JS, "msg_1")
				s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: durable, Begin: tt.begin}, fine[codat.Write])
				st, err := srv.JS.Stream(t.Context(), codatSource.Stream())
				if err != nil {
					t.Fatal(err)
				}
				streamtest.Wait(t, func() bool {
					info, err := st.Info(t.Context())
					return err == nil && info.State.Consumers == 1
				}, "the consumer to be made")
				putWrite(t, srv.JS, "msg_2")
				s.waits(tt.want...)
			})
		}
	}
}

func TestSubscribe_EveryEvent(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	s := serve(t, srv.JS, stream.Every, stream.Subscription{Durable: "archive", Begin: stream.BeginAll()}, fine[json.RawMessage])
	putWrite(t, srv.JS, "msg_1")
	put(t, srv.JS, "a.type.to.come", "msg_2", `{"payload":{"a":1}}`)
	s.waits("msg_1", "msg_2")
	if got := string(s.got[1].Payload); got != `{"a":1}` {
		t.Errorf("the payload is %s", got)
	}
}

func TestSubscribe_RedeliversFailedEvent(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	twice := func(_ context.Context, e codat.Event[codat.Write]) error {
		if e.WebhookID == "msg_1" && e.Attempt < 3 {
			return boom
		}
		return nil
	}
	t.Run("beside the others when it is durable", func(t *testing.T) {
		srv := streamtest.New(t)
		putWrite(t, srv.JS, "msg_1")
		s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: "billing", Begin: stream.BeginAll(), Retry: 10 * time.Millisecond}, twice)
		s.waits("msg_1", "msg_1", "msg_1")
		for i, e := range s.got {
			if e.Attempt != i+1 {
				t.Errorf("attempt %d calls itself %d", i+1, e.Attempt)
			}
		}
	})
	t.Run("before the others when it is not", func(t *testing.T) {
		srv := streamtest.New(t)
		putWrite(t, srv.JS, "msg_1")
		putWrite(t, srv.JS, "msg_2")
		s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Begin: stream.BeginAll(), Retry: 10 * time.Millisecond}, twice)
		s.waits("msg_1", "msg_1", "msg_1", "msg_2")
	})
	t.Run("also when its payload cannot be decoded", func(t *testing.T) {
		srv := streamtest.New(t)
		put(t, srv.JS, "invoices.write.successful", "msg_1", `{"payload":"no object"}`)
		s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: "billing", Begin: stream.BeginAll(), Retry: 10 * time.Millisecond}, fine[codat.Write])
		streamtest.Wait(t, func() bool {
			c, err := srv.JS.Consumer(context.Background(), codatSource.Stream(), "billing")
			return err == nil && c.CachedInfo().NumRedelivered == 1
		}, "msg_1 to come again")
		s.waits()
	})
}

func TestSubscribe_WhateverAHandlerDoesIsAnOutcome(t *testing.T) {
	for name, do := range map[string]func() error{
		"Goexit":               func() error { runtime.Goexit(); return nil },
		"panic":                func() error { panic("boom") },
		"nil pointer as error": func() error { var e *url.Error; return e },
	} {
		for _, durable := range []string{"", "service"} {
			t.Run(name+" "+durable, func(t *testing.T) {
				t.Parallel()
				srv := streamtest.New(t)
				var runs atomic.Int64
				s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: durable, Begin: stream.BeginAll(), Retry: time.Millisecond}, func(context.Context, codat.Event[codat.Write]) error {
					if runs.Add(1) == 1 {
						return do()
					}
					return nil
				})
				putWrite(t, srv.JS, "msg_1")
				streamtest.Wait(t, func() bool { return runs.Load() == 2 && len(s.ids()) > 0 }, "the event to come again")
			})
		}
	}
}

func TestSubscribe_DurableContinues(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	o := stream.Subscription{Durable: "billing", Begin: stream.BeginNew()}
	first := serve(t, srv.JS, codat.AnyWriteSuccessful, o, fine[codat.Write])
	streamtest.Wait(t, func() bool {
		_, err := srv.JS.Consumer(context.Background(), codatSource.Stream(), "billing")
		return err == nil
	}, "the consumer to be made")
	putWrite(t, srv.JS, "msg_1")
	first.waits("msg_1")
	first.end(nil)
	putWrite(t, srv.JS, "msg_2")
	second := serve(t, srv.JS, codat.AnyWriteSuccessful, o, fine[codat.Write])
	second.waits("msg_2")
}

// What was not finished comes to the next at once, and not after the time that the server waits for an answer.
func TestSubscribe_StopReturnsUnfinishedEvents(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	for i := range 5 {
		putWrite(t, srv.JS, fmt.Sprintf("msg_%d", i))
	}
	o := stream.Subscription{Durable: "billing", Begin: stream.BeginAll(), Concurrency: 2}
	begun := make(chan struct{}, 5)
	first := serve(t, srv.JS, codat.AnyWriteSuccessful, o, func(ctx context.Context, _ codat.Event[codat.Write]) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	<-begun
	<-begun
	first.end(nil)
	if n := len(first.ids()); n != 2 {
		t.Errorf("%d handlers ran; want the two of the concurrency", n)
	}
	second := serve(t, srv.JS, codat.AnyWriteSuccessful, o, fine[codat.Write])
	streamtest.Wait(t, func() bool { return len(second.ids()) >= 5 }, "all five to be handled")
	got := second.ids()
	slices.Sort(got)
	if want := []string{"msg_0", "msg_1", "msg_2", "msg_3", "msg_4"}; !slices.Equal(got, want) {
		t.Errorf("handled are %q; want %q", got, want)
	}
}

func TestSubscribe_SurvivesServerRestart(t *testing.T) {
	t.Parallel()
	for _, durable := range []string{"billing", ""} {
		t.Run("durable "+durable, func(t *testing.T) {
			srv := streamtest.New(t)
			s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: durable, Begin: stream.BeginAll()}, fine[codat.Write])
			putWrite(t, srv.JS, "msg_1")
			s.waits("msg_1")
			srv.Restart()
			putWrite(t, srv.JS, "msg_2")
			// The answer to the first may have been lost.
			streamtest.Wait(t, func() bool { return slices.Contains(s.ids(), "msg_2") }, "msg_2 to be handled")
		})
	}
}

func TestSubscribe_EndsWhenConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: "billing", Begin: stream.BeginAll()}, fine[codat.Write])
	putWrite(t, srv.JS, "msg_1")
	s.waits("msg_1")
	// A pull that waits at the server is told. Between two pulls, only a missing heartbeat would tell, after half a minute.
	streamtest.Wait(t, func() bool {
		c, err := srv.JS.Consumer(t.Context(), codatSource.Stream(), "billing")
		return err == nil && c.CachedInfo().NumWaiting > 0
	}, "a pull waits at the server")
	if err := srv.JS.DeleteConsumer(t.Context(), codatSource.Stream(), "billing"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "was deleted") {
			t.Errorf("Subscribe() = %v; want ErrNotProvisioned", err)
		}
		s.ended <- nil
	case <-time.After(4 * patience):
		t.Error("Subscribe() does not end")
	}
}

func TestSubscribe_Refuses(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t, connections)
	filter := codatSource.EventFilter(codat.Pattern(codat.AnyWriteSuccessful))
	for _, c := range []jetstream.ConsumerConfig{
		{Durable: "wide", FilterSubject: codatSource.EventFilter(">")},
		{Durable: "forgetful", FilterSubject: filter, InactiveThreshold: time.Hour},
		{Durable: "impatient", FilterSubject: filter, MaxDeliver: 3},
		{Durable: "careless", FilterSubject: filter, AckPolicy: jetstream.AckAllPolicy},
		{Durable: "backing", FilterSubject: filter, BackOff: []time.Duration{time.Second}},
		{Durable: "bodiless", FilterSubject: filter, HeadersOnly: true},
	} {
		if _, err := srv.JS.CreateConsumer(t.Context(), codatSource.Stream(), c); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		o    stream.Subscription
		typ  codat.Name[codat.Write]
		is   error
		says string
	}{
		{"a worker's name", stream.Subscription{Durable: "connections"}, codat.AnyWriteSuccessful, stream.ErrDrift, "belongs to a worker"},
		{"a consumer of other events", stream.Subscription{Durable: "wide"}, codat.AnyWriteSuccessful, stream.ErrDrift, "it takes codat.events.>"},
		{"a consumer that is forgotten", stream.Subscription{Durable: "forgetful"}, codat.AnyWriteSuccessful, stream.ErrDrift, "inactive threshold"},
		{"a consumer that gives up", stream.Subscription{Durable: "impatient"}, codat.AnyWriteSuccessful, stream.ErrDrift, "after 3 deliveries"},
		{"a consumer without an ack for each", stream.Subscription{Durable: "careless"}, codat.AnyWriteSuccessful, stream.ErrDrift, "must be explicit"},
		{"a consumer with a backoff", stream.Subscription{Durable: "backing"}, codat.AnyWriteSuccessful, stream.ErrDrift, "backoff"},
		{"a consumer without bodies", stream.Subscription{Durable: "bodiless"}, codat.AnyWriteSuccessful, stream.ErrDrift, "headers only"},
		{"a bad name", stream.Subscription{Durable: "Billing"}, codat.AnyWriteSuccessful, nil, "small letter"},
		{"a bad type", stream.Subscription{}, "invoices..write", codat.ErrBadType, "empty"},
		{"a bad source", stream.Subscription{Source: "Codat"}, codat.AnyWriteSuccessful, nil, "source"},
		{"a negative number", stream.Subscription{Concurrency: -1}, codat.AnyWriteSuccessful, nil, "negative"},
		{"a source that is not provisioned", stream.Subscription{Source: "other", Durable: "billing"}, codat.AnyWriteSuccessful, stream.ErrNotProvisioned, "headgate provision"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := stream.Subscribe(within(t, patience), srv.JS, tt.typ, tt.o, fine[codat.Write])
			if err == nil || !strings.Contains(err.Error(), tt.says) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Subscribe() = %v; want %v and %q", err, tt.is, tt.says)
			}
		})
	}
}

// The smallest permissions of a service, as docs/subscribe.md says them.
const services = `authorization: { users: [
	{ user: admin, password: p }
	{ user: reader, password: p, permissions: {
		publish: [ "$JS.API.CONSUMER.INFO.CODAT.reader", "$JS.API.CONSUMER.MSG.NEXT.CODAT.reader", "$JS.ACK.CODAT.reader.>", "$JS.ACK.*.*.CODAT.reader.>" ]
		subscribe: "_INBOX_reader.>" } }
	{ user: maker, password: p, permissions: {
		publish: [
			"$JS.API.CONSUMER.INFO.CODAT.maker", "$JS.API.CONSUMER.MSG.NEXT.CODAT.maker", "$JS.ACK.CODAT.maker.>", "$JS.ACK.*.*.CODAT.maker.>"
			"$JS.API.CONSUMER.CREATE.CODAT.maker.codat.events.*.write.successful"
		]
		subscribe: "_INBOX_maker.>" } }
	{ user: looker, password: p, permissions: {
		publish: [ "$JS.API.STREAM.INFO.CODAT", "$JS.API.CONSUMER.CREATE.CODAT.*.codat.events.>", "$JS.API.CONSUMER.MSG.NEXT.CODAT.*", "$JS.API.CONSUMER.DELETE.CODAT.*" ]
		subscribe: "_INBOX_looker.>" } }
	{ user: stater, password: p, permissions: {
		publish: [
			"$JS.API.STREAM.INFO.KV_CODAT_connections", "$JS.API.DIRECT.GET.KV_CODAT_connections.>"
			"$JS.API.CONSUMER.CREATE.KV_CODAT_connections.>", "$JS.API.CONSUMER.DELETE.KV_CODAT_connections.*"
			"$JS.FC.KV_CODAT_connections.>"
		]
		subscribe: "_INBOX_stater.>" } }
] }`

func TestSubscribe_PermissionsOfServicesAreEnough(t *testing.T) {
	t.Parallel()
	url, _ := streamtest.Configured(t, services)
	_, admin := as(t, url, "admin", nil)
	streamtest.Provision(t, admin, stream.Layout{Source: codatSource, Workers: []stream.WorkerSpec{{Name: "connections", Types: []codat.Pattern{"connection.*"}, State: []string{"connections"}}}})
	putWrite(t, admin, "msg_1")

	t.Run("a durable that an operator made", func(t *testing.T) {
		_, js := as(t, url, "reader", nil)
		o := stream.Subscription{Source: codatSource, Durable: "reader", Begin: stream.BeginAll()}
		err := stream.Subscribe(within(t, patience), js, codat.AnyWriteSuccessful, o, fine[codat.Write])
		if !errors.Is(err, stream.ErrNotProvisioned) || !errors.Is(err, nats.ErrPermissionViolation) ||
			!strings.Contains(err.Error(), "nats consumer add CODAT reader --pull --filter 'codat.events.*.write.successful' --deliver all --ack explicit") {
			t.Errorf("Subscribe() before an operator made the consumer = %v; want what the operator types", err)
		}
		_, err = admin.CreateConsumer(t.Context(), codatSource.Stream(), jetstream.ConsumerConfig{
			Durable: "reader", FilterSubject: "codat.events.*.write.successful", AckWait: time.Minute, MaxDeliver: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, js, codat.AnyWriteSuccessful, o, fine[codat.Write]).waits("msg_1")
	})
	t.Run("a durable that the service may make for its own events only", func(t *testing.T) {
		_, js := as(t, url, "maker", nil)
		o := stream.Subscription{Source: codatSource, Durable: "maker", Begin: stream.BeginAll()}
		err := stream.Subscribe(within(t, patience), js, stream.Every, o, fine[json.RawMessage])
		if !errors.Is(err, stream.ErrNotProvisioned) {
			t.Errorf("Subscribe() to all events = %v; want ErrNotProvisioned", err)
		}
		serve(t, js, codat.AnyWriteSuccessful, o, fine[codat.Write]).waits("msg_1")
	})
	t.Run("without a durable", func(t *testing.T) {
		_, js := as(t, url, "looker", nil)
		st, err := admin.Stream(t.Context(), codatSource.Stream())
		if err != nil {
			t.Fatal(err)
		}
		before := st.CachedInfo().State.Consumers
		s := serve(t, js, codat.AnyWriteSuccessful, stream.Subscription{Begin: stream.BeginNew()}, fine[codat.Write])
		streamtest.Wait(t, func() bool {
			info, err := st.Info(t.Context())
			return err == nil && info.State.Consumers > before
		}, "the consumer to be made")
		putWrite(t, admin, "msg_2")
		s.waits("msg_2")
	})
	t.Run("state, read and watched", func(t *testing.T) {
		_, js := as(t, url, "stater", nil)
		write, err := admin.KeyValue(t.Context(), codatSource.StateBucket("connections"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := write.Put(t.Context(), "company-1.connection-1", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		kv, err := js.KeyValue(within(t, patience), codatSource.StateBucket("connections"))
		if err != nil {
			t.Fatal(err)
		}
		if e, err := kv.Get(within(t, patience), "company-1.connection-1"); err != nil || string(e.Value()) != "{}" {
			t.Errorf("Get() = %v, %v", e, err)
		}
		w, err := kv.Watch(within(t, patience), "company-1.*")
		if err != nil {
			t.Fatalf("Watch() = %v", err)
		}
		defer func() { _ = w.Stop() }()
		select {
		case e := <-w.Updates():
			if e == nil || e.Key() != "company-1.connection-1" {
				t.Errorf("the watch gives %v", e)
			}
		case <-time.After(patience):
			t.Error("the watch gives nothing")
		}
	})
}
