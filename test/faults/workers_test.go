//go:build faults

package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

const (
	concurrency = 8
	// slots is the number of handlers that run at once in one counter: its own, and a quarter of that for parked events.
	slots   = concurrency + concurrency/4
	ackWait = 3 * time.Second
)

// replicas are processes of the counter that write one file of effects.
type replicas struct {
	t       testing.TB
	b       *broker
	effects string
	replica []*program
}

// counterPlan is what the counter needs to be provisioned.
var counterPlan = stream.WorkerSpec{
	Name: "counter", Types: []codat.Pattern{codat.Pattern(codat.AnyWriteSuccessful)}, AckWait: ackWait, MaxAckPending: 5000, Begin: stream.BeginAll(),
}

func newReplicas(t testing.TB, b *broker, work time.Duration) *replicas {
	t.Helper()
	c := &replicas{t: t, b: b, effects: filepath.Join(t.TempDir(), "effects")}
	for i := range 2 {
		c.add(fmt.Sprintf("counter-%d", i), b.url, "warn", work, ackWait)
	}
	return c
}

// add adds a replica.
func (c *replicas) add(name, url, logLevel string, work, lease time.Duration, args ...string) {
	c.t.Helper()
	admin := address(c.t)
	c.replica = append(c.replica, launch(c.t, name, "counter", admin, append([]string{
		"--admin-listen", admin, "--nats-url", url, "--log-level", logLevel, "--effects", c.effects,
		"--concurrency", fmt.Sprint(concurrency), "--work", work.String(), "--ack-wait", lease.String(),
		"--park-after", "1500ms",
	}, args...)...))
}

// An effect is one run of a handler and the outcome that it chose.
type effect struct {
	outcome, id  string
	attempt, pid int
}

