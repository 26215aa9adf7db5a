package workers

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"strconv"
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

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// TestMain lets more tests run at once than there are processors: most of them wait most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if n := runtime.GOMAXPROCS(0); flag.Lookup("test.parallel").Value.String() == strconv.Itoa(n) {
		if err := flag.Set("test.parallel", strconv.Itoa(4*n)); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

const source = stream.Source("codat")

// fixture is a server with one provisioned worker whose handler records its runs.
type fixture struct {
	testing.TB
	*streamtest.Server
	worker    Worker
	publisher *stream.Publisher

	mu   sync.Mutex
	runs []codat.Event[codat.Write] // every run of the handler, in order
	ends []error                    // what each answered
}

// quickPauses are short, so that tests do not wait.
var quickPauses = pauses{claimError: 100 * time.Millisecond, key: 500 * time.Millisecond, pullExpiry: 2 * time.Second, probe: 100 * time.Millisecond, probeFetch: 500 * time.Millisecond}

// newFixture provisions w with one handler, act, for *.write.successful. Fields of w that are zero get values for tests.
func newFixture(t testing.TB, w Worker, act func(context.Context, codat.Event[codat.Write]) error) *fixture {
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // most of a test here is waiting
	}
	return newSequentialFixture(t, w, act)
}

// newSequentialFixture is newFixture for a test that cannot run in parallel with others.
func newSequentialFixture(t testing.TB, w Worker, act func(context.Context, codat.Event[codat.Write]) error) *fixture {
	r := &fixture{TB: t}
	w.Name = "tested"
	w.Begin = stream.BeginAll()
	if w.BackoffMin == 0 {
		w.BackoffMin, w.BackoffMax = 10*time.Millisecond, 20*time.Millisecond
	}
	if w.Timeout == 0 {
		w.Timeout = 10 * time.Minute // a handler that waits for the test does so on a slow machine too
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
	if w.pauses == (pauses{}) {
		w.pauses = quickPauses
	}
	r.worker = w.withDefaults()
	r.Server = streamtest.New(t, r.worker.Spec())
	var err error
	if r.publisher, err = stream.NewPublisher(r.NC, stream.PublisherOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.publisher.Close)
	return r
}

// start runs the worker as a process does. stop ends it and returns the error of Run.
func (r *fixture) start(change ...func(*Settings)) (stop func() error) {
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
func (r *fixture) post(id string) uint64 { return r.postType(id, "invoices.write.successful") }

func (r *fixture) postType(id, typ string) uint64 {
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
func (r *fixture) postAll(id string, n int) { r.postAllOf("bills.write.successful", id, n) }

// postAllOf is postAll for events of a type.
func (r *fixture) postAllOf(typ, id string, n int) {
	r.Helper()
	body := fmt.Appendf(nil, `{"eventType":%q,"payload":{"id":"push","status":"Success"}}`, typ)
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

// waitFor is streamtest.Wait with a time limit of its own.
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

// attempts returns the number of the handler's runs for an id, and how many of them succeeded.
func (r *fixture) attempts(id string) (runs, successes int) {
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

func (r *fixture) bucket() jetstream.KeyValue {
	r.Helper()
	kv, err := r.JS.KeyValue(context.Background(), source.ClaimsBucket("tested"))
	if err != nil {
		r.Fatal(err)
	}
	return kv
}

// takeOverLeases gives the worker claims whose clock is ahead, so that the leases of n processes that died one after the
// other are over.
func (r *fixture) takeOverLeases(n int) *claims.KV {
	ahead := time.Duration(n) * (claims.ClockSkew + 2*r.worker.AckWait)
	kv := claims.NewKV(r.bucket(), r.publisher, func() time.Time { return time.Now().Add(ahead) })
	r.worker.Claims = kv
	return kv
}

func (r *fixture) claims() *claims.KV { return claims.NewKV(r.bucket(), r.publisher, nil) }

// state returns the state of the claim of an id, and "" when it has no claim.
func (r *fixture) state(id string) claims.State { return r.record(claims.Key{WebhookID: id}).State }

func (r *fixture) record(k claims.Key) claims.Record {
	r.Helper()
	rec, err := r.claims().Get(context.Background(), k)
	if err != nil && !errors.Is(err, claims.ErrNoClaim) {
		r.Fatal(err)
	}
	return rec
}

// setRecord overwrites the record of a claim, as another process does.
func (r *fixture) setRecord(k claims.Key, rec claims.Record) {
	r.Helper()
	value, err := json.Marshal(rec)
	if err == nil {
		_, err = r.bucket().Put(context.Background(), k.String(), value)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// waitState waits until the claim of an id has the state.
func (r *fixture) waitState(id string, want claims.State) {
	r.Helper()
	streamtest.Wait(r, func() bool { return r.state(id) == want }, fmt.Sprintf("%s to be %s", id, want))
}

// waitQuiet waits until both consumers have no undelivered and no unacked messages.
func (r *fixture) waitQuiet() {
	r.Helper()
	for _, st := range []string{source.Stream(), source.ParkedStream()} {
		streamtest.WaitSettled(r, r.JS, st, "tested")
	}
}

// letters returns all dead letters, oldest first.
func (r *fixture) letters() []deadletter.Letter {
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

// crashingProcess is a process that dies after a step: nothing that it does later has an effect.
type crashingProcess struct {
	claims.Store
	deadletter.Publisher
	at   string // the step after which it dies
	dead bool
}

var errCrashed = errors.New("the process is dead")

func (c *crashingProcess) step(name string, do func() error) error {
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

func (c *crashingProcess) Take(ctx context.Context, k claims.Key, t claims.TakeRequest) (claim claims.Claim, err error) {
	err = c.step("claim", func() error {
		claim, err = c.Store.Take(ctx, k, t)
		return err
	})
	return claim, err
}

func (c *crashingProcess) Save(ctx context.Context, claim claims.Claim) (saved claims.Claim, err error) {
	if c.dead {
		return claim, claims.ErrLost // so that save does not try again for the whole lease
	}
	err = c.step(string(claim.Record.State), func() error {
		saved, err = c.Store.Save(ctx, claim)
		return err
	})
	if errors.Is(err, errCrashed) {
		err = claims.ErrLost
	}
	return saved, err
}

func (c *crashingProcess) Publish(ctx context.Context, m *nats.Msg) (rec stream.Receipt, err error) {
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

// crashingMsg is a delivery to a process that dies.
type crashingMsg struct {
	jetstream.Msg
	*crashingProcess
}

func (m crashingMsg) Ack() error { return m.step("ack", m.Msg.Ack) }

func (m crashingMsg) NakWithDelay(d time.Duration) error {
	return m.step("nak", func() error { return m.Msg.NakWithDelay(d) })
}

func (m crashingMsg) InProgress() error { return m.step("inprogress", m.Msg.InProgress) }

// runner returns a runner without its pull loop, over the fixture's server.
func (r *fixture) runner(c *crashingProcess) *runner {
	r.Helper()
	b := newBreaker(time.Now)
	p := process.New("tested", zap.NewNop())
	m, err := newMetrics(p.Metrics, "tested", b)
	if err != nil {
		r.Fatal(err)
	}
	c.Store, c.Publisher = r.claims(), r.publisher
	return &runner{
		worker: r.worker, source: source, claims: c, publish: c, log: zap.NewNop(), sampled: zap.NewNop(), metrics: m, breaker: b, tracer: noop.NewTracerProvider().Tracer(""),
		instance: "crashing", now: time.Now, jitter: func() float64 { return 1 }, handlers: context.Background(),
	}
}

// next fetches one delivery of the worker.
func (r *fixture) next(st string) jetstream.Msg {
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
