//go:build faults

package ingress_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const (
	// answerTime is the longest that an answer may take.
	answerTime = 10 * time.Second
	// budget is for how long the ingress tries to store an event before it answers 503.
	budget = 8 * time.Second
)

// Why an event could not be stored, as the metrics name it.
const (
	streamUnavailable = "stream_unavailable"
	streamFull        = "stream_full"
)

// A poster posts events as Codat does: it repeats each with the same id and a new signature until it is answered 2xx, after
// shorter pauses than Codat's. Every response must be 204, or 503 during a fault. Any other one fails the test.
type poster struct {
	t    testing.TB
	g    *instance
	key  testKey
	name string

	client  *http.Client
	ctx     context.Context
	abort   context.CancelFunc // of what is under way too
	enough  atomic.Bool        // no new event is begun
	done    chan struct{}      // closed when nothing is sent any more
	refused map[string]float64 // before it began to post, by reason

	mu          sync.Mutex
	fault       bool // from faultBegins until recovered
	faults      int  // that have begun
	accepted    map[string][]byte
	unavailable int
	early       int // of those that are unavailable, before the budget was used up
	longest     time.Duration
}

// newPoster starts to post with that many senders, until end. fault says whether there is a fault at the start.
func newPoster(t testing.TB, g *instance, k testKey, name string, senders int, fault bool) *poster {
	t.Helper()
	c := &poster{
		t: t, g: g, key: k, name: name,
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}, Timeout: timeout},
		done:     make(chan struct{}),
		refused:  refusals(t, g),
		accepted: map[string][]byte{},
		fault:    fault,
	}
	c.ctx, c.abort = context.WithCancel(context.Background())
	t.Cleanup(func() {
		c.abort()
		<-c.done
		c.client.CloseIdleConnections()
	})
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := 0; c.ctx.Err() == nil && !c.enough.Load(); n++ {
				c.send(fmt.Sprintf("msg_%s_%d_%d", name, s, n), fmt.Sprintf(`{"eventType":"company.created", "sender":%d,"n":%d }`, s, n))
			}
		})
	}
	go func() {
		wg.Wait()
		close(c.done)
	}()
	return c
}

// refusals returns the number of requests that were not answered 2xx, by reason.
func refusals(t testing.TB, g *instance) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, reason := range g.labels(t, "refusals_total", "reason") {
		all[reason] = g.value(t, "refusals_total", reason)
	}
	return all
}

// send sends an event until it is accepted.
func (c *poster) send(id, body string) {
	for try := 0; c.ctx.Err() == nil; try++ {
		c.mu.Lock()
		fault, faults := c.fault, c.faults
		c.mu.Unlock()
		req := post(c.g.url, c.key, id, body)
		began := time.Now()
		resp, err := c.client.Do(req)
		took := time.Since(began)
		if err != nil {
			c.fail("%s, try %d: %v", id, try, err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		c.mu.Lock()
		c.longest = max(c.longest, took)
		fault = fault || c.faults > faults // while it was under way
		if resp.StatusCode == http.StatusNoContent {
			c.accepted[id] = []byte(body)
		}
		if resp.StatusCode == http.StatusServiceUnavailable {
			c.unavailable++
			if took < budget {
				c.early++
			}
		}
		c.mu.Unlock()
		switch {
		case resp.StatusCode == http.StatusNoContent:
			return
		case resp.StatusCode != http.StatusServiceUnavailable:
			c.fail("%s, try %d: answered %d; want 204, or 503 while there is a fault", id, try, resp.StatusCode)
		case resp.Header.Get("Retry-After") == "":
			c.fail("%s, try %d: 503 without Retry-After", id, try)
		case !fault:
			c.fail("%s, try %d: 503 after %v, while there is no fault", id, try, took)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.ctx.Done():
		}
	}
}

// fail fails the test and stops the senders.
func (c *poster) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf(format, args...)
	c.abort()
}

// faultBegins allows responses of 503 from now on.
func (c *poster) faultBegins() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = true
	c.faults++
}

