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

// world is a broker, a claims store and a clock in memory, over which two processes run the real path of a
// delivery. Everything in it can go wrong at any step.
type world struct {
	rapid.TB
	clock   time.Time
	claims  map[Key]Claim
	queue   []*message
	letters map[string]int // by message id
	seen    map[string]bool
	procs   [2]*runner

	fault     string // what goes wrong next: a step after which the process dies, or "lost ack", "no claims", "zombie"
	dead      bool   // the process that works now
	excuse    map[Key]int
	effects   map[Key]int
	finished  map[Key]int // how often a claim became done or dead
	how       error       // what the handler says, and what it says in the other process meanwhile
	elsewhere error
}

// message is one message of either stream.
type message struct {
	subject string
	header  nats.Header
	parked  bool
	due     time.Time // when it is delivered next
	acked   bool
}

const modelLease = time.Minute

func newWorld(t rapid.TB) *world {
	w := &world{
		TB: t, clock: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), claims: map[Key]Claim{}, letters: map[string]int{},
		seen: map[string]bool{}, excuse: map[Key]int{}, effects: map[Key]int{}, finished: map[Key]int{},
	}
	for i := range w.procs {
		b := newBreaker(w.now)
		m, err := newMetrics(process.New("model", zap.NewNop()).Metrics, "model", b)
		if err != nil {
			t.Fatal(err)
		}
		worker := Worker{Name: "model", Attempts: 3, AckWait: modelLease, Handlers: []Handler{Handle(codat.BillsWriteSuccessful, w.handler)}}.withDefaults()
		w.procs[i] = &runner{
			worker: worker, source: source, claims: w, publish: w, log: zap.NewNop(), sampled: zap.NewNop(), metrics: m, breaker: b, tracer: noop.NewTracerProvider().Tracer(""),
			instance: fmt.Sprint("p", i), now: w.now, jitter: func() float64 { return 0.5 }, handlers: context.Background(),
		}
	}
	return w
}

func (w *world) now() time.Time { return w.clock }

// step does one thing of a process, unless it is dead, and lets it die afterwards if that is the fault.
func (w *world) step(name string, do func()) error {
	if w.dead {
		return errCrashed
	}
	do()
	if w.fault == name {
		w.dead = true
		return errCrashed
	}
	return nil
}

func (w *world) handler(_ context.Context, e write) error {
	k := Key{e.WebhookID, e.Redrive}
	if most := w.procs[0].worker.Attempts; e.Attempt > most {
		w.Fatalf("%v is run in attempt %d of %d", k, e.Attempt, most)
	}
	err := w.how
	if err == nil {
		w.effects[k]++
	}
	if w.step("effect", func() {}) != nil {
		w.excuse[k]++
		return err
	}
	switch w.fault {
	case "zombie": // it hangs until its lease is over, and the other process takes the claim
		w.excuse[k]++
		w.clock = w.clock.Add(modelLease + Grace)
		w.meanwhile(k)
	case "redelivered": // the server gives it to the other process although it runs
		w.meanwhile(k)
	}
	return err
}

// meanwhile delivers an event to the other process while the handler of the one runs.
func (w *world) meanwhile(k Key) {
	how := w.how
	w.fault, w.how = "", w.elsewhere
	for _, m := range w.queue {
		if !m.acked && m.key() == k {
			w.procs[1].deliver(delivered{w, m}, m.parked)
			break
		}
	}
	w.how = how
}

func (w *world) Take(_ context.Context, k Key, t Taking) (Claim, error) {
	if w.fault == "no claims" {
		w.fault = ""
		return Claim{}, errors.New("no claims now")
	}
	var err error
	claim, ok := w.claims[k]
	if stepErr := w.step("claim", func() {
		if !ok {
			claim = Claim{Key: k, Record: t.Fresh(w.clock)}
		} else {
			claim.Record, err = t.Over(claim.Record, w.clock)
		}
		if err == nil {
			claim.Revision++
			w.claims[k] = claim
		}
	}); stepErr != nil {
		return Claim{}, stepErr
	}
	return claim, err
}

func (w *world) Save(_ context.Context, c Claim) (Claim, error) {
	var err error
	if stepErr := w.step(string(c.Record.State), func() {
		if w.claims[c.Key].Revision != c.Revision {
			err = ErrLost
			return
		}
		if was := w.claims[c.Key].Record.State; was == Done || was == Dead {
			w.Fatalf("%v was %s and became %s", c.Key, was, c.Record.State)
		}
		if c.Record.State == Done || c.Record.State == Dead {
			w.finished[c.Key]++
		}
		c.Revision++
		w.claims[c.Key] = c
	}); stepErr != nil {
		return c, ErrLost // a dead process learns nothing, and must not try for the whole lease
	}
	return c, err
}

func (w *world) Look(_ context.Context, k Key) (Record, error) { return w.claims[k].Record, nil }

