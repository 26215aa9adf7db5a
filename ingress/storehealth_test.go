package ingress

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// A publishing is a request and the outcome of its publish.
type publishing struct {
	begins time.Duration // since the test began
	waited time.Duration // for its body
	takes  time.Duration
	err    error
	body   string // an event, unless it is said
}

// A lateBody is a body that arrives after a delay.
type lateBody struct {
	delay time.Duration
	io.Reader
}

func (b *lateBody) Read(p []byte) (int, error) {
	time.Sleep(b.delay)
	b.delay = 0
	return b.Reader.Read(p)
}

// A scripted store ends each publish as the entry of its message id says.
type scripted map[string]publishing

func (s scripted) PublishUntil(_ context.Context, _ time.Time, msg *nats.Msg) (stream.Receipt, error) {
	p := s[msg.Header.Get("Nats-Msg-Id")]
	time.Sleep(p.takes)
	return stream.Receipt{}, p.err
}

// A failed publish makes the ingress unready when it says something about the stream, until an event is stored.
func TestStoreHealth_RemembersFailedPublishes(t *testing.T) {
	t.Parallel()
	noAck := fmt.Errorf("%w: %w: no ack in time", stream.ErrUnavailable, context.DeadlineExceeded)
	const budget = 8 * time.Second
	tests := []struct {
		name     string
		requests []publishing
		at       time.Duration
		want     error
	}{
		{"no ack came", []publishing{{takes: budget, err: noAck}}, budget, noAck},
		{"no ack came, almost half a minute ago", []publishing{{takes: budget, err: noAck}}, budget + 29*time.Second, noAck},
		{"no ack came, half a minute ago: a request may try anew", []publishing{{takes: budget, err: noAck}}, budget + 30*time.Second, nil},
		{"no ack came for the second try either", []publishing{{takes: budget, err: noAck}, {begins: time.Minute, takes: budget, err: noAck}}, time.Minute + budget, noAck},
		{"the stream is full", []publishing{{err: stream.ErrFull}}, 1, stream.ErrFull},
		{"a permission is missing", []publishing{{err: fmt.Errorf("%w: %w", stream.ErrUnavailable, nats.ErrPermissionViolation)}}, 1, nats.ErrPermissionViolation},

		{"the event is too large", []publishing{{err: stream.ErrTooLarge}}, 1, nil},
		{"the subject is bad", []publishing{{err: stream.ErrBadSubject}}, 1, nil},
		{"the window is full", []publishing{{err: stream.ErrBusy}}, 1, nil},
		{"the caller has gone", []publishing{{err: fmt.Errorf("%w: %w", stream.ErrUnavailable, context.Canceled)}}, 1, nil},
		{"NATS is not connected, which the check of the broker tells", []publishing{{takes: budget, err: fmt.Errorf("%w: %w", noAck, nats.ErrDisconnected)}}, budget, nil},
		{"what is unreadable could not be stored", []publishing{{takes: budget, err: noAck, body: "{}"}}, budget, nil},
		{"the body came so late that no time was left", []publishing{{waited: budget - 1, takes: 1, err: noAck}}, budget, nil},

		{"a later one is stored", []publishing{{err: noAck}, {begins: 1}}, 2, nil},
		{"a later one is stored, whose body came late", []publishing{{err: noAck}, {begins: 1, waited: budget - 1}}, budget, nil},
		{"only what is unreadable is stored later", []publishing{{err: noAck}, {begins: 1, body: "{}"}}, 2, noAck},
		{"one that began before is stored after", []publishing{{begins: 1, takes: 1, err: noAck}, {takes: 3}}, 4, nil},
		{"one that began after is stored before", []publishing{{takes: 3, err: noAck}, {begins: 1, takes: 1}}, 4, nil},
		{"one that began before is stored while it tries", []publishing{{begins: 1, takes: 3, err: noAck}, {takes: 2}}, 5, nil},
		{"the last was stored before it began", []publishing{{begins: 2, err: noAck}, {takes: 1}}, 3, noAck},
		{"one after that which was stored", []publishing{{takes: 9, err: noAck}, {begins: 1}, {begins: 2, err: stream.ErrFull}}, 10, stream.ErrFull},
	}
	key, err := signature.ParseKey("whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := scripted{}
				h := newServer(serverOptions{MaxBytes: 64 << 20}, zap.NewNop(), prometheus.NewRegistry()).handle(routeOptions{
					Source: "codat", Keys: signature.NewVerifier(5*time.Minute, nil, key), Store: store, Timeout: budget,
					Path: "/", MaxBody: 1 << 10, MaxInFlight: len(tt.requests),
				})
				if err := h.health.check(time.Now()); err != nil {
					t.Errorf("at first check() = %v; want nil", err)
				}
				for i, p := range tt.requests {
					store["msg_"+strconv.Itoa(i)] = p
				}
				var wg sync.WaitGroup
				for i, p := range tt.requests {
					wg.Go(func() {
						time.Sleep(p.begins)
						now := time.Now()
						id, body := "msg_"+strconv.Itoa(i), cmp.Or(p.body, `{"eventType":"company.created"}`)
						req := httptest.NewRequest(http.MethodPost, "/", &lateBody{p.waited, strings.NewReader(body)})
						req.Header.Set("webhook-id", id)
						req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
						req.Header.Set("webhook-signature", key.Sign(id, now, []byte(body)))
						w := httptest.NewRecorder()
						h.ServeHTTP(w, req)
						if want := map[bool]int{true: 204, false: 503}[p.err == nil]; w.Code != want {
							t.Errorf("%s: answered %d; want %d", id, w.Code, want)
						}
					})
				}
				time.Sleep(tt.at)
				synctest.Wait()
				if err := h.health.check(time.Now()); !errors.Is(err, tt.want) {
					t.Errorf("check() = %v; want %v", err, tt.want)
				}
				wg.Wait()
			})
		})
	}
}