// recovered waits until events are accepted again. Requests that begin after that must not be answered 503, and there are
// some.
func (c *poster) recovered() {
	c.t.Helper()
	c.more(20)
	c.mu.Lock()
	c.fault = false
	c.mu.Unlock()
	c.more(20)
}

func (c *poster) numbers() (accepted, unavailable int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.accepted), c.unavailable
}

// has reports whether an event was accepted.
func (c *poster) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accepted[id] != nil
}

// more waits until that many more events are accepted.
func (c *poster) more(n int) {
	c.t.Helper()
	before, _ := c.numbers()
	c.wait(func() bool { now, _ := c.numbers(); return now >= before+n }, fmt.Sprintf("%d more are accepted", n))
}

// unavailables waits until that many more responses were 503.
func (c *poster) unavailables(n int) {
	c.t.Helper()
	_, before := c.numbers()
	c.wait(func() bool { _, now := c.numbers(); return now >= before+n }, fmt.Sprintf("%d more are answered 503", n))
}

func (c *poster) wait(cond func() bool, what string) {
	c.t.Helper()
	late := time.After(2 * timeout)
	for !cond() {
		select {
		case <-late:
			c.t.Fatalf("not within %v: %s", 2*timeout, what)
		case <-c.ctx.Done():
			c.t.Fatalf("posting has ended before this: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// end waits until every event that was begun is accepted, and compares them with the stream. reason is the expected reason
// of responses of 503, "" when there must be none. A 503 for an unavailable stream must not come before the publish timeout:
// the sender never notices a shorter outage.
func (c *poster) end(js jetstream.JetStream, reason string) {
	c.t.Helper()
	c.enough.Store(true)
	c.wait(func() bool {
		select {
		case <-c.done:
			return true
		default:
			return false
		}
	}, "every event that was begun is accepted")
	began := time.Now()
	if c.longest >= answerTime {
		c.t.Errorf("an answer took %v; want less than %v", c.longest, answerTime)
	}
	for why, n := range refusals(c.t, c.g) {
		// Without a quorum, the server answers an id that it has not yet stored by its own reason when it comes again.
		again := why == "id_in_process" && reason == streamUnavailable
		if n -= c.refused[why]; n > 0 && why != reason && !again {
			c.t.Errorf("%v requests were refused for %q; want none but for %q", n, why, reason)
		}
	}
	if c.early > 0 && reason != streamFull {
		c.t.Errorf("%d of %d answers of 503 came in less than %v", c.early, c.unavailable, budget)
	}
	// A leader that was cut off may answer with its old state for a moment after it rejoins.
	var lost, twice int
	c.wait(func() bool {
		lost, twice = c.compare(consumed(c.t, js))
		return lost == 0 || time.Since(began) > timeout
	}, "the stream is read")
	if lost > 0 || twice > 0 {
		c.t.Errorf("of %d events that were answered 2xx %d are lost; %d are stored more than once", len(c.accepted), lost, twice)
	}
	c.t.Logf("%s: %d accepted, %d answers of 503, the longest took %v", c.name, len(c.accepted), c.unavailable, c.longest.Round(time.Millisecond))
}

// compare returns how many accepted events the messages do not have, and how many events they have more than once.
func (c *poster) compare(messages []*jetstream.RawStreamMsg) (lost, twice int) {
	c.t.Helper()
	found := map[string]int{}
	for _, msg := range messages {
		id := msg.Header.Get(stream.HeaderWebhookID)
		if !strings.HasPrefix(id, "msg_"+c.name+"_") {
			continue
		}
		found[id]++
		if want := c.accepted[id]; !bytes.Equal(msg.Data, want) {
			c.t.Errorf("%s is stored as %q; want %q", id, msg.Data, want)
		}
	}
	for id := range c.accepted {
		if found[id] == 0 {
			lost++
		}
	}
	for _, n := range found {
		if n > 1 {
			twice++
		}
	}
	return lost, twice
}

// A publishWatcher counts how often events were published.
type publishWatcher struct {
	mu    sync.Mutex
	count map[string]int
}

// watchPublishes counts the messages that the servers receive from now on, stored or not.
func watchPublishes(t testing.TB, nc *nats.Conn) *publishWatcher {
	t.Helper()
	w := &publishWatcher{count: map[string]int{}}
	sub, err := nc.Subscribe("codat.events.>", func(msg *nats.Msg) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.count[msg.Header.Get(stream.HeaderWebhookID)]++
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return w
}

// forget resets the counts.
func (w *publishWatcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.count)
}

// any reports whether a message was published.
func (w *publishWatcher) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.count) > 0
}

// twice returns the ids of events that were published more than once.
func (w *publishWatcher) twice() (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range w.count {
		if n > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

// consumed returns all messages of the stream.
func consumed(t testing.TB, js jetstream.JetStream) []*jetstream.RawStreamMsg {
	t.Helper()
	var all []*jetstream.RawStreamMsg
	read := func() bool {
		// A request that meets a change of leaders is lost: soon another one is made.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		st, err := js.Stream(ctx, streamtest.Source.Stream())
		if err != nil {
			return false
		}
		consumer, err := js.OrderedConsumer(ctx, st.CachedInfo().Config.Name, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return false
		}
		all = nil
		for total := int(st.CachedInfo().State.Msgs); len(all) < total; {
			batch, err := consumer.Fetch(min(1000, total-len(all)), jetstream.FetchMaxWait(5*time.Second)) // of more it would wait for the rest
			if err != nil {
				return false
			}
			before := len(all)
			for msg := range batch.Messages() {
				all = append(all, &jetstream.RawStreamMsg{Header: msg.Headers(), Data: msg.Data()})
			}
			if len(all) == before {
				return false
			}
		}
		return true
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(2 * timeout); !read(); <-tick.C {
		if time.Now().After(late) {
			t.Fatalf("not all messages could be read within %v", 2*timeout)
		}
	}
	return all
}

// Responses may be 503 while the server is away for longer than the publish timeout.
func TestFaults_ServerRestart(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	sent := newPoster(t, g, k, "restart", 4, false)
	sent.more(50)
	for range 3 {
		sent.faultBegins()
		server.Restart()
		sent.recovered()
	}
	sent.end(server.JS, streamUnavailable)
}

// setMaxBytes sets the maximum size of the stream, in bytes.
func setMaxBytes(t testing.TB, js jetstream.JetStream, bytes int64) {
	t.Helper()
	var err error
	streamtest.Wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		st, e := js.Stream(ctx, streamtest.Source.Stream())
		if err = e; err != nil {
			return false
		}
		config := st.CachedInfo().Config
		config.MaxBytes = bytes
		_, err = js.UpdateStream(ctx, config)
		return err == nil
	}, fmt.Sprintf("the stream is limited to %d bytes", bytes))
}

// Whatever happens to the cluster, every event that was answered 2xx is stored once and as it came, nothing is refused
// but by 503 and while there is a fault, and every answer comes in time.
func TestFaults_Cluster(t *testing.T) {
	t.Parallel() // it waits for most of its time
	k := newKey(t, "us")
	c := streamtest.NewCluster(t)
	g := run(t, settings(t, c.URL, k))
	g.waitReady(t)
	const senders = 4
	name := streamtest.Source.Stream()

	// Others are elected within nine seconds, which can be more than the ingress has: 503 may come until then, and while
	// the node comes back. Two nodes refuse nothing.
	t.Run("the leader is killed", func(t *testing.T) {
		sent := newPoster(t, g, k, "killed", senders, false)
		sent.more(20)
		leader := c.LeaderOf(name)
		sent.faultBegins()
		c.Kill(leader)
		sent.recovered()
		sent.faultBegins()
		c.Restart(leader)
		c.WaitReady()
		sent.recovered()
		sent.end(c.JS, streamUnavailable)
	})
	// As when it is killed.
	t.Run("the leader is cut off", func(t *testing.T) {
		sent := newPoster(t, g, k, "cut", senders, false)
		sent.more(20)
		leader := c.LeaderOf(name)
		sent.faultBegins()
		c.Isolate(leader)
		sent.recovered()
		sent.faultBegins()
		c.Join(leader)
		c.WaitReady()
		sent.recovered()
		sent.end(c.JS, streamUnavailable)
	})
	// 503 must come for all that is sent while one node is left, and may come until the others are back.
	t.Run("the quorum is lost", func(t *testing.T) {
		sent := newPoster(t, g, k, "quorum", senders, false)
		sent.more(20)
		leader := c.LeaderOf(name)
		others := []int{(leader + 1) % streamtest.Nodes, (leader + 2) % streamtest.Nodes}
		sent.faultBegins()
		for _, i := range others {
			c.Kill(i)
		}
		alone := newPoster(t, g, k, "alone", senders, true)
		alone.unavailables(senders)
		if n, _ := alone.numbers(); n > 0 {
			t.Errorf("%d events were accepted by one node of three", n)
		}
		streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
		for _, i := range others {
			c.Restart(i)
		}
		c.WaitReady()
		sent.recovered()
		alone.recovered()
		sent.end(c.JS, streamUnavailable)
		alone.end(c.JS, streamUnavailable)
		g.waitReady(t)
	})
	// 503 must come for all that is sent while the stream has no room.
	t.Run("the stream is full", func(t *testing.T) {
		sent := newPoster(t, g, k, "full", senders, false)
		sent.more(20)
		sent.faultBegins()
		setMaxBytes(t, c.JS, 1)
		beyond := newPoster(t, g, k, "beyond", senders, true)
		beyond.unavailables(senders)
		if n, _ := beyond.numbers(); n > 0 {
			t.Errorf("%d events were accepted for a full stream", n)
		}
		streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
		setMaxBytes(t, c.JS, 64<<20)
		sent.recovered()
		beyond.recovered()
		sent.end(c.JS, streamFull)
		beyond.end(c.JS, streamFull)
		g.waitReady(t)
	})

	proxy := streamtest.NewProxy(t, strings.TrimPrefix(strings.Split(c.URL, ",")[0], "nats://"))
	g.stop()
	g = run(t, settings(t, proxy.URL(), k))
	g.waitReady(t)
	published := watchPublishes(t, c.NC)

	// An ack waits for the one before it and then for its own time: a second, of the eight that there are. No 503.
	t.Run("acks come late", func(t *testing.T) {
		defer proxy.Heal()
		sent := newPoster(t, g, k, "late", senders, false)
		sent.more(20)
		const delay = 500 * time.Millisecond
		proxy.Delay(delay)
		sent.more(2 * senders)
		proxy.Heal()
		sent.more(20)
		sent.end(c.JS, "")
		if sent.longest < delay {
			t.Errorf("the longest answer took %v; want %v, since acks come late", sent.longest, delay)
		}
	})
	// The publisher tries again after 2.75 s, and the ack of the first try comes after that: in six seconds at most where
	// nothing else takes long, so that only a slow machine sees 503.
	t.Run("acks come later than the next try", func(t *testing.T) {
		defer proxy.Heal()
		sent := newPoster(t, g, k, "later", senders, false)
		sent.more(20)
		sent.faultBegins()
		proxy.Delay(3 * time.Second)
		published.forget()
		sent.wait(func() bool { return slices.ContainsFunc(published.twice(), sent.has) }, "an event that was published twice is accepted")
		proxy.Heal()
		sent.recovered()
		sent.end(c.JS, streamUnavailable)
	})
	// The next try has it after the time to connect again. No 503.
	t.Run("an ack is lost", func(t *testing.T) {
		defer proxy.Heal()
		sent := newPoster(t, g, k, "lost", 1, false) // so that no request meets two losses
		sent.more(20)
		before := g.value(t, "requests_total", "duplicate")
		sent.wait(func() bool {
			published.forget()
			proxy.Mute()
			sent.wait(func() bool { return published.any() }, "an event comes to the servers")
			proxy.Heal()
			sent.more(20)
			return g.value(t, "requests_total", "duplicate") > before
		}, "an event is stored whose ack is lost")
		sent.end(c.JS, "")
	})
	// Each sender's event is stored, and two acks of it are lost. 503 may come where it takes long to connect again.
	t.Run("acks do not come", func(t *testing.T) {
		defer proxy.Heal()
		published := watchPublishes(t, c.NC)
		sent := newPoster(t, g, k, "mute", senders, false)
		sent.more(20)
		before := g.value(t, "requests_total", "duplicate")
		sent.faultBegins()
		proxy.Mute()
		sent.wait(func() bool { return len(slices.DeleteFunc(published.twice(), sent.has)) == senders }, "each sender's event is published twice")
		proxy.Heal()
		sent.recovered()
		sent.end(c.JS, streamUnavailable)
		if n := g.value(t, "requests_total", "duplicate") - before; n < senders {
			t.Errorf("%v events were found stored before; want %d, whose acks were lost", n, senders)
		}
	})
	// The ingress connects again in about a second. No 503.
	t.Run("the connection breaks", func(t *testing.T) {
		defer proxy.Heal()
		for i := range 3 {
			sent := newPoster(t, g, k, fmt.Sprintf("broken%d", i), senders, false)
			sent.more(20)
			proxy.Cut()
			proxy.Heal()
			sent.more(20)
			sent.end(c.JS, "") // so that no request meets two breaks
		}
	})
}

// A frozen server blocks every write to it. Requests are answered all the same, and an event that was answered 503 is stored
// when it is sent again. A response may take 1.5 s more than the publish timeout, as long as nats.go may block. It comes before
// Codat gives the request up.
func TestFaults_Answers503WhileTheServerStoresNothing(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(server.URL, "nats://"))
	s := settings(t, proxy.URL(), k)
	s.PublishTimeout = 6 * time.Second
	const codatWaits = 15 * time.Second
	g := run(t, s)
	g.waitReady(t)
	const requests = 24 // more than the buffers on the way hold
	body := event("company.created")
	body = body[:len(body)-1] + `,"more":"` + strings.Repeat("x", 900<<10) + `"}`
	proxy.Stall()
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			req := post(g.url, k, fmt.Sprintf("msg_%d", i), body)
			began := time.Now()
			resp, err := client.Do(req)
			took := time.Since(began)
			if err != nil {
				t.Errorf("msg_%d: %v after %v; want an answer", i, err, took)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 503 || took < s.PublishTimeout || took >= codatWaits {
				t.Errorf("msg_%d: %d after %v; want 503 after %v, and before %v", i, resp.StatusCode, took, s.PublishTimeout, codatWaits)
			}
		})
	}
	wg.Wait()
	proxy.Heal()
	g.waitReady(t)
	for i := range requests {
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", i), body)); got.status != 204 {
			t.Errorf("msg_%d: %d; want 204 when the ingress is ready again", i, got.status)
		}
	}
	found := map[string]bool{}
	for _, msg := range stored(t, server.JS) {
		id := msg.Header.Get(stream.HeaderWebhookID)
		if found[id] || string(msg.Data) != body {
			t.Errorf("%s is stored twice (%v), or not as it came", id, found[id])
		}
		found[id] = true
	}
	if len(found) != requests {
		t.Errorf("%d events are stored; want %d", len(found), requests)
	}
}