// Publish is the streams of parked copies and dead letters, which know a message id again.
func (w *world) Publish(_ context.Context, m *nats.Msg) (stream.Receipt, error) {
	id := m.Header.Get(jetstream.MsgIDHeader)
	bury := strings.HasPrefix(m.Subject, "codat.dead.")
	name := "publish parked"
	if bury {
		name = "publish dead"
	}
	if w.fault == "full" {
		w.fault = ""
		return stream.Receipt{}, stream.ErrFull
	}
	return stream.Receipt{}, w.step(name, func() {
		switch {
		case bury:
			w.letters[id] = 1
		case !w.seen[id]:
			w.seen[id] = true
			w.queue = append(w.queue, &message{subject: m.Subject, header: m.Header, parked: true, due: w.clock})
		}
	})
}

// delivered is a delivery of a message.
type delivered struct {
	*world
	*message
}

func (m *message) key() Key {
	return Key{m.header.Get(stream.HeaderWebhookID), m.header.Get(stream.HeaderRedrive)}
}

func (d delivered) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 7}}, nil
}
func (d delivered) Data() []byte         { return []byte(`{"payload":{}}`) }
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
	})
}
func (d delivered) Nak() error { return d.NakWithDelay(0) }
func (d delivered) NakWithDelay(wait time.Duration) error {
	return d.step("nak", func() { d.due = d.clock.Add(wait) })
}

func (d delivered) DoubleAck(context.Context) error { return errors.New("the runtime does not use it") }

func (d delivered) Term() error { return errors.New("the runtime does not use it") }

func (d delivered) TermWithReason(string) error { return errors.New("the runtime does not use it") }

func (w *world) post(id, redrive string) {
	h := nats.Header{stream.HeaderWebhookID: {id}}
	subject := "codat.events.bills.write.successful"
	if redrive != "" {
		h.Set(stream.HeaderRedrive, redrive)
		subject = "codat.redrive.model.bills.write.successful"
	}
	w.queue = append(w.queue, &message{subject: subject, header: h, due: w.clock})
}

// deliver gives one due message to a process. Until the process says what becomes of it, the message comes again
// after AckWait.
func (w *world) deliver(proc int) bool {
	for _, m := range w.queue {
		if m.acked || m.due.After(w.clock) {
			continue
		}
		m.due = w.clock.Add(modelLease)
		w.procs[proc].deliver(delivered{w, m}, m.parked)
		w.dead, w.fault = false, "" // a dead process is started again
		return true
	}
	return false
}

// Whatever goes wrong and in whatever order, in the end every event and redrive has exactly one end, and its
// effect happened once more than that only for a process that died, or lost its lease, between effect and mark.
func TestModelEveryEventAndRedriveHasOneEnd(t *testing.T) {
	faults := []string{
		"", "", "", "", "claim", "effect", "done", "ack", "waiting", "nak", "parked", "burying", "dead",
		"publish parked", "publish dead", "lost ack", "no claims", "full", "zombie", "redelivered",
	}
	results := []error{nil, nil, errBoom, Permanent(errBoom), RetryAfter(10*time.Minute, errBoom), RetryAfter(time.Second, errBoom), Unavailable(errBoom)}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		posted := []Key{}
		t.Repeat(map[string]func(*rapid.T){
			"post": func(*rapid.T) {
				k := Key{WebhookID: fmt.Sprintf("msg_%d", len(posted))}
				posted = append(posted, k)
				w.post(k.WebhookID, "")
			},
			"redrive": func(t *rapid.T) {
				if len(posted) == 0 {
					t.Skip("nothing to give again")
				}
				k := Key{rapid.SampledFrom(posted).Draw(t, "of").WebhookID, fmt.Sprintf("r%d", len(posted))}
				posted = append(posted, k)
				w.post(k.WebhookID, k.Redrive)
			},
			"deliver": func(t *rapid.T) {
				w.fault = rapid.SampledFrom(faults).Draw(t, "fault")
				w.how = rapid.SampledFrom(results).Draw(t, "result")
				w.elsewhere = rapid.SampledFrom(results).Draw(t, "result elsewhere")
				w.deliver(0)
			},
			"wait": func(t *rapid.T) {
				w.clock = w.clock.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * time.Second)
			},
		})

		// Then all is well, and whatever is left comes to its end.
		w.fault, w.how = "", nil
		for rounds := 0; ; rounds++ {
			open := false
			for _, m := range w.queue {
				open = open || !m.acked
			}
			if !open {
				break
			}
			if rounds > 10_000 {
				t.Fatalf("it does not come to an end: %d messages", len(w.queue))
			}
			if !w.deliver(rounds % 2) {
				w.clock = w.clock.Add(30 * time.Second)
			}
		}
		for _, k := range posted {
			state := w.claims[k].Record.State
			letters := w.letters["model:"+k.WebhookID+":"+k.Redrive]
			if w.finished[k] != 1 || (state == Done) == (letters == 1) || state != Done && state != Dead {
				t.Fatalf("%v is %s, finished %d times, with %d letters; want one end", k, state, w.finished[k], letters)
			}
			most := w.excuse[k]
			if state == Done {
				most++
			}
			if w.effects[k] > most {
				t.Fatalf("%v is %s and its effect happened %d times; want %d at most", k, state, w.effects[k], most)
			}
		}
	})
}
