package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// model is a clock, a store of claims and a broker, over which two processes run the real path of a delivery. Everything in
// it can fail at any step. The clock is the model's own.
type model struct {
	rapid.TB
	modelParts
	clock time.Time
	queue []*message
	procs [2]*runner

	fault           string // what goes wrong next: a step after which the process dies, or "lost ack", "no claims", "zombie"
	effectFault     string // what goes wrong next with what a handler writes: one of the store's Hurts
	change          change // of a leader
	dead            bool   // the process that works now
	allowedRepeats  map[claims.Key]int
	ends            map[claims.Key][]claims.State // result often a claim became done or dead
	result          error                         // what the handler says, and what it says in the other process meanwhile
	resultElsewhere error
}

// modelParts are the store and the broker of a model. Both are in memory unless a test replaces them.
type modelParts struct {
	// Lease is the lease of the claims on the model's clock. No real step may take a third of it, or it would be renewed.
	Lease  time.Duration
	Store  ModelStore
	broker modelBroker
	ids    string // what all webhook-ids begin with
}

// A ModelStore has the claims and the effects of a model's processes. It belongs to one check.
type ModelStore interface {
	// Claims returns the store of one process.
	Claims(process int, now func() time.Time) claims.Store
	// Effect writes the effect of a handler, with the context of its attempt. fault says how the write fails.
	Effect(ctx context.Context, process int, k claims.Key, fault string)
	// Effects returns the number of committed effects.
	Effects(k claims.Key) int
	// Exact reports whether an event that is done has exactly one effect and a dead one has none. Otherwise there may be one
	// more for each process that died or lost its lease between effect and done.
	Exact() bool
	// Died is called when a process has died.
	Died(process int)
	// EffectFaults are the faults of an effect and its commit that the store can cause.
	EffectFaults() []string
	// Check checks the store at the end.
	Check()
}

// modelBroker stores a model's events, parked copies and dead letters.
type modelBroker interface {
	// post stores a message of the ingress or of an operator.
	post(k claims.Key)
	publish(ctx context.Context, process int, m *nats.Msg) (stream.Receipt, error)
	// next waits for the next delivery of a message that is not acked. It is nil in memory.
	next(m *message) jetstream.Msg
	// quiet reports whether no message is left to deliver. Otherwise it has put new ones into the queue.
	quiet() bool
	// endState returns the state of the claim of a settled event.
	endState(c claims.Store, k claims.Key) claims.State
	// letters counts the dead letters by message id.
	letters() map[string]int
	// leaders are the leaders that elect can change.
	leaders() []string
	elect(c change)
}

// change is a change of a leader, before a step or soon after the step began.
type change struct {
	leader, step string
	after        time.Duration
}

// message is one message of either stream.
type message struct {
	subject string
	header  nats.Header
	parked  bool
	due     time.Time // when it is delivered next
	acked   bool
	came    jetstream.Msg // its newest delivery, when the broker is a real one
}

const modelLease = time.Minute

// newModel returns a model in memory.
func newModel(t rapid.TB) *model {
	return newModelOver(t, func(*model) modelParts {
		return modelParts{Lease: modelLease, Store: &memoryClaims{countedEffects{}, map[claims.Key]claims.Claim{}}, broker: memoryBroker{}}
	})
}

func newModelOver(t rapid.TB, parts func(*model) modelParts) *model {
	w := &model{
		TB: t, clock: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
		allowedRepeats: map[claims.Key]int{}, ends: map[claims.Key][]claims.State{},
	}
	w.modelParts = parts(w)
	for i := range w.procs {
		b := newBreaker(w.now)
		m, err := newMetrics(process.New("model", zap.NewNop()).Metrics, "model", b)
		if err != nil {
			t.Fatal(err)
		}
		worker := modelWorker(w.Lease, func(ctx context.Context, e write) error { return w.handler(ctx, i, e) })
		p := modelProcess{w, i, w.Store.Claims(i, w.now)}
		w.procs[i] = &runner{
			worker: worker, source: source, claims: p, publish: p, log: zap.NewNop(), sampled: zap.NewNop(), metrics: m, breaker: b, tracer: noop.NewTracerProvider().Tracer(""),
			instance: fmt.Sprint("p", i), now: w.now, jitter: func() float64 { return 0.5 }, handlers: context.Background(),
		}
	}
	return w
}

