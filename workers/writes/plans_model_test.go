package writes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

// Random plans are carried out against the stand-in over HTTP while it fails, refuses, hangs up and times out, while the
// quota is used up, and while the process that carries them out is killed before and after its writes and calls.
func TestPromise9_PlansCreateOnceInOrder(t *testing.T) { checkPlans(t, 30) }

// checkPlans carries out so many plans. At the stand-in no write is made twice unless a person has asked for it after it
// was seen to have failed; a step is pushed when those before it have succeeded, with what they made; and each plan
// comes to its end, with the actions of a person who looks at the platform.
func checkPlans(t *testing.T, count int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newPlanWorld(t, seed, min(count/3, 60), nil)
	defer w.stop()
	var submitted []string
	for i := range count {
		p := w.randomPlan(i)
		submitted = append(submitted, p.ID)
		w.submit(p)
	}
	deadline := time.Now().Add(5 * time.Minute)
	for _, id := range submitted {
		for {
			r, err := plan.Get(t.Context(), w.srv.JS, source, id)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status == plan.StatusDone || r.Status == plan.StatusCancelled {
				break
			}
			if time.Now().After(deadline) {
				text, _ := json.MarshalIndent(r.Steps, "", " ")
				t.Fatalf("plan %s is %s:\n%s", id, r.Status, text)
			}
			if r.Status == plan.StatusHeld {
				w.help(r)
			}
			select {
			case <-t.Context().Done():
				t.Fatal("the test ends")
			case <-time.After(5 * time.Millisecond): // between two looks at the record
			}
		}
	}
	w.check()
}

const source = stream.Source("codat")

// A planWorld is a broker, a stand-in that delivers webhooks into it, the worker, and processes that carry out plans.
type planWorld struct {
	*testing.T
	srv   *streamtest.Server
	codat *codattest.Server
	store Store
	plans jetstream.KeyValue
	calls *api.Client

	mu      sync.Mutex
	random  *rand.Rand
	done    map[string]string // record by plan/step of what has succeeded
	made    map[string][]codattest.Push
	faults  []string
	byID    map[string]plan.Plan
	skipped map[string]string
	script  func(codattest.Push) codattest.Outcome // what becomes of a push; nil is random
	lost    map[int]bool                           // numbers of pushes that time out for good
	kills   int
	// maxKills bounds the kills: each one delays what was in flight by a lease.
	maxKills int
	current  *plans
	quit     func()
}

func newPlanWorld(t *testing.T, seed uint64, maxKills int, script func(codattest.Push) codattest.Outcome) *planWorld {
	w := &planWorld{
		T: t, random: rand.New(rand.NewPCG(seed, 1)), done: map[string]string{}, made: map[string][]codattest.Push{},
		byID: map[string]plan.Plan{}, skipped: map[string]string{}, lost: map[int]bool{}, maxKills: maxKills, script: script,
	}
	w.srv = streamtest.New(t, Worker(Store{}).Spec())
	endpoint := httptest.NewServer(http.HandlerFunc(w.receive))
	t.Cleanup(endpoint.Close)
	var err error
	w.codat, err = codattest.Start(codattest.Options{
		Outcome: w.outcome, Changed: w.changed, Quota: 1 << 40, Speed: 10_000,
		Delivery: func(codattest.Message) codattest.Delivery {
			w.mu.Lock()
			defer w.mu.Unlock()
			return codattest.Delivery{Delay: time.Duration(w.random.IntN(30)) * time.Millisecond, Copies: w.random.IntN(2)}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.codat.Close)
	for i := range 10 {
		w.codat.AddCompany(codattest.Company{ID: fmt.Sprintf("company-%d", i), Name: "A Company", Connections: []string{"connection"}})
	}
	w.codat.AddEndpoint(codattest.Endpoint{URL: endpoint.URL})
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(codattest.DefaultKey), 0o600); err != nil {
		t.Fatal(err)
	}
	w.calls, err = api.New(api.Settings{CodatKeyFile: key, CodatURL: w.codat.URL(), CodatTimeout: 10 * time.Second, CodatConcurrency: 4}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.calls.Close)
	w.plans = w.bucket(plan.StateName)
	w.store = Store{writes: w.bucket(state.WritesName), quota: w.bucket(state.QuotaName), pushes: w.calls, overdueAfter: time.Hour, overdue: prometheus.NewCounter(prometheus.CounterOpts{Name: "overdue_total"})}
	w.startWorker()
	w.run()
	return w
}

// Whatever answer the first call has, the platform is asked for one record, and the step is done with it.
func TestPromise9_AStepIsMadeOnceAfter(t *testing.T) {
	soon := codattest.Succeed(time.Millisecond)
	for _, tt := range []struct {
		name  string
		first func(*codattest.Outcome)
		tries int
	}{
		{"an answer that is lost", func(o *codattest.Outcome) { o.HangUp = true }, 1},
		{"a 5xx of a push that was made", func(o *codattest.Outcome) { o.Refuse, o.Made = http.StatusBadGateway, true }, 1},
		{"a 5xx of a push that was not made", func(o *codattest.Outcome) { o.Refuse = http.StatusServiceUnavailable }, 2},
		{"a 429", func(o *codattest.Outcome) { o.Refuse, o.RetryAfter = http.StatusTooManyRequests, time.Second }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newPlanWorld(t, 1, 0, func(p codattest.Push) codattest.Outcome {
				o := soon
				if p.Number == 1 {
					tt.first(&o)
				}
				return o
			})
			defer w.stop()
			p := w.submitOne()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			r, err := plan.Await(ctx, w.srv.JS, source, p.ID)
			if err != nil {
				t.Fatal(err)
			}
			made := w.codat.Pushes()
			if r.Status != plan.StatusDone || len(made) != 1 || r.Steps[0].PushOperationKey != made[0].Key || r.Steps[0].Try != tt.tries {
				t.Errorf("the plan is %s with %d push operations: %+v; want it done with one, at try %d", r.Status, len(made), r.Steps, tt.tries)
			}
		})
	}
}

