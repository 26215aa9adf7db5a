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

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// world is a clock, a store of claims and a broker, over which two processes run the real path of a delivery. Everything
// in it can go wrong at any step. The clock is the world's own, whatever it is over.
type world struct {
	rapid.TB
	modelParts
	clock time.Time
	queue []*message
	procs [2]*runner

	fault     string // what goes wrong next: a step after which the process dies, or "lost ack", "no claims", "zombie"
	hurt      string // what goes wrong next with what a handler writes: one of the store's Hurts
	change    change // of a leader
	dead      bool   // the process that works now
	excuse    map[Key]int
	ends      map[Key][]State // how often a claim became done or dead
	how       error           // what the handler says, and what it says in the other process meanwhile
	elsewhere error
}

// modelParts are what a world is over: claims and effects in memory, and a broker in memory, unless a test has others.
type modelParts struct {
	// Lease is that of the claims, on the world's clock. No real step may take a third of it: then it would be renewed.
	Lease  time.Duration
	Store  ModelStore
	broker modelBroker
	ids    string // what all webhook-ids begin with
}

// A ModelStore is where the processes of a model have their claims and their effects. It belongs to one check, and
// knows nothing of another's.
type ModelStore interface {
	// Claims are those of one process.
	Claims(process int, now func() time.Time) Claims
	// Effect is what a handler of a process writes, with the context of its attempt. hurt says what goes wrong with it.
	Effect(ctx context.Context, process int, k Key, hurt string)
	// Effects counts the effects that are there to stay.
	Effects(k Key) int
	// Exact says that there is one effect of what is done, and none of what is dead. Otherwise there may be one more for
	// each process that died, or lost its lease, between effect and mark.
	Exact() bool
	// Died is told that a process is no more.
	Died(process int)
	// Hurts are what can go wrong with an effect and its mark, in ways that only the store knows.
	Hurts() []string
	// Check looks at the end whether the store is as it should be.
	Check()
}

// modelBroker is what keeps a model's events, parked copies and dead letters.
type modelBroker interface {
	// post stores a message of the ingress or of an operator.
	post(k Key)
	publish(ctx context.Context, process int, m *nats.Msg) (stream.Receipt, error)
	// next waits for the next delivery of a message that is not acked. It is nil in memory.
	next(m *message) jetstream.Msg
	// quiet reports whether nothing comes any more; otherwise what has come is in the queue.
	quiet() bool
	// look is the state of a claim whose work has come to its end.
	look(c Claims, k Key) State
	// letters are the dead letters, by their message id.
	letters() map[string]int
	// leaders are those that can change, and elect changes one.
	leaders() []string
	elect(c change)
}

// change is that of a leader: before a step, or soon after that step has begun.
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

// newWorld is one in memory.
func newWorld(t rapid.TB) *world {
	return newWorldOver(t, func(*world) modelParts {
		return modelParts{Lease: modelLease, Store: &keptClaims{counted{}, map[Key]Claim{}}, broker: keptMessages{}}
	})
}

