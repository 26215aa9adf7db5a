//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	source = stream.Source("codat")
	hook   = "/webhooks/codat"
	// codatWaits is how long Codat waits for an answer.
	codatWaits = 15 * time.Second
)

// A sent event is what Codat will not forget before it was answered 2xx.
type sent struct {
	id, subject string
	body        []byte
}

// A sender posts as Codat does: an event is tried until it is answered 2xx, always under the same webhook-id, each time
// signed anew. It keeps what was accepted, and what happened on the way.
type sender struct {
	t      testing.TB
	key    signature.Key
	scheme string
	target func() string // host:port to post to
	client *http.Client

	accepted atomic.Int64
	mu       sync.Mutex
	events   map[string]sent // answered 2xx
	statuses map[int]int     // answers; 0 for no answer
	longest  time.Duration   // until an answer
	late     int             // answers that Codat would not have waited for
	err      error           // why the last request without an answer had none
}

// newSender makes a sender, and the file with its key.
func newSender(t testing.TB, target func() string) (_ *sender, keyFile string) {
	t.Helper()
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key for tests, of 32 bytes, ok"))
	key, err := signature.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	keyFile = filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keyFile, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &sender{
		t: t, key: key, scheme: "http", target: target, client: &http.Client{Transport: transport, Timeout: codatWaits},
		events: map[string]sent{}, statuses: map[int]int{},
	}, keyFile
}

// deliver tries until e is answered 2xx, or ctx ends, which is an error of the test.
func (s *sender) deliver(ctx context.Context, e sent) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if status := s.try(e); status >= 200 && status < 300 {
			s.mu.Lock()
			s.events[e.id] = e
			s.mu.Unlock()
			s.accepted.Add(1)
			return
		}
		select {
		case <-ctx.Done():
			s.t.Errorf("%s was never answered 2xx", e.id)
			return
		case <-time.After(pause):
		}
	}
}

// try posts an event once. It returns 0 when there was no answer.
func (s *sender) try(e sent) int {
	now := time.Now()
	req, err := http.NewRequest(http.MethodPost, s.scheme+"://"+s.target()+hook, bytes.NewReader(e.body))
	if err != nil {
		s.t.Error(err)
		return 0
	}
	req.GetBody = nil // Codat's sender decides itself when it tries again
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", e.id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", s.key.Sign(e.id, now, e.body))
	status := 0
	resp, err := s.client.Do(req)
	if err == nil {
		resp.Body.Close()
		status = resp.StatusCode
	}
	took := time.Since(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[status]++
	if err != nil {
		s.err = err
	}
	s.longest = max(s.longest, took)
	if took >= codatWaits {
		s.late++
	}
	return status
}

// flow posts events from many hands at once until stop is called, which waits until each of them was accepted.
func (s *sender) flow(hands int, event func(hand, n int) sent) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	end := make(chan struct{})
	for hand := range hands {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-end:
					return
				default:
					s.deliver(ctx, event(hand, n))
				}
			}
		})
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			close(end)
			timer := time.AfterFunc(patience, cancel)
			defer timer.Stop()
			wg.Wait()
			cancel()
		})
	}
	s.t.Cleanup(stop)
	return stop
}

// progress waits until n more events were accepted.
func (s *sender) progress(n int64) {
	s.t.Helper()
	until := s.accepted.Load() + n
	wait(s.t, func() bool { return s.accepted.Load() >= until }, func() string {
		return fmt.Sprintf("%d more events are accepted, of them %d; answers so far: %v", n, s.accepted.Load()+n-until, s.counts())
	})
}

func (s *sender) counts() map[int]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.statuses)
}

// inTime reports answers that Codat would not have waited for.
func (s *sender) inTime() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("%d events accepted, answers by status %v (0: no answer), the longest took %v", len(s.events), s.statuses, s.longest.Round(time.Millisecond))
	if s.late > 0 {
		s.t.Errorf("%d answers took %v or more; want each well within that", s.late, codatWaits)
	}
}

// stored compares the stream with what was accepted: each event once, on its subject, to the byte, and nothing else.
func (s *sender) stored(js jetstream.JetStream) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := js.Stream(ctx, source.Stream())
	if err != nil {
		s.t.Fatalf("stream: %v", err)
	}
	last := st.CachedInfo().State.LastSeq
	if got, want := st.CachedInfo().State.Msgs, uint64(len(s.events)); got != want {
		s.t.Errorf("%d messages are stored; want the %d that were accepted", got, want)
	}
	consumer, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		s.t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		s.t.Fatal(err)
	}
	defer messages.Stop()
	times := map[string]int{}
	for sequence := uint64(0); sequence < last; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			s.t.Fatalf("after message %d of %d: %v", sequence, last, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			s.t.Fatal(err)
		}
		sequence = meta.Sequence.Stream
		id := m.Headers().Get(stream.HeaderWebhookID)
		times[id]++
		switch e, ok := s.events[id]; {
		case !ok:
			s.t.Errorf("%q is stored and was not sent", id)
		case m.Subject() != e.subject || !bytes.Equal(m.Data(), e.body):
			s.t.Errorf("%s is stored on %s, %d bytes; want %s and the %d bytes that were sent", id, m.Subject(), len(m.Data()), e.subject, len(e.body))
		}
	}
	for id := range s.events {
		if times[id] != 1 {
			s.t.Errorf("%s was answered 2xx and is stored %d times; want once", id, times[id])
		}
	}
}

// anything is an event of any kind that Codat could send: small, large, of an unknown type, unreadable, and
// now and then about a connection.
func anything(hand, n int) sent {
	random := rand.New(rand.NewPCG(uint64(hand), uint64(n)))
	e := sent{id: fmt.Sprintf("msg_%d_%d", hand, n)}
	switch n % 8 {
	case 0:
		e.subject, e.body = "codat.quarantine", []byte{0xff, 0, byte(hand), byte(n), '\r', '\n'}
	case 1:
		e.subject = "codat.events.moon.landed"
		e.body = fmt.Appendf(nil, `{ "eventType" : "moon.landed","pad":"%x"}`+"\n", make([]byte, random.IntN(50_000)))
	case 2, 3:
		e.subject = "codat.events.connection.connected"
		e.body = fmt.Appendf(nil, `{"id":"e","eventType":"connection.connected","generatedDate":"2026-11-21T12:00:00Z","payload":{"referenceCompany":{"id":"company-%d"},"connection":{"id":"c-%d","integrationKey":"gbol","status":"Linked"}}}`, hand, n)
	default:
		e.subject = "codat.events.invoices.write.successful"
		e.body = fmt.Appendf(nil, `{"eventType":"invoices.write.successful", "n":1.0e+2, "payload":{"id":"push-%d-%d","status":"Success"}}`, hand, n)
	}
	return e
}