// While the quota is used up nothing is pushed, and the plan goes on soon after it is not, whenever it was to be renewed.
func TestPlans_WaitForTheQuota(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.Succeed(time.Millisecond) })
	defer w.stop()
	w.useUpQuota(time.Hour)
	p := w.submitOne()
	streamtest.Wait(t, func() bool {
		r, err := plan.Get(t.Context(), w.srv.JS, source, p.ID)
		return err == nil && r.Steps[0].State == plan.Waiting && r.Steps[0].Wait != ""
	}, "the step to wait for the quota")
	if made := w.codat.Pushes(); len(made) != 0 {
		t.Errorf("%d push operations although the quota is used up", len(made))
	}
	if err := w.store.setQuota(t.Context(), state.Quota{Received: time.Now()}); err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool {
		r, err := plan.Get(t.Context(), w.srv.JS, source, p.ID)
		return err == nil && r.Status == plan.StatusDone
	}, "the plan to go on")
}

// A step whose push operation Codat does not know any more is unknown, so that a person can let the plan go on.
func TestPlans_AStepIsUnknownWhenCodatForgetsItsPush(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
	defer w.stop()
	p := w.submitOne()
	streamtest.Wait(t, func() bool {
		forgot := false
		if err := workers.UpdateRecord(t.Context(), w.plans, p.ID, func(r plan.Record) plan.Record {
			forgot = r.Steps[0].State == plan.Pending
			if forgot {
				r = cloned(r)
				r.Steps[0].PushOperationKey = "forgotten"
			}
			return r
		}); err != nil {
			t.Fatal(err)
		}
		return forgot
	}, "the step to be pending")
	streamtest.Wait(t, func() bool {
		r, err := plan.Get(t.Context(), w.srv.JS, source, p.ID)
		return err == nil && r.Status == plan.StatusHeld && strings.Contains(r.Steps[0].Evidence, "does not know")
	}, "the step to be unknown")
}