func modelWorker(lease time.Duration, act func(context.Context, write) error) Worker {
	return Worker{Name: "model", Attempts: 3, AckWait: lease, Handlers: []Handler{Handle(codat.BillsWriteSuccessful, act)}}.withDefaults()
}

func (w *model) now() time.Time { return w.clock }

// step runs one step of a process that is not dead. The process dies after it if that is the fault.
func (w *model) step(name string, do func()) error {
	if w.dead {
		return errCrashed
	}
	if w.change.step == name {
		w.broker.elect(w.change)
		w.change = change{}
	}
	do()
	if w.fault == name {
		w.dead = true
		return errCrashed
	}
	return nil
}

func (w *model) handler(ctx context.Context, process int, e write) error {
	k := claims.Key{WebhookID: e.WebhookID, Redrive: e.Redrive}
	if most := w.procs[0].worker.Attempts; e.Attempt > most {
		w.Fatalf("%v is run in attempt %d of %d", k, e.Attempt, most)
	}
	err := w.result
	if err == nil || w.Store.Exact() { // which undoes that of an attempt that failed
		w.Store.Effect(ctx, process, k, w.effectFault)
	}
	if w.step("effect", func() {}) != nil {
		w.allowedRepeats[k]++
		return err
	}
	switch w.fault {
	case "zombie": // it hangs until its lease is over, and the other process takes the claim
		w.allowedRepeats[k]++
		w.clock = w.clock.Add(w.Lease + claims.ClockSkew)
		w.deliverElsewhere(k)
	case "redelivered": // the server gives it to the other process although it runs
		w.deliverElsewhere(k)
	}
	return err
}

// deliverElsewhere delivers an event to the other process while a handler runs.
func (w *model) deliverElsewhere(k claims.Key) {
	how := w.result
	w.fault, w.effectFault, w.result = "", "", w.resultElsewhere
	for _, m := range w.queue {
		if !m.acked && m.key() == k {
			w.procs[1].deliver(delivered{w, m, w.broker.next(m)})
			break
		}
	}
	w.result = how
}

// modelProcess is one process of a model.
type modelProcess struct {
	*model
	number int
	claims claims.Store
}

func (p modelProcess) Take(ctx context.Context, k claims.Key, t claims.TakeRequest) (claim claims.Claim, err error) {
	if p.fault == "no claims" {
		p.fault = ""
		return claims.Claim{}, errors.New("no claims now")
	}
	if stepErr := p.step("claim", func() { claim, err = p.claims.Take(ctx, k, t) }); stepErr != nil {
		return claims.Claim{}, stepErr
	}
	return claim, err
}

// Bind implements claims.Binder for stores that do.
func (p modelProcess) Bind(ctx context.Context, c claims.Claim) context.Context {
	if b, ok := p.claims.(claims.Binder); ok {
		return b.Bind(ctx, c)
	}
	return ctx
}

func (p modelProcess) Save(ctx context.Context, c claims.Claim) (saved claims.Claim, err error) {
	name := string(c.Record.State)
	if stepErr := p.step(name, func() {
		saved, err = p.claims.Save(ctx, c)
		for p.fault == name && err != nil && !errors.Is(err, claims.ErrLost) && !errors.Is(err, claims.ErrNotCommitted) && ctx.Err() == nil {
			saved, err = p.claims.Save(ctx, c) // it dies when it is known whether this was saved
		}
		if err != nil {
			return
		}
		if was := p.ends[c.Key]; len(was) > 0 {
			p.Fatalf("%v was %s and became %s", c.Key, was, c.Record.State)
		}
		if c.Record.State == claims.Done || c.Record.State == claims.Dead {
			p.ends[c.Key] = append(p.ends[c.Key], c.Record.State)
		}
	}); stepErr != nil {
		return c, claims.ErrLost // a dead process learns nothing, and must not try for the whole lease
	}
	return saved, err
}

func (p modelProcess) Get(ctx context.Context, k claims.Key) (claims.Record, error) {
	return p.claims.Get(ctx, k)
}