func newWorldOver(t rapid.TB, parts func(*world) modelParts) *world {
	w := &world{
		TB: t, clock: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
		excuse: map[Key]int{}, ends: map[Key][]State{},
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

func (w *world) now() time.Time { return w.clock }

// step does one thing of a process, unless it is dead, and lets it die afterwards if that is the fault.
func (w *world) step(name string, do func()) error {
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

func (w *world) handler(ctx context.Context, process int, e write) error {
	k := Key{e.WebhookID, e.Redrive}
	if most := w.procs[0].worker.Attempts; e.Attempt > most {
		w.Fatalf("%v is run in attempt %d of %d", k, e.Attempt, most)
	}
	err := w.how
	if err == nil || w.Store.Exact() { // which undoes that of an attempt that failed
		w.Store.Effect(ctx, process, k, w.hurt)
	}
	if w.step("effect", func() {}) != nil {
		w.excuse[k]++
		return err
	}
	switch w.fault {
	case "zombie": // it hangs until its lease is over, and the other process takes the claim
		w.excuse[k]++
		w.clock = w.clock.Add(w.Lease + Grace)
		w.meanwhile(k)
	case "redelivered": // the server gives it to the other process although it runs
		w.meanwhile(k)
	}
	return err
}

// meanwhile delivers an event to the other process while the handler of the one runs.
func (w *world) meanwhile(k Key) {
	how := w.how
	w.fault, w.hurt, w.how = "", "", w.elsewhere
	for _, m := range w.queue {
		if !m.acked && m.key() == k {
			w.procs[1].deliver(delivered{w, m, w.broker.next(m)}, m.parked)
			break
		}
	}
	w.how = how
}

// modelProcess is what one process has of the world.
type modelProcess struct {
	*world
	number int
	claims Claims
}

func (p modelProcess) Take(ctx context.Context, k Key, t Taking) (claim Claim, err error) {
	if p.fault == "no claims" {
		p.fault = ""
		return Claim{}, errors.New("no claims now")
	}
	if stepErr := p.step("claim", func() { claim, err = p.claims.Take(ctx, k, t) }); stepErr != nil {
		return Claim{}, stepErr
	}
	return claim, err
}

// Bind implements Binder, which means nothing to claims that do not.
func (p modelProcess) Bind(ctx context.Context, c Claim) context.Context {
	if b, ok := p.claims.(Binder); ok {
		return b.Bind(ctx, c)
	}
	return ctx
}

func (p modelProcess) Save(ctx context.Context, c Claim) (saved Claim, err error) {
	name := string(c.Record.State)
	if stepErr := p.step(name, func() {
		saved, err = p.claims.Save(ctx, c)
		for p.fault == name && err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, ErrUndone) && ctx.Err() == nil {
			saved, err = p.claims.Save(ctx, c) // it dies when it is known whether this was saved
		}
		if err != nil {
			return
		}
		if was := p.ends[c.Key]; len(was) > 0 {
			p.Fatalf("%v was %s and became %s", c.Key, was, c.Record.State)
		}
		if c.Record.State == Done || c.Record.State == Dead {
			p.ends[c.Key] = append(p.ends[c.Key], c.Record.State)
		}
	}); stepErr != nil {
		return c, ErrLost // a dead process learns nothing, and must not try for the whole lease
	}
	return saved, err
}

func (p modelProcess) Look(ctx context.Context, k Key) (Record, error) { return p.claims.Look(ctx, k) }

// Publish is the streams of parked copies and dead letters, which know a message id again.
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

// queued is a message in the queue; one that is stored again is the same.
func (w *world) queued(subject string, h nats.Header, parked bool) *message {
	m := &message{subject: subject, header: h, parked: parked, due: w.clock}
	for _, known := range w.queue {
		if known.parked == parked && known.key() == m.key() {
			return known
		}
	}
	w.queue = append(w.queue, m)
	return m
}

// keptClaims are claims in memory, and handlers whose effects are counted there.
type keptClaims struct {
	counted
	kept map[Key]Claim
}

// Claims implements ModelStore.
func (c *keptClaims) Claims(_ int, now func() time.Time) Claims { return claimsAt{c, now} }

// claimsAt are claims in memory at a time.
type claimsAt struct {
	*keptClaims
	now func() time.Time
}

func (c claimsAt) Take(_ context.Context, k Key, t Taking) (Claim, error) {
	claim, ok := c.kept[k]
	var err error
	if !ok {
		claim = Claim{Key: k, Record: t.Fresh(c.now())}
	} else if claim.Record, err = t.Over(claim.Record, c.now()); err != nil {
		return claim, err
	}
	claim.Revision++
	c.kept[k] = claim
	return claim, nil
}

func (c claimsAt) Save(_ context.Context, claim Claim) (Claim, error) {
	if c.kept[claim.Key].Revision != claim.Revision {
		return claim, ErrLost
	}
	claim.Revision++
	c.kept[claim.Key] = claim
	return claim, nil
}

func (c claimsAt) Look(_ context.Context, k Key) (Record, error) { return c.kept[k].Record, nil }

// counted are effects that nothing undoes.
type counted map[Key]int

func (c counted) Effect(_ context.Context, _ int, k Key, _ string) { c[k]++ }
func (c counted) Effects(k Key) int                                { return c[k] }
func (counted) Exact() bool                                        { return false }
func (counted) Died(int)                                           {}
func (counted) Hurts() []string                                    { return nil }
func (counted) Check()                                             {}

// keptMessages is a broker in memory: the queue is the world's, and dead letters are remembered by their message ids.
type keptMessages map[string]int

func (keptMessages) post(Key) {}

func (k keptMessages) publish(_ context.Context, _ int, m *nats.Msg) (stream.Receipt, error) {
	if strings.HasPrefix(m.Subject, "codat.dead.") {
		k[m.Header.Get(jetstream.MsgIDHeader)] = 1
	}
	return stream.Receipt{}, nil
}

func (keptMessages) look(c Claims, k Key) State {
	rec, _ := c.Look(context.Background(), k) // what cannot be read is no end
	return rec.State
}

func (keptMessages) next(*message) jetstream.Msg { return nil }
func (keptMessages) quiet() bool                 { return true }
func (k keptMessages) letters() map[string]int   { return k }
func (keptMessages) leaders() []string           { return nil }
func (keptMessages) elect(change)                {}

// delivered is a delivery of a message.
type delivered struct {
	*world
	*message
	real jetstream.Msg // nil in memory
}

func (m *message) key() Key {
	return Key{m.header.Get(stream.HeaderWebhookID), m.header.Get(stream.HeaderRedrive)}
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

func (w *world) post(k Key) {
	h := nats.Header{stream.HeaderWebhookID: {k.WebhookID}}
	subject := "codat.events.bills.write.successful"
	if k.Redrive != "" {
		h.Set(stream.HeaderRedrive, k.Redrive)
		subject = "codat.redrive.model.bills.write.successful"
	}
	w.broker.post(k)
	w.queued(subject, h, false)
}

// deliver gives one due message to a process. Until the process says what becomes of it, the message comes again
// after AckWait.
func (w *world) deliver(proc int) bool {
	for _, m := range w.queue {
		if m.acked || m.due.After(w.clock) {
			continue
		}
		real := w.broker.next(m)
		m.due = w.clock.Add(w.Lease)
		w.procs[proc].deliver(delivered{w, m, real}, m.parked)
		if w.dead {
			w.Store.Died(proc)
		}
		w.dead, w.fault, w.hurt, w.change = false, "", "", change{} // a dead process is started again
		return true
	}
	return false
}

// Whatever goes wrong and in whatever order, in the end every event and redrive has exactly one end, and its
// effect happened once more than that only for a process that died, or lost its lease, between effect and mark.
func TestModelEveryEventAndRedriveHasOneEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newWorld(t).run(t) })
}

