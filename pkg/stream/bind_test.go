package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestBind_AcceptsWhatIsProvisioned(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, connections, writes)
	events, parked, err := stream.Bind(within(t, patience), s.JS, codatSource, connections)
	if err != nil {
		t.Fatalf("Bind() = %v", err)
	}
	if e, p := events.CachedInfo(), parked.CachedInfo(); e.Stream != "CODAT" || p.Stream != "CODAT_PARKED" || e.Name != "connections" || p.Name != "connections" {
		t.Errorf("Bind() = %s on %s and %s on %s", e.Name, e.Stream, p.Name, p.Stream)
	}
	one := writes
	one.Types = []codat.Pattern{"bills.write.successful"}
	if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, one); err != nil {
		t.Errorf("Bind() of a version that handles less = %v; want the wider filter to do", err)
	}
	other := connections
	other.AckWait, other.MaxAckPending = 2*time.Minute, 9999
	if events, _, err := stream.Bind(within(t, patience), s.JS, codatSource, other); err != nil || events.CachedInfo().Config.AckWait != time.Minute {
		t.Errorf("Bind() of a version with another ack wait and limit of pending acks = %v; want the consumer as it is", err)
	}
}

func TestBind_Refuses(t *testing.T) {
	t.Parallel()
	with := func(change func(*stream.WorkerSpec)) stream.WorkerSpec {
		w := connections
		change(&w)
		return w
	}
	tests := []struct {
		name   string
		worker stream.WorkerSpec
		is     error
		says   string
	}{
		{"a worker that is not provisioned", writes, stream.ErrNotProvisioned, "consumer writes on CODAT"},
		{
			"a version that handles more",
			with(func(w *stream.WorkerSpec) { w.Types = []codat.Pattern{"connection.connected", "*.connected"} }),
			stream.ErrDrift, "it does not take codat.events.*.connected",
		},
	}
	s := streamtest.New(t, connections)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := stream.Bind(within(t, patience), s.JS, codatSource, tt.worker)
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "headgate provision") {
				t.Errorf("Bind() = %v; want %v, %q and the cure", err, tt.is, tt.says)
			}
		})
	}

	t.Run("an ack wait that ends before it is extended", func(t *testing.T) {
		c := consumerConfig(t, s.JS, "CODAT", "connections")
		c.AckWait = 10 * time.Millisecond
		if _, err := s.JS.UpdateConsumer(t.Context(), "CODAT", c); err != nil {
			t.Fatal(err)
		}
		_, _, err := stream.Bind(within(t, patience), s.JS, codatSource, connections)
		if !errors.Is(err, stream.ErrDrift) || !strings.Contains(err.Error(), "ack wait is 10ms, this version needs 1m0s") {
			t.Errorf("Bind() = %v; want ErrDrift and the ack wait", err)
		}
		provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{connections}})
	})
	t.Run("a consumer that gives up by itself", func(t *testing.T) {
		c := consumerConfig(t, s.JS, "CODAT", "connections")
		c.MaxDeliver, c.BackOff = 3, []time.Duration{time.Second}
		if _, err := s.JS.UpdateConsumer(t.Context(), "CODAT", c); err != nil {
			t.Fatal(err)
		}
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, connections); !errors.Is(err, stream.ErrDrift) {
			t.Errorf("Bind() = %v; want ErrDrift", err)
		}
		provision(t, s, stream.Layout{Workers: []stream.WorkerSpec{connections}})
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, connections); err != nil {
			t.Errorf("Bind() after Provision() = %v", err)
		}
	})
	t.Run("a missing consumer on what is parked", func(t *testing.T) {
		if err := s.JS.DeleteConsumer(t.Context(), "CODAT_PARKED", "connections"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, connections); !errors.Is(err, stream.ErrNotProvisioned) {
			t.Errorf("Bind() = %v; want ErrNotProvisioned", err)
		}
	})
	t.Run("a missing stream", func(t *testing.T) {
		if err := s.JS.DeleteStream(t.Context(), "CODAT"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, connections); !errors.Is(err, stream.ErrNotProvisioned) {
			t.Errorf("Bind() = %v; want ErrNotProvisioned", err)
		}
	})
	t.Run("a worker without a name", func(t *testing.T) {
		if _, _, err := stream.Bind(within(t, patience), s.JS, codatSource, stream.WorkerSpec{}); err == nil {
			t.Error("Bind() = nil")
		}
	})
}

func TestCheck_NamesWhyNoEventIsStored(t *testing.T) {
	t.Parallel()
	const limitOfBody = 1 << 20
	s := streamtest.New(t)
	if err := codatSource.Check(within(t, patience), s.JS, limitOfBody); err != nil {
		t.Errorf("Check() = %v", err)
	}
	if err := codatSource.Check(within(t, patience), s.JS, 2<<20); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("Check() with bodies larger than the server takes = %v; want it to name the setting", err)
	}

	limit(t, s, func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 })
	fill(t, s, 1)
	if err := codatSource.Check(within(t, patience), s.JS, limitOfBody); !errors.Is(err, stream.ErrFull) {
		t.Errorf("Check() of a stream with as many messages as it takes = %v; want ErrFull", err)
	}
	limit(t, s, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxBytes = -1, limitOfBody })
	if err := codatSource.Check(within(t, patience), s.JS, limitOfBody); !errors.Is(err, stream.ErrFull) || !strings.Contains(err.Error(), "--max-bytes") {
		t.Errorf("Check() of a stream without room for another = %v; want ErrFull and the cure", err)
	}
	if err := s.JS.DeleteStream(t.Context(), "CODAT"); err != nil {
		t.Fatal(err)
	}
	if err := codatSource.Check(within(t, patience), s.JS, limitOfBody); !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("Check() without the stream = %v; want ErrNotProvisioned", err)
	}
	s.Stop()
	streamtest.Wait(t, func() bool { return !s.NC.IsConnected() }, "the connection is lost")
	if err := codatSource.Check(within(t, patience), s.JS, limitOfBody); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("Check() without a server = %v; want it to say so", err)
	}
}
