//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/signature"
)

// codatWaits is how long Codat waits for an answer.
const codatWaits = 15 * time.Second

// A sender posts as Codat does: each event has an id, and is tried under it until it is answered 2xx, each time signed
// anew. Codat's pauses are hours long at the end; ours are seconds.
type sender struct {
	t      *testing.T
	key    signature.Key
	to     string
	client *http.Client

	mu       sync.Mutex
	accepted map[string]bool
	answers  map[int]int // 0 for no answer

	unanswered int // events for which there was no time any more
}

func newSender(t *testing.T, to, keyFile string) *sender {
	t.Helper()
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signature.ParseKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: hands}
	t.Cleanup(transport.CloseIdleConnections)
	return &sender{
		t: t, key: key, to: to, client: &http.Client{Transport: transport, Timeout: codatWaits},
		accepted: map[string]bool{}, answers: map[int]int{},
	}
}

// hands is how many events are on their way at once.
const hands = 64

// send sends events until as many were accepted as are wanted, evenly over a time, and returns when the last one was.
func (s *sender) send(ctx context.Context, count int, over time.Duration) {
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range hands {
		wg.Go(func() {
			for n := range numbers {
				s.deliver(ctx, n)
			}
		})
	}
	began := time.Now()
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := range count {
		for time.Since(began) < over*time.Duration(n)/time.Duration(count) && ctx.Err() == nil {
			<-pace.C
		}
		numbers <- n
	}
	close(numbers)
	wg.Wait()
}

// deliver tries until the event is answered 2xx.
func (s *sender) deliver(ctx context.Context, n int) {
	id, body := signature.NewID(), event(n)
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		status := s.try(ctx, id, body)
		s.mu.Lock()
		s.answers[status]++
		if status/100 == 2 {
			s.accepted[id] = true
		}
		s.mu.Unlock()
		if status/100 == 2 {
			return
		}
		select {
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			s.unanswered++
			return
		case <-time.After(pause):
		}
	}
}

// try posts an event once and returns the status, 0 when there was no answer.
func (s *sender) try(ctx context.Context, id string, body []byte) int {
	now := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to, bytes.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return 0
	}
	req.GetBody = nil // it is ours to decide when it is tried again
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", s.key.Sign(id, now, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (s *sender) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var answers []string
	for status, n := range s.answers {
		answers = append(answers, fmt.Sprintf("%d times %d", n, status))
	}
	return fmt.Sprintf("%d accepted; answers: %s", len(s.accepted), strings.Join(answers, ", "))
}

// event is the nth event: of a connection of its own, so that what was done for it can be counted.
func event(n int) []byte {
	return fmt.Appendf(nil, `{"id":"event-%d","eventType":"connection.connected","generatedDate":%q,"payload":{"referenceCompany":{"id":"company-%d","name":"A Company"},"connection":{"id":"connection-%d","integrationKey":"gbol","sourceId":"source","status":"Linked"}}}`,
		n, time.Now().UTC().Format(time.RFC3339Nano), n%500, n)
}
