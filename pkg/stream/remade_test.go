package stream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// remake deletes the stream of the events and makes it again.
func remake(t testing.TB, s *streamtest.Server) {
	t.Helper()
	if err := s.JS.DeleteStream(t.Context(), "CODAT"); err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, s.JS, stream.Layout{Source: codatSource})
}

// The sequences of the new stream are lower than the place in the earlier one.
func TestSubscribe_WithoutDurableContinuesInAStreamThatWasMadeAgain(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	for _, id := range []string{"old_1", "old_2", "old_3"} {
		putWrite(t, srv.JS, id)
	}
	s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Begin: stream.BeginAll()}, fine[codat.Write])
	s.waits("old_1", "old_2", "old_3")
	remake(t, srv)
	putWrite(t, srv.JS, "new_1")
	s.waits("old_1", "old_2", "old_3", "new_1")
	putWrite(t, srv.JS, "new_2")
	s.waits("old_1", "old_2", "old_3", "new_1", "new_2")
}

func TestFollow_SaysThatTheStreamWasMadeAgain(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	putWrite(t, srv.JS, "old_1")
	ctx := within(t, patience)
	err := stream.Follow(ctx, srv.JS, "CODAT", stream.ReadOptions{}, func(*jetstream.RawStreamMsg) error {
		remake(t, srv)
		return nil
	})
	if !errors.Is(err, stream.ErrRemade) {
		t.Errorf("Follow() = %v; want ErrRemade", err)
	}
}

func TestRead_SaysThatTheStreamWasMadeAgain(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	putWrite(t, srv.JS, "old_1")
	putWrite(t, srv.JS, "old_2")
	st, err := srv.JS.Stream(t.Context(), "CODAT")
	if err != nil {
		t.Fatal(err)
	}
	of := stream.ReadOptions{After: 1, Created: st.CachedInfo().Created}
	read := func(ctx context.Context) error {
		_, err := stream.Read(ctx, srv.JS, "CODAT", of, func(*jetstream.RawStreamMsg) error { return nil })
		return err
	}
	if err := read(within(t, patience)); err != nil {
		t.Errorf("Read() = %v; want the stream read", err)
	}
	remake(t, srv)
	if err := read(within(t, patience)); !errors.Is(err, stream.ErrRemade) {
		t.Errorf("Read() = %v; want ErrRemade", err)
	}
	_, err = stream.Read(within(t, patience), srv.JS, "CODAT", stream.ReadOptions{}, func(*jetstream.RawStreamMsg) error { return nil })
	if err != nil {
		t.Errorf("Read() without a place = %v; want the new stream read", err)
	}
}

func TestSubscribe_EndsWhenItsStreamIsDeleted(t *testing.T) {
	t.Parallel()
	srv := streamtest.New(t)
	s := serve(t, srv.JS, codat.AnyWriteSuccessful, stream.Subscription{Durable: "billing", Begin: stream.BeginAll()}, fine[codat.Write])
	putWrite(t, srv.JS, "msg_1")
	s.waits("msg_1")
	if err := srv.JS.DeleteStream(t.Context(), "CODAT"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if !errors.Is(err, stream.ErrNotProvisioned) {
			t.Errorf("Subscribe() = %v; want ErrNotProvisioned", err)
		}
		s.ended <- nil
	case <-time.After(patience):
		t.Error("Subscribe() does not end")
	}
}