// Publish stores parked copies and dead letters, each message id once.
func (p modelProcess) Publish(ctx context.Context, m *nats.Msg) (rec stream.Receipt, err error) {
	bury := strings.HasPrefix(m.Subject, "codat.dead.")
	name := "publish parked"
	if bury {
		name = "publish dead"
	}
	if p.fault == "full" {
		p.fault = ""
		return stream.Receipt{}, stream.ErrFull
	}
	stepErr := p.step(name, func() {
		if rec, err = p.broker.publish(ctx, p.number, m); err != nil || bury {
			return
		}
		p.queued(m.Subject, m.Header, true)
	})
	if stepErr != nil {
		return stream.Receipt{}, stepErr
	}
	return rec, err
}

// queued puts a message into the queue and returns it. A message that is stored again is the same one.
func (w *model) queued(subject string, h nats.Header, parked bool) *message {
	m := &message{subject: subject, header: h, parked: parked, due: w.clock}
	for _, known := range w.queue {
		if known.parked == parked && known.key() == m.key() {
			return known
		}
	}
	w.queue = append(w.queue, m)
	return m
}

// memoryClaims has claims in memory and counts effects.
type memoryClaims struct {
	countedEffects
	kept map[claims.Key]claims.Claim
}

// Claims implements ModelStore.
func (c *memoryClaims) Claims(_ int, now func() time.Time) claims.Store { return claimsAt{c, now} }

// claimsAt is a Store over memoryClaims with a clock.
type claimsAt struct {
	*memoryClaims
	now func() time.Time
}

func (c claimsAt) Take(_ context.Context, k claims.Key, t claims.TakeRequest) (claims.Claim, error) {
	claim, ok := c.kept[k]
	var err error
	if !ok {
		claim = claims.Claim{Key: k, Record: t.First(c.now())}
	} else if claim.Record, err = t.Next(claim.Record, c.now()); err != nil {
		return claim, err
	}
	claim.Revision++
	c.kept[k] = claim
	return claim, nil
}

func (c claimsAt) Save(_ context.Context, claim claims.Claim) (claims.Claim, error) {
	if c.kept[claim.Key].Revision != claim.Revision {
		return claim, claims.ErrLost
	}
	claim.Revision++
	c.kept[claim.Key] = claim
	return claim, nil
}

func (c claimsAt) Get(_ context.Context, k claims.Key) (claims.Record, error) {
	return c.kept[k].Record, nil
}

// countedEffects counts effects that are never rolled back.
type countedEffects map[claims.Key]int

func (c countedEffects) Effect(_ context.Context, _ int, k claims.Key, _ string) { c[k]++ }
func (c countedEffects) Effects(k claims.Key) int                                { return c[k] }
func (countedEffects) Exact() bool                                               { return false }
func (countedEffects) Died(int)                                                  {}
func (countedEffects) EffectFaults() []string                                    { return nil }
func (countedEffects) Check()                                                    {}

// memoryBroker is a broker in memory. The queue is the model's; the dead letters are counted by message id.
type memoryBroker map[string]int

func (memoryBroker) post(claims.Key) {}

func (k memoryBroker) publish(_ context.Context, _ int, m *nats.Msg) (stream.Receipt, error) {
	if strings.HasPrefix(m.Subject, "codat.dead.") {
		k[m.Header.Get(jetstream.MsgIDHeader)] = 1
	}
	return stream.Receipt{}, nil
}

func (memoryBroker) endState(c claims.Store, k claims.Key) claims.State {
	rec, _ := c.Get(context.Background(), k) // what cannot be read is no end
	return rec.State
}

func (memoryBroker) next(*message) jetstream.Msg { return nil }
func (memoryBroker) quiet() bool                 { return true }
func (k memoryBroker) letters() map[string]int   { return k }
func (memoryBroker) leaders() []string           { return nil }
func (memoryBroker) elect(change)                {}

// delivered is a delivery of a message.
type delivered struct {
	*model
	*message
	real jetstream.Msg // nil in memory
}

func (m *message) key() claims.Key {
	return claims.Key{WebhookID: m.header.Get(stream.HeaderWebhookID), Redrive: m.header.Get(stream.HeaderRedrive)}
}

func (d delivered) Metadata() (*jetstream.MsgMetadata, error) {
	if d.real != nil {
		return d.real.Metadata()
	}
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 7}}, nil
}

