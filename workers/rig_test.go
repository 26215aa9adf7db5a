package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = stream.Source("codat")

// rig is a server with one worker provisioned, and a log of what its handler did.
type rig struct {
	testing.TB
	*streamtest.Server
	worker    Worker
	publisher *stream.Publisher

	mu   sync.Mutex
	runs []codat.Event[codat.Write] // every run of the handler, in order
	ends []error                    // what each answered
}

// newRig provisions w with one handler, act, for *.write.successful. Zero fields of w get test-sized values.
func newRig(t testing.TB, w Worker, act func(context.Context, codat.Event[codat.Write]) error) *rig {
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // most of a test here is waiting
	}
	r := &rig{TB: t}
	w.Name = "tested"
	w.Begin = stream.BeginAll()
	if w.BackoffMin == 0 {
		w.BackoffMin, w.BackoffMax = 10*time.Millisecond, 20*time.Millisecond
	}
	w.Handlers = append(w.Handlers, Handle(codat.AnyWriteSuccessful, func(ctx context.Context, e codat.Event[codat.Write]) error {
		r.mu.Lock()
		r.runs = append(r.runs, e)
		r.mu.Unlock()
		err := act(ctx, e)
		r.mu.Lock()
		r.ends = append(r.ends, err)
		r.mu.Unlock()
		return err
	}))
	r.worker = w.withDefaults()
	r.Server = streamtest.New(t, r.worker.Plan())
	var err error
	if r.publisher, err = stream.NewPublisher(r.NC, stream.PublisherOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.publisher.Close)
	return r
}

// start runs the worker as a process does; stop ends it and reports what Run returned.
func (r *rig) start(change ...func(*Settings)) (stop func() error) {
	r.Helper()
	s := Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: 20 * time.Second}
	for _, c := range change {
		c(&s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	log := zaptest.NewLogger(r, zaptest.Level(zap.WarnLevel))
	go func() {
		ended <- Run(ctx, s, process.New("tested", log), r.worker, func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return err
	}
	r.Cleanup(func() {
		if err := stop(); err != nil {
			r.Errorf("Run = %v; want a clean stop", err)
		}
	})
	return stop
}

// post stores an event as the ingress does.
func (r *rig) post(id string) uint64 { return r.postType(id, "invoices.write.successful") }

func (r *rig) postType(id, typ string) uint64 {
	r.Helper()
	body := []byte(fmt.Sprintf(`{"id":"e-%s","eventType":%q,"payload":{"id":"push-%s","status":"Success"}}`, id, typ, id))
	head, err := codat.Read(body)
	if err != nil {
		r.Fatal(err)
	}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ack, err := r.JS.PublishMsg(ctx, m)
	if err != nil {
		r.Fatalf("post %s: %v", id, err)
	}
	return ack.Sequence
}

// postAll stores n events, id_0 to id_<n-1>, without waiting for each.
func (r *rig) postAll(id string, n int) {
	r.Helper()
	body := []byte(`{"eventType":"bills.write.successful","payload":{"id":"push","status":"Success"}}`)
	head, err := codat.Read(body)
	if err != nil {
		r.Fatal(err)
	}
	var stored []jetstream.PubAckFuture
	for i := range n {
		m, err := source.Message(stream.Stored{ID: fmt.Sprintf("%s_%d", id, i), Head: head, Received: time.Now()}, body)
		if err != nil {
			r.Fatal(err)
		}
		ack, err := r.JS.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
		if err != nil {
			r.Fatal(err)
		}
		stored = append(stored, ack)
	}
	for _, ack := range stored {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			r.Fatal(err)
		}
	}
}

// waitFor is streamtest.Wait for what takes longer.
func waitFor(t testing.TB, most time.Duration, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(most); !cond(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %v", most)
		}
	}
}

// attempts counts the handler's runs for an id, and how many of them succeeded.
func (r *rig) attempts(id string) (runs, successes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.runs {
		if e.WebhookID != id {
			continue
		}
		runs++
		if i < len(r.ends) && r.ends[i] == nil {
			successes++
		}
	}
	return runs, successes
}

func (r *rig) claims() *KVClaims {
	r.Helper()
	kv, err := r.JS.KeyValue(context.Background(), source.ClaimsBucket("tested"))
	if err != nil {
		r.Fatal(err)
	}
	return NewKVClaims(kv, r.publisher, nil)
}

// state is where an id stands; "" when it has no claim.
func (r *rig) state(id string) State { return r.record(Key{WebhookID: id}).State }

