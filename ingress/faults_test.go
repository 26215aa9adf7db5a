package ingress_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// answerTime is the longest that an answer may take: Codat waits 15 s.
const answerTime = 10 * time.Second

// A poster posts events as Codat does: each until it is answered 2xx, with the same id and a new signature, and pauses
// that are shorter here.
type poster struct {
	t    testing.TB
	key  pair
	url  string
	name string

	client *http.Client
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu          sync.Mutex
	accepted    map[string][]byte
	unavailable int
	longest     time.Duration
}

// newPoster begins to post, by some senders at a time, until end.
func newPoster(t testing.TB, g *gate, k pair, name string, senders int) *poster {
	t.Helper()
	c := &poster{
		t: t, key: k, url: g.url, name: name,
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}, Timeout: patience},
		accepted: map[string][]byte{},
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	t.Cleanup(func() {
		c.stop()
		c.wg.Wait()
		c.client.CloseIdleConnections()
	})
	for s := range senders {
		c.wg.Go(func() {
			for n := 0; c.ctx.Err() == nil; n++ {
				c.send(fmt.Sprintf("msg_%s_%d_%d", name, s, n), fmt.Sprintf(`{"eventType":"company.created", "sender":%d,"n":%d }`, s, n))
			}
		})
	}
	return c
}