func (d delivered) Data() []byte {
	if d.real != nil {
		return d.real.Data()
	}
	return []byte(`{"payload":{}}`)
}
func (d delivered) Headers() nats.Header { return d.header }
func (d delivered) Subject() string      { return d.subject }
func (d delivered) Reply() string        { return "" }
func (d delivered) InProgress() error    { return nil }
func (d delivered) Ack() error {
	return d.step("ack", func() {
		if d.fault == "lost ack" {
			d.fault = ""
			return
		}
		d.acked = true
		if d.real != nil {
			_ = d.real.Ack() // when it does not arrive, the message comes again
		}
	})
}
func (d delivered) Nak() error { return d.NakWithDelay(0) }
func (d delivered) NakWithDelay(wait time.Duration) error {
	return d.step("nak", func() {
		d.due = d.clock.Add(wait)
		if d.real != nil {
			_ = d.real.NakWithDelay(min(wait, 10*time.Millisecond)) // the server's clock is not the world's
		}
	})
}

func (d delivered) DoubleAck(context.Context) error { return errors.New("the runtime does not use it") }

func (d delivered) Term() error { return errors.New("the runtime does not use it") }

func (d delivered) TermWithReason(string) error { return errors.New("the runtime does not use it") }

func (w *model) post(k claims.Key) {
	h := nats.Header{stream.HeaderWebhookID: {k.WebhookID}}
	subject := "codat.events.bills.write.successful"
	if k.Redrive != "" {
		h.Set(stream.HeaderRedrive, k.Redrive)
		subject = "codat.redrive.model.bills.write.successful"
	}
	w.broker.post(k)
	w.queued(subject, h, false)
}

// deliver delivers one due message to a process. Without an ack or a nak the message is due again after AckWait.
func (w *model) deliver(proc int) bool {
	for _, m := range w.queue {
		if m.acked || m.due.After(w.clock) {
			continue
		}
		real := w.broker.next(m)
		m.due = w.clock.Add(w.Lease)
		w.procs[proc].deliver(delivered{w, m, real})
		if w.dead {
			w.Store.Died(proc)
		}
		w.dead, w.fault, w.effectFault, w.change = false, "", "", change{} // a dead process is started again
		return true
	}
	return false
}

// Whatever fails and in any order, every event and redrive is settled once. Its effect happens once, and once more for each
// process that died or lost its lease between effect and done.
func TestModel_EveryEventAndRedriveIsSettledOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newModel(t).run(t) })
}

// oneOf runs check in one of n calls until it has failed once. After that it runs check in every call, because rapid needs
// them to find the shortest failure.
func oneOf(n int, check func(*rapid.T)) func(*rapid.T) {
	checks, failed := 0, false
	return func(t *rapid.T) {
		checks++
		if (checks-1)%n > 0 && !failed {
			return
		}
		defer func() { failed = failed || t.Failed() }()
		check(t)
	}
}

// CheckModel runs the model of TestModel_EveryEventAndRedriveIsSettledOnce over other stores of claims, a new one for each
// check, in one of n of rapid's checks. lease is on the model's clock, which is far ahead of the real one.
func CheckModel(t *testing.T, lease time.Duration, n int, store func(*rapid.T) ModelStore) {
	t.Helper()
	rapid.Check(t, oneOf(n, func(t *rapid.T) {
		newModelOver(t, func(*model) modelParts {
			return modelParts{Lease: lease, Store: store(t), broker: memoryBroker{}}
		}).run(t)
	}))
}