// CheckModel runs the model of TestModelEveryEventAndRedriveHasOneEnd over other stores of claims, a new one for each
// check. lease is on the world's clock, which is far ahead of the real one.
func CheckModel(t *testing.T, lease time.Duration, store func(*rapid.T) ModelStore) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		newWorldOver(t, func(*world) modelParts {
			return modelParts{Lease: lease, Store: store(t), broker: keptMessages{}}
		}).run(t)
	})
}

// run lets things happen to the world, and then looks what became of them.
func (w *world) run(t *rapid.T) {
	faults := []string{
		"", "", "", "", "claim", "effect", "done", "ack", "waiting", "nak", "parked", "burying", "dead",
		"publish parked", "publish dead", "lost ack", "no claims", "full", "zombie", "redelivered",
	}
	results := []error{nil, nil, errBoom, Permanent(errBoom), RetryAfter(10*time.Minute, errBoom), RetryAfter(time.Second, errBoom), Unavailable(errBoom)}
	// In which step a leader changes. Most deliveries come by at the first ones.
	steps := []string{"", "claim", "claim", "effect", "done", "done", "ack", "ack", "waiting", "nak", "parked", "burying", "dead", "publish parked", "publish dead"}
	hurts, leaders := w.Store.Hurts(), w.broker.leaders()
	posted := []Key{}
	actions := map[string]func(*rapid.T){
		"post": func(*rapid.T) {
			k := Key{WebhookID: fmt.Sprintf("%smsg_%d", w.ids, len(posted))}
			posted = append(posted, k)
			w.post(k)
		},
		"redrive": func(t *rapid.T) {
			if len(posted) == 0 {
				t.Skip("nothing to give again")
			}
			k := Key{rapid.SampledFrom(posted).Draw(t, "of").WebhookID, fmt.Sprintf("r%d", len(posted))}
			posted = append(posted, k)
			w.post(k)
		},
		"deliver": func(t *rapid.T) {
			w.fault = rapid.SampledFrom(faults).Draw(t, "fault")
			w.how = rapid.SampledFrom(results).Draw(t, "result")
			w.elsewhere = rapid.SampledFrom(results).Draw(t, "result elsewhere")
			if len(hurts) > 0 {
				w.hurt = rapid.SampledFrom(hurts).Draw(t, "hurt")
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

	// Then all is well, and whatever is left comes to its end.
	w.fault, w.hurt, w.change, w.how = "", "", change{}, nil
	for rounds := 0; ; rounds++ {
		open := false
		for _, m := range w.queue {
			open = open || !m.acked
		}
		if !open && w.broker.quiet() {
			break
		}
		if rounds > 10_000 {
			t.Fatalf("it does not come to an end: %d messages", len(w.queue))
		}
		if !w.deliver(rounds % 2) {
			w.clock = w.clock.Add(w.Lease / 2)
		}
	}
	letters := w.broker.letters()
	for _, k := range posted {
		w.end(k, letters["model:"+k.WebhookID+":"+k.Redrive])
	}
	w.Store.Check()
}

// wait lets time pass until a message is due.
func (w *world) wait() {
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

// end looks how an event or redrive ended.
func (w *world) end(k Key, letters int) {
	state := w.broker.look(w.procs[0].claims, k)
	want := 0
	if state == Dead {
		want = 1
	}
	if ends := w.ends[k]; len(ends) != 1 || ends[0] != state || letters != want {
		w.Fatalf("%v is %s, ended as %s, with %d letters; want one end", k, state, ends, letters)
	}
	effects, excuse := w.Store.Effects(k), w.excuse[k]
	if w.Store.Exact() {
		if effects != 1-want {
			w.Fatalf("%v is %s and its effect happened %d times; want exactly %d", k, state, effects, 1-want)
		}
		return
	}
	if most := 1 - want + excuse; effects > most || state == Done && effects == 0 {
		w.Fatalf("%v is %s and its effect happened %d times; want %d at most, and once if it is done", k, state, effects, most)
	}
}
