// Package streamtest gives a test a real NATS server, or a cluster of three, with the streams of the source codat in
// place. What it starts has ended, and its folder is gone, when the test has.
package streamtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// Source is the source whose streams are in place.
const Source stream.Source = "codat"

// patience is how long a condition may take: machines on which tests run are slow at times.
const patience = 2 * time.Minute

// Server is a NATS server on 127.0.0.1 with JetStream. It does not wait for the disk, so that tests are quick: what it
// acknowledged survives Restart all the same.
type Server struct {
	URL string
	NC  *nats.Conn // reconnects by itself after Restart
	JS  jetstream.JetStream

	t    testing.TB
	opts embedded.Options
	srv  *embedded.Server
}

// New starts a server and provisions the source codat with these workers.
func New(t testing.TB, workers ...stream.WorkerSpec) *Server {
	t.Helper()
	s := Empty(t)
	Provision(t, s.JS, stream.Layout{Source: Source, Workers: workers})
	return s
}

// Empty starts a server on which nothing is provisioned.
func Empty(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, opts: embedded.Options{Dir: t.TempDir(), LazySync: true}}
	s.Start()
	t.Cleanup(s.Stop)
	s.opts.Listen = s.srv.Addr()
	s.URL = s.srv.ClientURL()
	s.NC, s.JS = connect(t, s.URL)
	return s
}

// Restart stops the server and starts it again with the same port and the same data, and waits until NC is connected
// again. Other connections come back by themselves.
func (s *Server) Restart() {
	s.t.Helper()
	before := s.NC.Stats().Reconnects
	s.Stop()
	s.Start()
	// Connected alone would do too early: the client may not have noticed yet that the server was away.
	Wait(s.t, func() bool { return s.NC.Stats().Reconnects > before && s.NC.IsConnected() }, "the client is connected again")
}

// Stop stops the server, until Start.
func (s *Server) Stop() {
	s.t.Helper()
	if s.srv == nil {
		return
	}
	if err := s.srv.Shutdown(); err != nil {
		s.t.Errorf("Shutdown() = %v", err)
	}
	s.srv = nil
}

// Start starts the server that Stop has stopped.
func (s *Server) Start() {
	s.t.Helper()
	var err error
	started := func() bool {
		s.srv, err = embedded.Start(s.opts)
		return err == nil
	}
	// Between Stop and Start another process can have the port for a moment.
	if !holds(started) {
		s.t.Fatalf("Start() = %v", err)
	}
}

// Behind returns a JetStream whose replica has no message yet: it answers every direct get with that. The leader answers the
// other requests.
func (s *Server) Behind(t testing.TB) jetstream.JetStream {
	t.Helper()
	const prefix = "BEHIND.API"
	_, err := s.NC.Subscribe(prefix+".>", func(m *nats.Msg) {
		request := strings.TrimPrefix(m.Subject, prefix)
		forward := &nats.Msg{Subject: "$JS.API" + request, Reply: m.Reply, Header: m.Header, Data: m.Data}
		if strings.HasPrefix(request, ".DIRECT.GET.") {
			forward = &nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}}
		}
		if err := s.NC.PublishMsg(forward); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithAPIPrefix(s.NC, prefix)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Provision makes what a plan needs, or ends the test.
func Provision(t testing.TB, js jetstream.JetStream, p stream.Layout) []stream.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		changes, err := stream.Provision(ctx, js, p, false)
		var api *jetstream.APIError
		switch {
		case err == nil:
			return changes
		case errors.As(err, &api) && api.ErrorCode == noPeers && ctx.Err() == nil:
			// A cluster answers before all of its servers have joined it.
		default:
			t.Fatalf("Provision() = %v", err)
		}
	}
}

// noPeers is what a cluster says that has fewer servers than a stream has replicas; nats.go has no name for it.
const noPeers jetstream.ErrorCode = 10005

// Wait returns when cond holds, and ends the test when it does not within two minutes. It asks every few
// milliseconds; what says for what it waits.
func Wait(t testing.TB, cond func() bool, what string) {
	t.Helper()
	if !holds(cond) {
		t.Fatalf("not within %v: %s", patience, what)
	}
}

func holds(cond func() bool) bool { return holdsFor(patience, cond) }

func holdsFor(patience time.Duration, cond func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			return false
		}
	}
	return true
}

// Left returns how many messages of a stream a consumer has not delivered, and how many of those that it has
// delivered are not acknowledged. The server tells a consumer of a message a moment after it has stored it, and
// NumPending is 0 until then: Left counts such a message too. It needs to be allowed direct gets on the stream.
func Left(ctx context.Context, js jetstream.JetStream, stream, consumer string) (pending uint64, unacknowledged int, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, 0, err
	}
	c, err := st.Consumer(ctx, consumer)
	if err != nil {
		return 0, 0, err
	}
	info := c.CachedInfo()
	filters := info.Config.FilterSubjects
	if len(filters) == 0 {
		filters = []string{cmp.Or(info.Config.FilterSubject, ">")}
	}
	pending = info.NumPending
	for _, filter := range filters {
		last, err := st.GetLastMsgForSubject(ctx, filter)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return 0, 0, err
		case info.Delivered.Stream < last.Sequence:
			pending = max(pending, 1)
		}
	}
	return pending, info.NumAckPending, nil
}

// WaitPending returns when a consumer counts n messages that it has not delivered, and ends the test when it does not within
// two minutes: the server tells a consumer of a message a moment after it has stored it.
func WaitPending(t testing.TB, js jetstream.JetStream, stream, consumer string, n uint64) {
	t.Helper()
	Wait(t, func() bool {
		c, err := js.Consumer(context.Background(), stream, consumer)
		return err == nil && c.CachedInfo().NumPending == n
	}, fmt.Sprintf("consumer %s of %s has %d messages to deliver", consumer, stream, n))
}

// WaitSettled returns when a consumer has delivered every message of a stream and all are acknowledged, and ends
// the test when it has not within two minutes.
func WaitSettled(t testing.TB, js jetstream.JetStream, stream, consumer string) {
	t.Helper()
	var pending uint64
	var unacknowledged int
	var err error
	if !holds(func() bool {
		pending, unacknowledged, err = Left(context.Background(), js, stream, consumer)
		return err == nil && pending == 0 && unacknowledged == 0
	}) {
		t.Fatalf("not within %v: consumer %s of %s has %d messages to deliver and %d that are not acknowledged, error %v",
			patience, consumer, stream, pending, unacknowledged, err)
	}
}

// connect makes a connection that ends with the test and never gives up before.
func connect(t testing.TB, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	var nc *nats.Conn
	var err error
	connected := func() bool { // a try has two seconds, which a busy machine can take
		nc, err = nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
		return err == nil
	}
	if !holds(connected) {
		t.Fatalf("connect to %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("JetStream on %s: %v", url, err)
	}
	return nc, js
}