// run draws actions and faults, settles all events, and checks how each was settled.
func (w *model) run(t *rapid.T) {
	faults := []string{
		"", "", "", "", "claim", "effect", "done", "ack", "waiting", "nak", "parked", "burying", "dead",
		"publish parked", "publish dead", "lost ack", "no claims", "full", "zombie", "redelivered",
	}
	results := []error{nil, nil, errBoom, Permanent(errBoom), RetryAfter(10*time.Minute, errBoom), RetryAfter(time.Second, errBoom), Unavailable(errBoom)}
	// The steps in which a leader changes. Most deliveries reach the first ones.
	steps := []string{"", "claim", "claim", "effect", "done", "done", "ack", "ack", "waiting", "nak", "parked", "burying", "dead", "publish parked", "publish dead"}
	effectFaults, leaders := w.Store.EffectFaults(), w.broker.leaders()
	posted := []claims.Key{}
	actions := map[string]func(*rapid.T){
		"post": func(*rapid.T) {
			k := claims.Key{WebhookID: fmt.Sprintf("%smsg_%d", w.ids, len(posted))}
			posted = append(posted, k)
			w.post(k)
		},
		"redrive": func(t *rapid.T) {
			if len(posted) == 0 {
				t.Skip("nothing to give again")
			}
			k := claims.Key{WebhookID: rapid.SampledFrom(posted).Draw(t, "of").WebhookID, Redrive: fmt.Sprintf("r%d", len(posted))}
			posted = append(posted, k)
			w.post(k)
		},
		"deliver": func(t *rapid.T) {
			w.fault = rapid.SampledFrom(faults).Draw(t, "fault")
			w.result = rapid.SampledFrom(results).Draw(t, "result")
			w.resultElsewhere = rapid.SampledFrom(results).Draw(t, "result elsewhere")
			if len(effectFaults) > 0 {
				w.effectFault = rapid.SampledFrom(effectFaults).Draw(t, "effect fault")
			}
			if len(leaders) > 0 {
				w.change = change{
					rapid.SampledFrom(leaders).Draw(t, "leader"), rapid.SampledFrom(steps).Draw(t, "step"),
					time.Duration(rapid.IntRange(0, 5).Draw(t, "after ms")) * time.Millisecond,
				}
			}
			w.deliver(0)
		},
		"wait": func(t *rapid.T) {
			w.clock = w.clock.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * w.Lease / 60)
		},
	}
	if len(leaders) > 0 { // then a delivery takes its time: most actions are one, and few are left for the end
		for _, name := range []string{"wait and deliver", "wait and deliver once more", "wait and deliver again"} {
			actions[name] = func(t *rapid.T) {
				w.wait()
				actions["deliver"](t)
			}
		}
		actions["change a leader"] = func(t *rapid.T) { w.broker.elect(change{leader: rapid.SampledFrom(leaders).Draw(t, "leader")}) }
	}
	t.Repeat(actions)

	// Without further faults, every event that is left is settled.
	w.fault, w.effectFault, w.change, w.result = "", "", change{}, nil
	for rounds := 0; ; rounds++ {
		open := false
		for _, m := range w.queue {
			open = open || !m.acked
		}
		if !open && w.broker.quiet() {
			break
		}
		if rounds > 10_000 {
			t.Fatalf("%d messages are not settled after 10,000 rounds", len(w.queue))
		}
		if !w.deliver(rounds % 2) {
			w.clock = w.clock.Add(w.Lease / 2)
		}
	}
	letters := w.broker.letters()
	for _, k := range posted {
		of := 0
		for id, n := range letters {
			if strings.HasPrefix(id, "model:"+k.WebhookID+":"+k.Redrive+":") {
				of += n
			}
		}
		w.end(k, of)
	}
	w.Store.Check()
}

// wait moves the clock until a message is due.
func (w *model) wait() {
	var next time.Time
	for _, m := range w.queue {
		if !m.acked && (next.IsZero() || m.due.Before(next)) {
			next = m.due
		}
	}
	if next.After(w.clock) {
		w.clock = next
	}
}

// end checks how an event or redrive was settled.
func (w *model) end(k claims.Key, letters int) {
	state := w.broker.endState(w.procs[0].claims, k)
	want := 0
	if state == claims.Dead {
		want = 1
	}
	if ends := w.ends[k]; len(ends) != 1 || ends[0] != state || letters != want {
		w.Fatalf("%v is %s, ended as %s, with %d letters; want one end", k, state, ends, letters)
	}
	effects, excuse := w.Store.Effects(k), w.allowedRepeats[k]
	if w.Store.Exact() {
		if effects != 1-want {
			w.Fatalf("%v is %s and its effect happened %d times; want exactly %d", k, state, effects, 1-want)
		}
		return
	}
	if most := 1 - want + excuse; effects > most || state == claims.Done && effects == 0 {
		w.Fatalf("%v is %s and its effect happened %d times; want %d at most, and once if it is done", k, state, effects, most)
	}
}
