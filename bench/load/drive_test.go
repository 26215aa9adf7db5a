package load_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/bench/load"
)

// long is more than any load here takes: the batch ends them.
const long = time.Minute

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func batch(t *testing.T, n int) *load.Batch {
	t.Helper()
	signer, err := load.NewSigner(load.NewSecret(), 600)
	if err != nil {
		t.Fatal(err)
	}
	var b load.Batch
	signer.Sign(&b, n, time.Now())
	return &b
}

func dial(t *testing.T, address string, n int) []*load.Conn {
	t.Helper()
	conns, err := load.Dial(address, nil, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { load.Close(conns) })
	return conns
}

func TestOnceOpensAConnectionForEachRequest(t *testing.T) {
	var from sync.Map
	var connections atomic.Int64
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, again := from.LoadOrStore(r.RemoteAddr, true); !again {
			connections.Add(1)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	conns := dial(t, address, 8)
	load.Once(conns)
	r := load.Open(t.Context(), conns, batch(t, 50), 1000, load.Poisson, long)
	if r.Accepted() != 50 || connections.Load() != 50 {
		t.Errorf("%d accepted over %d connections, %v; want 50 over as many", r.Accepted(), connections.Load(), r.Err)
	}
}

func TestLoadsSendEachRequestOnce(t *testing.T) {
	tests := []struct {
		name string
		run  func(context.Context, []*load.Conn, *load.Batch) load.Result
	}{
		{"in a closed loop", func(ctx context.Context, c []*load.Conn, b *load.Batch) load.Result {
			return load.Closed(ctx, c, b, long)
		}},
		{"at a rate", func(ctx context.Context, c []*load.Conn, b *load.Batch) load.Result {
			return load.Open(ctx, c, b, 5000, load.Poisson, long)
		}},
		{"at a constant rate", func(ctx context.Context, c []*load.Conn, b *load.Batch) load.Result {
			return load.Open(ctx, c, b, 5000, load.Constant, long)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var seen sync.Map
			var twice atomic.Int64
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if _, again := seen.LoadOrStore(r.Header.Get("webhook-id"), true); again {
					twice.Add(1)
				}
				w.WriteHeader(http.StatusNoContent)
			})
			r := tt.run(t.Context(), dial(t, address, 8), batch(t, 500))
			if r.Accepted() != 500 || r.Refused() != 0 || len(r.Latencies) != 500 || twice.Load() != 0 {
				t.Errorf("%d accepted, %d refused, %d latencies, %d sent twice, %v; want 500 accepted", r.Accepted(), r.Refused(), len(r.Latencies), twice.Load(), r.Err)
			}
			if r.Took <= 0 || r.Rate() <= 0 {
				t.Errorf("took %s at %v a second; want some time", r.Took, r.Rate())
			}
		})
	}
}

func TestLoadsEndInTime(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	const d = time.Second
	b := batch(t, 10)
	if r := load.Repeat(t.Context(), dial(t, address, 2), b, d); r.Accepted() <= 10 || r.Took < d {
		t.Errorf("Repeat: %d accepted in %s; want more than the batch has, for %s", r.Accepted(), r.Took, d)
	}
	if r := load.Open(t.Context(), dial(t, address, 2), b, 0.001, load.Constant, d); r.Accepted() != 0 {
		t.Errorf("Open: %d accepted; want none before its time", r.Accepted())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := load.Closed(ctx, dial(t, address, 2), b, long); r.Accepted() != 0 {
		t.Errorf("Closed: %d accepted after the end; want none", r.Accepted())
	}
}

// A generator that waits for an answer before it looks at the clock again would see one slow request.
func TestALatencyCountsFromTheIntendedStart(t *testing.T) {
	const stall = 200 * time.Millisecond
	var first sync.Once
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		first.Do(func() {
			select {
			case <-time.After(stall):
			case <-r.Context().Done():
			}
		})
		w.WriteHeader(http.StatusNoContent)
	})
	r := load.Open(t.Context(), dial(t, address, 1), batch(t, 200), 1000, load.Constant, long)
	slow := 0
	for _, l := range r.Latencies {
		if l > stall/2 {
			slow++
		}
	}
	if slow < 50 {
		t.Errorf("%d of %d requests saw a stall of %s that came over all of them; want about 100", slow, len(r.Latencies), stall)
	}
}

func TestAnswersAreCounted(t *testing.T) {
	var n atomic.Int64
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 4 {
		case 0:
			w.WriteHeader(http.StatusNoContent)
		case 1:
			http.Error(w, "no", http.StatusUnauthorized)
		case 2:
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
	})
	r := load.Closed(t.Context(), dial(t, address, 4), batch(t, 400), long)
	if r.Answers[204] != 100 || r.Answers[401] != 100 || r.Answers[503] != 100 || r.Broken != 100 {
		t.Errorf("answers %v, none to %d; want 100 of each", r.Answers, r.Broken)
	}
	if r.Accepted() != 100 || r.Refused() != 300 || r.Err == nil {
		t.Errorf("%d accepted, %d refused, %v; want 100 and 300 and why", r.Accepted(), r.Refused(), r.Err)
	}
}

func TestAConnectionThatEndedAtRestIsMadeAgain(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer server.Close()
	conns := dial(t, server.Listener.Addr().String(), 4)
	for range 2 {
		if r := load.Closed(t.Context(), conns, batch(t, 40), long); r.Accepted() != 40 {
			t.Errorf("%d accepted, %d broken, %v; want 40", r.Accepted(), r.Broken, r.Err)
		}
		server.CloseClientConnections()
	}
}

func TestNobodyAnswers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	address := server.Listener.Addr().String()
	server.Close()
	if r := load.Closed(t.Context(), dial(t, address, 2), batch(t, 10), long); r.Broken != 10 || r.Err == nil {
		t.Errorf("%d broken, %v; want 10 and why", r.Broken, r.Err)
	}
}