// A plan that was cancelled after a process has read it stays cancelled, also when its next step could not be made.
func TestPlans_ACancelledStepDoesNotFail(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
	w.stop()
	w.quit = func() {}
	body := []byte(`{"of":"${steps.step-0.record.id}"}`)
	read, err := plan.NewRecord(plan.Plan{ID: "plan", Company: "company-0", Connection: "connection", Steps: []plan.Step{
		{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{}`)},
		{Name: "step-1", Kind: plan.Create, DataType: codat.DataCustomers, Body: body},
	}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	read.Steps[0].State = plan.Done // without a record
	stored := cloned(read)
	stored.Cancelled = true
	settle(&stored)
	if err := workers.UpdateRecord(t.Context(), w.plans, "plan", func(plan.Record) plan.Record { return stored }); err != nil {
		t.Fatal(err)
	}
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	if err := p.start(t.Context(), read, 1); err != nil {
		t.Fatal(err)
	}
	if r, err := plan.Get(t.Context(), w.srv.JS, source, "plan"); err != nil || r.Status != plan.StatusCancelled || r.Steps[1].State != plan.Cancelled {
		t.Errorf("the plan is %s: %+v, %v; want it cancelled", r.Status, r.Steps, err)
	}
}

// docs/operate.md deletes the lists of open plans after a backup was restored: then no plan goes on until it is submitted again.
func TestPlans_DoNotGoOnWithoutTheListOfOpenPlans(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
	w.stop()
	w.quit = func() {}
	process := func() *plans { return newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace) }
	p := plan.Plan{ID: "plan", Company: "company-0", Connection: "connection", Steps: []plan.Step{
		{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{}`)},
	}}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process().submit(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(shards) {
		if err := w.plans.Delete(t.Context(), openKey(i)); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := process().openPlans(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("the open plans are %q, %v; want that no plan goes on", ids, err)
	}
	if _, err := process().submit(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if ids, err := process().openPlans(t.Context()); err != nil || !slices.Equal(ids, []string{"plan"}) {
		t.Errorf("the open plans are %q, %v; want the plan that was submitted again", ids, err)
	}
}

// submitOne submits a plan of one step.
func (w *planWorld) submitOne() plan.Plan {
	p := plan.Plan{ID: "plan", Company: "company-0", Connection: "connection", Steps: []plan.Step{
		{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{"ref":"plan/step-0"}`)},
	}}
	w.mu.Lock()
	w.byID[p.ID] = p
	w.mu.Unlock()
	w.submit(p)
	return p
}

// Steps that can have made the same push operation, and that can only look in Codat's history, do not wait for each other: each
// is unknown, and a person decides.
func TestPromise9_StepsThatSearchDoNotWaitForEachOther(t *testing.T) {
	w := newPlanWorld(t, 1, 0, func(codattest.Push) codattest.Outcome { return codattest.StayPending() })
	w.stop()
	w.quit = func() {}
	w.mu.Lock()
	w.byID["made"] = plan.Plan{ID: "made", Steps: []plan.Step{{Name: "step-0"}}}
	w.mu.Unlock()
	to := api.Target{Company: "company-0", Connection: "connection", DataType: codat.DataCustomers}
	if _, err := w.calls.Create(t.Context(), to, idempotencyKey("made", "step-0", 1), []byte(`{"ref":"made/step-0"}`)); err != nil {
		t.Fatal(err)
	}
	p := newPlans(w.plans, w.store, w.calls, newStepEnds(), testPace)
	ids := []string{"one", "two"}
	for _, id := range ids {
		submitted := plan.Plan{ID: id, Company: "company-0", Connection: "connection", Steps: []plan.Step{{Name: "step-0", Kind: plan.Create, DataType: codat.DataCustomers, Body: []byte(`{}`)}}}
		r, err := plan.NewRecord(submitted, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		r.Steps[0].State, r.Steps[0].Push = plan.Pushing, &plan.Push{Began: now.Add(-time.Hour), Called: now, Calls: 1}
		if err := workers.UpdateRecord(t.Context(), w.plans, id, func(plan.Record) plan.Record { return r }); err != nil {
			t.Fatal(err)
		}
		if err := p.open(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		streamtest.Wait(t, func() bool {
			if _, err := p.advance(t.Context(), nil, id); err != nil {
				t.Fatal(err)
			}
			r, err := plan.Get(t.Context(), w.srv.JS, source, id)
			return err == nil && r.Steps[0].State == plan.Unknown && strings.Contains(r.Steps[0].Evidence, "other steps that can have made one of them: 1")
		}, id+" to be unknown")
	}
}

func (w *planWorld) bucket(name string) jetstream.KeyValue {
	kv, err := w.srv.JS.KeyValue(w.Context(), source.StateBucket(name))
	if err != nil {
		w.Fatal(err)
	}
	return kv
}

// receive stores the events that the stand-in delivers.
func (w *planWorld) receive(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var head codat.Head
	if err == nil {
		head, err = codat.Read(body)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	id := r.Header.Get("webhook-id")
	m, err := source.Message(stream.Stored{ID: id, MsgID: id, Head: head, Received: time.Now()}, body)
	if err == nil {
		_, err = w.srv.JS.PublishMsg(context.Background(), m)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		return
	}
	rw.WriteHeader(http.StatusNoContent)
}

// startWorker runs the worker that takes the events. It wakes the process that carries out plans.
func (w *planWorld) startWorker() {
	store := w.store
	store.wake = func(id string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.current != nil {
			w.current.wake(id)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := workers.Settings{NATS: stream.NATS{NATSURL: w.srv.URL}, Source: source, Grace: 20 * time.Second}
	go func() {
		ended <- workers.Run(ctx, s, process.New(Name, zap.NewNop()), Worker(store), func(context.Context, workers.Parts) (workers.Worker, error) { return Worker(store), nil })
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("Run = %v", err)
		}
	})
}

var testPace = pace{
	scan: 20 * time.Millisecond, lease: time.Second, memory: 6 * time.Second, settle: 300 * time.Millisecond, skew: 0,
	ask: 500 * time.Millisecond, minPause: 10 * time.Millisecond, maxPause: 500 * time.Millisecond,
}

// run starts processes that carry out plans, one after another: each is killed at a random write or call.
func (w *planWorld) run() {
	stopping := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for !closedChannel(stopping) {
			w.mu.Lock()
			l := newLife(1+w.random.IntN(60), w.random.IntN(2) == 0)
			if w.kills == w.maxKills {
				l.left = -1
			}
			p := newPlans(mortalBucket{w.plans, l}, w.store, mortalAPI{w.calls, l}, newStepEnds(), testPace)
			p.store.writes = mortalBucket{w.store.writes, l}
			pause := w.script == nil && w.random.IntN(4) == 0
			w.current = p
			w.mu.Unlock()
			if pause {
				w.useUpQuota(300 * time.Millisecond)
			}
			killed := make(chan struct{})
			go func() {
				select {
				case <-stopping:
				case <-l.ctx.Done():
				}
				close(killed)
			}()
			p.run(l.ctx, killed)
			if l.ctx.Err() != nil {
				w.kills++
			}
			l.end()
		}
	})
	w.quit = func() {
		close(stopping)
		running.Wait()
	}
}

func (w *planWorld) stop() { w.quit() }

// useUpQuota makes the quota used up for a while, as an event of Codat does.
func (w *planWorld) useUpQuota(d time.Duration) {
	now := time.Now()
	q := state.Quota{Exhausted: true, Renewal: now.Add(d), Received: now}
	if err := w.store.setQuota(context.Background(), q); err != nil {
		w.Errorf("quota: %v", err)
	}
}

// errKilled is the error of what a killed process does: it has no effect.
var errKilled = errors.New("killed")

// A life ends with the last of a number of writes and calls: before or after its effect.
type life struct {
	ctx   context.Context
	end   context.CancelFunc
	after bool
	mu    sync.Mutex
	left  int
}

func newLife(steps int, after bool) *life {
	ctx, end := context.WithCancel(context.Background())
	return &life{ctx: ctx, end: end, left: steps, after: after}
}

// step does f unless the process is killed before it, and hides what came of it when the process is killed after it.
func (l *life) step(f func() error) error {
	l.mu.Lock()
	l.left--
	last := l.left == 0
	l.mu.Unlock()
	if last && !l.after {
		l.end()
	}
	if l.ctx.Err() != nil {
		return errKilled
	}
	err := f()
	if last {
		l.end()
	}
	if l.ctx.Err() != nil {
		return errKilled
	}
	return err
}

type mortalBucket struct {
	jetstream.KeyValue
	life *life
}

func (b mortalBucket) Create(ctx context.Context, key string, value []byte, o ...jetstream.KVCreateOpt) (rev uint64, err error) {
	err = b.life.step(func() error { rev, err = b.KeyValue.Create(context.WithoutCancel(ctx), key, value, o...); return err })
	return rev, err
}

func (b mortalBucket) Update(ctx context.Context, key string, value []byte, last uint64) (rev uint64, err error) {
	err = b.life.step(func() error {
		rev, err = b.KeyValue.Update(context.WithoutCancel(ctx), key, value, last)
		return err
	})
	return rev, err
}

type mortalAPI struct {
	*api.Client
	life *life
}

func (a mortalAPI) Create(ctx context.Context, t api.Target, key string, body []byte) (op api.PushOperation, err error) {
	err = a.life.step(func() error { op, err = a.Client.Create(ctx, t, key, body); return err })
	return op, err
}

func (a mortalAPI) Update(ctx context.Context, t api.Target, id string, body []byte) (op api.PushOperation, err error) {
	err = a.life.step(func() error { op, err = a.Client.Update(ctx, t, id, body); return err })
	return op, err
}

func (a mortalAPI) Delete(ctx context.Context, t api.Target, id string) (op api.PushOperation, err error) {
	err = a.life.step(func() error { op, err = a.Client.Delete(ctx, t, id); return err })
	return op, err
}

func (a mortalAPI) Pushes(ctx context.Context, company string, p api.Page) (list api.List[api.PushOperation], err error) {
	err = a.life.step(func() error { list, err = a.Client.Pushes(ctx, company, p); return err })
	return list, err
}

// randomPlan makes a plan whose creates say in their bodies which step they are of, and what the steps before them made.
func (w *planWorld) randomPlan(n int) plan.Plan {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := plan.Plan{ID: fmt.Sprintf("plan-%d", n), Company: fmt.Sprintf("company-%d", n%10), Connection: "connection"}
	for i := range 1 + w.random.IntN(5) {
		s := plan.Step{Name: fmt.Sprintf("step-%d", i), Kind: plan.Create, DataType: codat.DataCustomers}
		body := map[string]any{"ref": p.ID + "/" + s.Name}
		refs := map[string]string{}
		for before := range i {
			switch w.random.IntN(4) {
			case 0:
				s.After = append(s.After, p.Steps[before].Name)
			case 1:
				refs[p.Steps[before].Name] = "${steps." + p.Steps[before].Name + ".record.id}"
			}
		}
		body["refs"] = refs
		if w.random.IntN(2) == 0 {
			s.DataType = codat.DataSuppliers
		}
		if i > 0 && w.random.IntN(5) == 0 {
			before := p.Steps[w.random.IntN(i)]
			s.Kind, s.DataType, s.Record = plan.Update, before.DataType, "${steps."+before.Name+".record.id}"
		}
		s.Body, _ = json.Marshal(body)
		p.Steps = append(p.Steps, s)
	}
	w.byID[p.ID] = p
	return p
}

func (w *planWorld) submit(p plan.Plan) {
	w.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		w.Fatal(err)
	}
	w.action(func(plans *plans) error {
		_, err := plans.submit(w.Context(), text)
		return err
	})
}

// action asks the process that lives until one has answered.
func (w *planWorld) action(f func(*plans) error) {
	w.Helper()
	streamtest.Wait(w, func() bool {
		w.mu.Lock()
		p := w.current
		w.mu.Unlock()
		if p == nil {
			return false
		}
		err := f(p)
		if errors.Is(err, errKilled) || errors.Is(err, api.ErrUnavailable) { // a pause after a 429 too
			return false
		}
		if err != nil && !errors.Is(err, plan.ErrRefused) {
			w.Errorf("action = %v", err)
		}
		return true
	}, "an action to be answered")
}

// ref is the step that a push is of.
type ref struct {
	Ref  string            `json:"ref"`
	Refs map[string]string `json:"refs"`
}

// outcome draws what becomes of a push, and checks that its turn has come.
func (w *planWorld) outcome(p codattest.Push) (codattest.Outcome, bool) {
	var said ref
	if err := json.Unmarshal(p.Body, &said); err != nil {
		w.fault("a body that is not JSON: %v", err)
	}
	id, name, _ := strings.Cut(said.Ref, "/")
	w.checkNotHeld(id, name)
	w.mu.Lock()
	defer w.mu.Unlock()
	parent := w.byID[id]
	i := slices.IndexFunc(parent.Steps, func(s plan.Step) bool { return s.Name == name })
	for _, before := range parent.Before(i) {
		other := parent.Steps[before].Name
		record, done := w.done[id+"/"+other]
		if by, is := w.skipped[id+"/"+other]; is {
			record, done = by, true
		}
		if !done {
			w.faults = append(w.faults, fmt.Sprintf("%s is pushed before %s has succeeded", said.Ref, other))
		}
		if given, refers := said.Refs[other]; refers && given != record {
			w.faults = append(w.faults, fmt.Sprintf("%s refers to record %q of %s; want %q", said.Ref, given, other, record))
		}
	}
	soon := time.Duration(w.random.IntN(30)) * time.Millisecond
	if w.script != nil {
		return w.script(p), true
	}
	switch w.random.IntN(40) {
	case 0:
		return codattest.Fail(soon, "refused"), true
	case 1:
		w.lost[p.Number] = true
		return codattest.TimeOut(soon), true
	case 2:
		return codattest.SucceedLate(soon, 2*soon+time.Millisecond), true
	case 3, 4:
		return codattest.Refuse(http.StatusInternalServerError, "internal error"), true
	case 5, 6:
		o := codattest.Succeed(soon)
		o.Refuse, o.Made = http.StatusBadGateway, true
		return o, true
	case 7:
		return codattest.Refuse(http.StatusBadRequest, "not valid"), true
	case 8, 9:
		o := codattest.Succeed(soon)
		o.HangUp = true
		return o, true
	case 10:
		o := codattest.Refuse(http.StatusTooManyRequests, "too many")
		o.RetryAfter = time.Second
		return o, w.random.IntN(3) == 0
	}
	return codattest.Succeed(soon), true
}

// checkNotHeld checks that no step of a plan had failed or become unknown before the intent to push another one.
func (w *planWorld) checkNotHeld(id, name string) {
	r, err := plan.Get(context.Background(), w.srv.JS, source, id)
	if err != nil {
		return // a push of the test's own
	}
	var began time.Time
	for _, s := range r.Steps {
		if s.Name == name && s.Push != nil {
			began = s.Push.Began
		}
	}
	for _, s := range r.Steps {
		if (s.State == plan.Failed || s.State == plan.Unknown) && s.Since.Before(began) {
			w.fault("%s/%s is pushed although %s is %s", id, name, s.Name, s.State)
		}
	}
}

func (w *planWorld) changed(p codattest.Push) {
	var said ref
	if json.Unmarshal(p.Body, &said) != nil || p.Status != codat.Success {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[said.Ref] = p.Record
}

func (w *planWorld) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// help does for a held plan what a person does who sees the platform.
func (w *planWorld) help(r plan.Record) {
	for _, s := range r.Steps {
		if s.State != plan.Failed && s.State != plan.Unknown {
			continue
		}
		made := slices.DeleteFunc(w.pushesOf(r.Plan.ID+"/"+s.Name), func(p codattest.Push) bool { return p.Status == codat.Failed })
		a := plan.Action{Plan: r.Plan.ID, Step: s.Name}
		kind := plan.Retry
		switch {
		case len(made) > 0 && w.isLost(made[len(made)-1]):
		case len(made) > 0 && made[len(made)-1].Status == codat.TimedOut:
			continue // it succeeds late
		case s.State == plan.Unknown && len(made) > 0:
			kind, a.Operation = plan.Resume, made[len(made)-1].Key
			if s.PushOperationKey != "" {
				a.Operation, a.Step = "", ""
			}
		}
		w.act(kind, a)
	}
}

func (w *planWorld) isLost(p codattest.Push) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[p.Number]
}

func (w *planWorld) act(kind plan.ActionKind, a plan.Action) {
	body, err := json.Marshal(a)
	if err != nil {
		w.Fatal(err)
	}
	w.action(func(p *plans) error {
		_, err := p.act(w.Context(), kind, body)
		return err
	})
}

// pushesOf returns the push operations of a step.
func (w *planWorld) pushesOf(step string) []codattest.Push {
	return slices.DeleteFunc(w.codat.Pushes(), func(p codattest.Push) bool {
		var said ref
		return json.Unmarshal(p.Body, &said) != nil || said.Ref != step
	})
}

// check looks at everything that the stand-in was asked for.
func (w *planWorld) check() {
	w.Helper()
	w.stop()
	w.quit = func() {}
	by := map[string][]codattest.Push{}
	for _, p := range w.codat.Pushes() {
		var said ref
		if err := json.Unmarshal(p.Body, &said); err != nil {
			w.Fatal(err)
		}
		if p.Type == codat.WriteCreate {
			by[said.Ref] = append(by[said.Ref], p)
		}
	}
	for step, pushes := range by {
		for i, p := range pushes[:len(pushes)-1] {
			if p.Status != codat.Failed && p.Status != codat.TimedOut {
				w.Errorf("create %s was made %d times: operation %d of them is %s", step, len(pushes), i+1, p.Status)
			}
		}
	}
	for _, fault := range w.faults {
		w.Error(fault)
	}
	w.Logf("%d push operations, %d kills", len(w.codat.Pushes()), w.kills)
}
