package ingress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// While a quorum is lost, an id that comes again is in process, which is no fault of the server.
func TestIDsInProcess_TellsOneThatStaysFromALostQuorum(t *testing.T) {
	t.Parallel()
	inProcess := fmt.Errorf("%w: %w: %w", stream.ErrUnavailable, context.DeadlineExceeded, stream.ErrInProcess)
	at := time.Unix(1_000_000, 0)
	type refusal struct {
		after  time.Duration
		stored uint64 // other events until then
		err    error
		stays  bool
	}
	tests := []struct {
		name     string
		refusals []refusal
	}{
		{"one try", []refusal{{0, 7, inProcess, false}}},
		{"the sender's second try after 5 s, others stored", []refusal{{0, 7, inProcess, false}, {5 * time.Second, 9, inProcess, false}}},
		{"for five minutes, and nothing is stored", []refusal{{0, 7, inProcess, false}, {5 * time.Second, 7, inProcess, false}, {5 * time.Minute, 7, inProcess, false}}},
		{"an event is stored just before the quorum is lost", []refusal{{0, 7, inProcess, false}, {5 * time.Second, 8, inProcess, false}, {5 * time.Minute, 8, inProcess, false}}},
		{"for five minutes, and others are stored", []refusal{{0, 7, inProcess, false}, {5 * time.Minute, 8, inProcess, true}, {35 * time.Minute, 9, inProcess, true}}},
		{"another error", []refusal{{0, 7, inProcess, false}, {5 * time.Minute, 8, stream.ErrUnavailable, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var p idsInProcess
			for i, r := range tt.refusals {
				p.refused("another", inProcess, r.stored, at)
				err := p.refused("id", r.err, r.stored, at.Add(r.after))
				if !errors.Is(err, r.err) || errors.Is(err, errIDStays) != r.stays {
					t.Errorf("refusal %d: %v; want that the id stays in process: %t", i, err, r.stays)
				}
			}
		})
	}
}

func TestIDsInProcess_RemembersALimitedNumber(t *testing.T) {
	t.Parallel()
	var p idsInProcess
	at := time.Unix(1_000_000, 0)
	for i := range maxIDsInProcess + 10 {
		p.refused(strconv.Itoa(i), stream.ErrInProcess, 0, at.Add(time.Duration(i)))
	}
	_, first := p.ids["9"]
	_, last := p.ids["10"]
	if len(p.ids) != maxIDsInProcess || first || !last {
		t.Errorf("%d ids are remembered, with that of the tenth: %t, of the eleventh: %t; want %d, false, true", len(p.ids), first, last, maxIDsInProcess)
	}
}

// The id that stays has a reason of its own in log and metric: the alert is about that one.
func TestIDsInProcess_ReasonOfARequest(t *testing.T) {
	t.Parallel()
	key, err := signature.ParseKey("whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		store := scripted{"msg_stays": {err: fmt.Errorf("%w: %w", stream.ErrUnavailable, stream.ErrInProcess)}}
		h := newServer(serverOptions{MaxBytes: 64 << 20}, zap.New(core), prometheus.NewRegistry()).handle(routeOptions{
			Source: "codat", Keys: signature.NewVerifier(5*time.Minute, nil, key), Store: store, Timeout: 8 * time.Second,
			Path: "/", MaxBody: 1 << 10, MaxInFlight: 8,
		})
		const body = `{"eventType":"company.created"}`
		for _, id := range []string{"msg_stays", "msg_stored", "msg_stays"} {
			now := time.Now()
			req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			req.Header.Set("webhook-id", id)
			req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
			req.Header.Set("webhook-signature", key.Sign(id, now, []byte(body)))
			h.ServeHTTP(httptest.NewRecorder(), req)
			time.Sleep(inProcessFor)
		}
		var reasons []any
		for _, line := range logs.FilterField(zap.String("id", "msg_stays")).All() {
			reasons = append(reasons, line.ContextMap()["reason"])
		}
		if want := []any{"id_in_process", "id_stays_in_process"}; !slices.Equal(reasons, want) {
			t.Errorf("the requests were refused for %v; want %v", reasons, want)
		}
	})
}