func (c *poster) send(id, body string) {
	for try := 0; ; try++ {
		began := time.Now()
		resp, err := c.client.Do(post(c.url, c.key, id, body))
		took := time.Since(began)
		if err != nil {
			c.t.Errorf("%s, try %d: %v", id, try, err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		c.mu.Lock()
		c.longest = max(c.longest, took)
		switch resp.StatusCode {
		case http.StatusNoContent:
			c.accepted[id] = []byte(body)
		case http.StatusServiceUnavailable:
			c.unavailable++
			if resp.Header.Get("Retry-After") == "" {
				c.t.Errorf("%s, try %d: 503 without Retry-After", id, try)
			}
		default:
			c.t.Errorf("%s, try %d: answered %d; want 204, or 503 for a while", id, try, resp.StatusCode)
		}
		c.mu.Unlock()
		if resp.StatusCode != http.StatusServiceUnavailable {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.ctx.Done():
			return // Codat would try on
		}
	}
}

func (c *poster) numbers() (accepted, unavailable int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.accepted), c.unavailable
}

// more waits until so many more events are accepted.
func (c *poster) more(n int) {
	c.t.Helper()
	before, _ := c.numbers()
	c.wait(func() bool { now, _ := c.numbers(); return now >= before+n }, fmt.Sprintf("%d more are accepted", n))
}

// refused waits until so many more answers were 503.
func (c *poster) refused(n int) {
	c.t.Helper()
	_, before := c.numbers()
	c.wait(func() bool { _, now := c.numbers(); return now >= before+n }, fmt.Sprintf("%d more are refused", n))
}

func (c *poster) wait(cond func() bool, what string) {
	c.t.Helper()
	late := time.After(2 * patience)
	for !cond() {
		select {
		case <-late:
			c.t.Fatalf("not within %v: %s", 2*patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// end stops posting and compares what was answered 2xx with what the stream has.
func (c *poster) end(js jetstream.JetStream) {
	c.t.Helper()
	c.stop()
	c.wg.Wait()
	if c.longest >= answerTime {
		c.t.Errorf("an answer took %v; want less than %v", c.longest, answerTime)
	}
	found := map[string]int{}
	for _, msg := range consumed(c.t, js) {
		id := msg.Header.Get(stream.HeaderWebhookID)
		if !strings.HasPrefix(id, "msg_"+c.name+"_") {
			continue
		}
		found[id]++
		if want, ok := c.accepted[id]; ok && !bytes.Equal(msg.Data, want) {
			c.t.Errorf("%s is stored as %q; want %q", id, msg.Data, want)
		}
	}
	lost, twice := 0, 0
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
	if lost > 0 || twice > 0 {
		c.t.Errorf("of %d events that were answered 2xx %d are lost; %d are stored more than once", len(c.accepted), lost, twice)
	}
	c.t.Logf("%s: %d accepted, %d answers of 503, the longest took %v", c.name, len(c.accepted), c.unavailable, c.longest.Round(time.Millisecond))
}

// consumed are all messages of the stream.
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
		for uint64(len(all)) < st.CachedInfo().State.Msgs {
			batch, err := consumer.Fetch(1000, jetstream.FetchMaxWait(5*time.Second))
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
	for late := time.Now().Add(2 * patience); !read(); <-tick.C {
		if time.Now().After(late) {
			t.Fatalf("not all messages could be read within %v", 2*patience)
		}
	}
	return all
}

// Whatever happens to the cluster, every event that was answered 2xx is stored once and as it came, nothing is refused
// but by 503, and every answer comes in time.
func TestFaultsOfACluster(t *testing.T) {
	t.Parallel() // it waits for most of its time
	k := key(t, "us")
	c := streamtest.NewCluster(t)
	g := run(t, settings(t, c.URL, k))
	g.waitReady(t)
	const senders = 4
	name := streamtest.Source.Stream()

	t.Run("the leader is killed", func(t *testing.T) {
		sent := newPoster(t, g, k, "killed", senders)
		sent.more(20)
		leader := c.LeaderOf(name)
		c.Kill(leader)
		sent.more(20)
		c.Restart(leader)
		c.WaitReady()
		sent.more(20)
		sent.end(c.JS)
	})
	t.Run("the leader is cut off", func(t *testing.T) {
		sent := newPoster(t, g, k, "cut", senders)
		sent.more(20)
		leader := c.LeaderOf(name)
		c.Isolate(leader)
		sent.more(20)
		c.Join(leader)
		c.WaitReady()
		sent.more(20)
		sent.end(c.JS)
	})
	t.Run("the quorum is lost", func(t *testing.T) {
		sent := newPoster(t, g, k, "quorum", senders)
		sent.more(20)
		leader := c.LeaderOf(name)
		others := []int{(leader + 1) % streamtest.Nodes, (leader + 2) % streamtest.Nodes}
		for _, i := range others {
			c.Kill(i)
		}
		sent.refused(senders)
		streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
		for _, i := range others {
			c.Restart(i)
		}
		c.WaitReady()
		sent.more(20)
		sent.end(c.JS)
		g.waitReady(t)
	})
	t.Run("the stream is full", func(t *testing.T) {
		sent := newPoster(t, g, k, "full", senders)
		sent.more(20)
		limit(t, c.JS, 1)
		sent.refused(senders)
		streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
		limit(t, c.JS, 64<<20)
		sent.more(20)
		sent.end(c.JS)
		g.waitReady(t)
	})

	proxy := streamtest.NewProxy(t, strings.TrimPrefix(strings.Split(c.URL, ",")[0], "nats://"))
	g.stop()
	g = run(t, settings(t, proxy.URL(), k))
	g.waitReady(t)
	t.Run("acks come late", func(t *testing.T) {
		sent := newPoster(t, g, k, "late", senders)
		sent.more(20)
		proxy.Delay(500 * time.Millisecond)
		sent.more(2 * senders)
		proxy.Heal()
		sent.more(20)
		sent.end(c.JS)
	})
	t.Run("acks do not come", func(t *testing.T) {
		sent := newPoster(t, g, k, "mute", senders)
		sent.more(20)
		proxy.Mute()
		// Half of the tries of one request.
		wait := time.NewTimer(3 * time.Second)
		defer wait.Stop()
		<-wait.C
		proxy.Heal()
		sent.more(20)
		sent.end(c.JS)
		if g.value(t, "requests_total", "duplicate") == 0 {
			t.Log("no event was found stored before: the acks came after all")
		}
	})
	t.Run("the connection breaks", func(t *testing.T) {
		sent := newPoster(t, g, k, "broken", senders)
		sent.more(20)
		for range 3 {
			proxy.Cut()
			proxy.Heal()
			sent.more(20)
		}
		sent.end(c.JS)
	})
}

func TestAServerThatIsRestarted(t *testing.T) {
	t.Parallel()
	k := key(t, "us")
	g, server := start(t, k)
	sent := newPoster(t, g, k, "restart", 4)
	for range 3 {
		sent.more(50)
		server.Restart()
	}
	sent.more(50)
	sent.end(server.JS)
}

// limit sets how large the stream may become.
func limit(t testing.TB, js jetstream.JetStream, bytes int64) {
	t.Helper()
	var err error
	streamtest.Wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// A server that takes nothing any more, as one that is frozen, holds whoever writes to it: requests are answered all the
// same, and what was answered 503 is stored when it comes again.
func TestAServerThatTakesNothing(t *testing.T) {
	t.Parallel()
	k := key(t, "us")
	server := streamtest.New(t)
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(server.URL, "nats://"))
	g := run(t, settings(t, proxy.URL(), k))
	g.waitReady(t)
	const requests = 24 // more than the buffers on the way hold
	body := event("company.created")
	body = body[:len(body)-1] + `,"more":"` + strings.Repeat("x", 900<<10) + `"}`
	proxy.Stall()
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			began := time.Now()
			resp, err := client.Do(post(g.url, k, fmt.Sprintf("msg_%d", i), body))
			if err != nil {
				t.Errorf("msg_%d: %v after %v; want an answer", i, err, time.Since(began))
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 503 {
				t.Errorf("msg_%d: %d; want 503", i, resp.StatusCode)
			}
		})
	}
	wg.Wait()
	proxy.Heal()
	g.waitReady(t)
	for i := range requests {
		streamtest.Wait(t, func() bool {
			return send(t, post(g.url, k, fmt.Sprintf("msg_%d", i), body)).status == 204
		}, "what was refused to be stored")
	}
	if all := stored(t, server.JS); len(all) != requests {
		t.Errorf("%d events are stored; want %d", len(all), requests)
	}
}