// all reads the effects.
func (c *replicas) all() []effect {
	c.t.Helper()
	var all []effect
	for line := range strings.Lines(string(c.text())) {
		var r effect
		if _, err := fmt.Sscanf(line, "%s %s %d %d\n", &r.outcome, &r.id, &r.attempt, &r.pid); err != nil {
			c.t.Fatalf("line %q of the effects: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func (c *replicas) text() []byte {
	c.t.Helper()
	text, err := os.ReadFile(c.effects)
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	return text
}

// lines counts the runs of the handlers.
func (c *replicas) lines() int {
	c.t.Helper()
	return bytes.Count(c.text(), []byte("\n"))
}

// runs counts the effects by outcome and id.
func (c *replicas) runs() map[string]map[string]int {
	c.t.Helper()
	by := map[string]map[string]int{"done": {}, "dead": {}, "again": {}}
	for _, r := range c.all() {
		by[r.outcome][r.id]++
	}
	return by
}

// waitRuns waits until the handlers have run n times.
func (c *replicas) waitRuns(n int) {
	c.t.Helper()
	var lines int
	wait(c.t, func() bool {
		lines = c.lines()
		return lines >= n
	}, func() string { return fmt.Sprintf("the handlers have run %d times, so far %d", n, lines) })
}

// waitSettled waits until no delivery is pending or waits for its ack, on either consumer.
func (c *replicas) waitSettled() {
	c.t.Helper()
	for _, name := range []string{source.Stream(), source.ParkedStream()} {
		var says string
		wait(c.t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			pending, unacknowledged, err := streamtest.Left(ctx, c.b.js, name, "counter")
			says = fmt.Sprintf("%d pending, %d unacknowledged, error %v", pending, unacknowledged, err)
			return err == nil && pending == 0 && unacknowledged == 0
		}, func() string { return name + " is worked off: " + says })
	}
}

// claims returns the counter's claims.
func (c *replicas) claims() *claims.KV {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bucket, err := c.b.js.KeyValue(ctx, source.ClaimsBucket("counter"))
	if err != nil {
		c.t.Fatal(err)
	}
	return claims.NewKV(bucket, nil, nil) // it is only looked at
}

// post stores n events as the ingress does, and returns their ids. Most succeed; some fail once, some are parked once,
// some can never succeed.
func post(t testing.TB, js jetstream.JetStream, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	publisher, err := stream.NewPublisher(js.Conn(), stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	var ids []string
	for i := range n {
		ids = append(ids, idOf(i))
		if err := postOne(ctx, publisher, i); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// idOf returns the id of the n-th event, from which the counter takes its outcome.
func idOf(n int) string {
	kind := "good"
	switch n % 20 {
	case 7:
		kind = "dead"
	case 11:
		kind = "again"
	case 15:
		kind = "park"
	}
	return fmt.Sprintf("msg_%s_%d", kind, n)
}

func postOne(ctx context.Context, publisher *stream.Publisher, n int) error {
	body := fmt.Appendf(nil, `{"eventType":"invoices.write.successful","payload":{"id":"push-%d"}}`, n)
	m, err := source.Message(stream.Stored{ID: idOf(n), Head: codat.Head{Type: "invoices.write.successful"}, Received: time.Now()}, body)
	if err != nil {
		return err
	}
	if _, err = publisher.Publish(ctx, m); err != nil {
		return fmt.Errorf("post %s: %w", idOf(n), err)
	}
	return nil
}

// letters counts the dead letters of each id.
func letters(t testing.TB, js jetstream.JetStream) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	count := map[string]int{}
	if err := deadletter.List(ctx, js, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		count[l.WebhookID]++
		if l.Cause != workers.CausePermanent {
			t.Errorf("%s is dead because of %q; want it permanent", l.WebhookID, l.Cause)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

// Worker processes are killed by SIGKILL while they handle a thousand events. Every event is settled once, done or dead. A
// process that dies between an effect and done leaves an event whose effect happens again: at most one for each handler that
// ran when a process died.
func TestPromise6_KilledWorkersSettleEveryEventOnce(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{Workers: []stream.WorkerSpec{counterPlan}})
	const events, kills = 1000, 10
	ids := post(t, b.js, events)
	c := newReplicas(t, b, 20*time.Millisecond)
	for kill := range kills {
		c.waitRuns((kill + 1) * events / (kills + 2))
		victim := c.replica[kill%len(c.replica)]
		victim.kill()
		victim.start()
	}
	c.waitSettled()

	store, dead := c.claims(), letters(t, b.js)
	runs := c.runs()
	extra := 0
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		record, err := store.Get(ctx, claims.Key{WebhookID: id})
		cancel()
		want, other, letter := claims.Done, "dead", 0
		if strings.HasPrefix(id, "msg_dead") {
			want, other, letter = claims.Dead, "done", 1
		}
		if err != nil || record.State != want {
			t.Errorf("%s is %q, %v; want %s", id, record.State, err, want)
		}
		if dead[id] != letter {
			t.Errorf("%s has %d dead letters; want %d", id, dead[id], letter)
		}
		if runs[string(want)][id] < 1 || runs[other][id] != 0 {
			t.Errorf("the handler said of %s %d times %s and %d times %s; want it once and never", id, runs[string(want)][id], want, runs[other][id], other)
		}
		extra += runs[string(want)][id] - 1
	}
	t.Logf("%d kills, %d runs more than events", kills, extra)
	if most := kills * slots; extra > most {
		t.Errorf("%d runs too many; want at most %d, the handlers that run in a process when it is killed", extra, most)
	}
}

// At SIGTERM under load, workers exit with 0, finish the handlers that run, return other deliveries and count no attempt.
func TestPromise7_StoppingWorkersUnderLoadCountsNoAttempt(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{Workers: []stream.WorkerSpec{counterPlan}})
	const events, stops = 600, 8
	ids := post(t, b.js, events)
	c := newReplicas(t, b, 50*time.Millisecond)
	for n := range stops {
		c.waitRuns((n + 1) * events / (stops + 2))
		replica := c.replica[n%len(c.replica)]
		if code := replica.stop(); code != 0 {
			t.Errorf("%s ended with %d; want 0", replica.name, code)
		}
		replica.start()
	}
	c.waitSettled()

	store, dead := c.claims(), letters(t, b.js)
	runs := c.runs()
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		record, err := store.Get(ctx, claims.Key{WebhookID: id})
		cancel()
		state, attempts, again, letter := claims.Done, 1, 0, 0
		switch {
		case strings.HasPrefix(id, "msg_dead"):
			state, letter = claims.Dead, 1
		case strings.HasPrefix(id, "msg_again"), strings.HasPrefix(id, "msg_park"):
			attempts, again = 2, 1 // it asked for the second one itself
		}
		if err != nil || record.State != state || record.Attempts != attempts {
			t.Errorf("%s is %q after %d attempts, %v; want %s after %d", id, record.State, record.Attempts, err, state, attempts)
		}
		if got := runs[string(state)][id]; got != 1 || runs["again"][id] != again || dead[id] != letter {
			t.Errorf("%s ran %d times to its end, %d times before, and has %d letters; want 1, %d and %d", id, got, runs["again"][id], dead[id], again, letter)
		}
	}
}

// During a rolling restart of the ingress behind a balancer that checks readiness, as Kubernetes does, every request is
// answered 2xx.
func TestPromise7_RollingRestartOfTheIngressRefusesNoRequest(t *testing.T) {
	b := newBroker(t, 1, stream.Layout{})
	var replicas [2]*ingress
	balance := newBalancer(t)
	codatSends, keyFile := newSender(t, balance.pick)
	for i := range replicas {
		replicas[i] = newIngress(t, fmt.Sprintf("ingress-%d", i), b.url, keyFile, "--drain-delay", "5s")
		replicas[i].waitReady()
	}
	balance.over(replicas[:])

	stop := codatSends.flow(8, anything)
	codatSends.progress(100)
	for _, replica := range replicas {
		if code := replica.stop(); code != 0 {
			t.Errorf("%s ended with %d; want 0", replica.name, code)
		}
		replica.start()
		replica.reachable()
		replica.waitReady()
		codatSends.progress(100)
	}
	stop()
	codatSends.inTime()
	if counts := codatSends.counts(); len(counts) != 1 || counts[204] == 0 {
		t.Errorf("answers %v; want nothing but 204 (0: no answer)", counts)
	}
	codatSends.stored(b.js)
}