func (r *rig) record(k Key) Record {
	r.Helper()
	rec, err := r.claims().Look(context.Background(), k)
	if err != nil && !errors.Is(err, ErrNoClaim) {
		r.Fatal(err)
	}
	return rec
}

// waitState waits until an id stands where it should, and its delivery is settled.
func (r *rig) waitState(id string, want State) {
	r.Helper()
	streamtest.Wait(r, func() bool { return r.state(id) == want }, fmt.Sprintf("%s to be %s", id, want))
}

// waitQuiet waits until neither consumer has anything undelivered or unacked.
func (r *rig) waitQuiet() {
	r.Helper()
	for _, st := range []string{source.Stream(), source.ParkedStream()} {
		streamtest.Wait(r, func() bool {
			c, err := r.JS.Consumer(context.Background(), st, "tested")
			if err != nil {
				return false
			}
			info := c.CachedInfo()
			return info.NumPending == 0 && info.NumAckPending == 0
		}, st+" to be settled")
	}
}

// letters are all dead letters, oldest first.
func (r *rig) letters() []deadletter.Letter {
	r.Helper()
	var all []deadletter.Letter
	if err := deadletter.List(context.Background(), r.JS, source, deadletter.Filter{}, func(l deadletter.Letter) error {
		all = append(all, l)
		return nil
	}); err != nil {
		r.Fatal(err)
	}
	return all
}

// crash is a process that dies: after its step, nothing that it does arrives any more.
type crash struct {
	Claims
	deadletter.Publisher
	at   string // the step after which it dies
	dead bool
}

var errCrashed = errors.New("the process is dead")

func (c *crash) step(name string, do func() error) error {
	if c.dead {
		return errCrashed
	}
	err := do()
	c.dead = c.dead || c.at == name
	if c.dead {
		return errCrashed
	}
	return err
}

func (c *crash) Take(ctx context.Context, k Key, t Taking) (claim Claim, err error) {
	err = c.step("claim", func() error {
		claim, err = c.Claims.Take(ctx, k, t)
		return err
	})
	return claim, err
}

func (c *crash) Save(ctx context.Context, claim Claim) (saved Claim, err error) {
	if c.dead {
		return claim, ErrLost // so that save does not try again for the whole lease
	}
	err = c.step(string(claim.Record.State), func() error {
		saved, err = c.Claims.Save(ctx, claim)
		return err
	})
	if errors.Is(err, errCrashed) {
		err = ErrLost
	}
	return saved, err
}

func (c *crash) Publish(ctx context.Context, m *nats.Msg) (rec stream.Receipt, err error) {
	name := "publish parked"
	if strings.HasPrefix(m.Subject, "codat.dead.") {
		name = "publish dead"
	}
	err = c.step(name, func() error {
		rec, err = c.Publisher.Publish(ctx, m)
		return err
	})
	return rec, err
}

// crashMsg is a delivery to a process that dies.
type crashMsg struct {
	jetstream.Msg
	*crash
}

func (m crashMsg) Ack() error { return m.step("ack", m.Msg.Ack) }

func (m crashMsg) NakWithDelay(d time.Duration) error {
	return m.step("nak", func() error { return m.Msg.NakWithDelay(d) })
}

func (m crashMsg) InProgress() error { return m.step("inprogress", m.Msg.InProgress) }

// runner is the heart of the worker without its loop, over the rig's server.
func (r *rig) runner(c *crash) *runner {
	r.Helper()
	b := newBreaker(time.Now)
	p := process.New("tested", zap.NewNop())
	m, err := newMetrics(p.Metrics, "tested", b)
	if err != nil {
		r.Fatal(err)
	}
	c.Claims, c.Publisher = r.claims(), r.publisher
	return &runner{
		worker: r.worker, source: source, claims: c, publish: c, log: zap.NewNop(), sampled: zap.NewNop(), metrics: m, breaker: b, tracer: noop.NewTracerProvider().Tracer(""),
		instance: "crashing", now: time.Now, jitter: func() float64 { return 1 }, handlers: context.Background(),
	}
}

// next fetches one delivery of the worker.
func (r *rig) next(st string) jetstream.Msg {
	r.Helper()
	c, err := r.JS.Consumer(context.Background(), st, "tested")
	if err != nil {
		r.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(30 * time.Second))
	if err != nil {
		r.Fatalf("next of %s: %v", st, err)
	}
	return m
}
