package console

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/inspect"
)

const (
	measureEvery = time.Second
	// surveyEvery is the time between two looks at what costs more: streams, servers, states, dead letters and metrics.
	surveyEvery  = 5 * time.Second
	quickSurveys = 20
	// history is how many measurements are kept for the trends.
	history = 60
	// staleAfter is the age from which values are shown as old.
	staleAfter = 4 * time.Second
	// measureTimeout bounds one measurement.
	measureTimeout = 3 * time.Second
)

// A measurement is what is counted each second.
type measurement struct {
	at     time.Time
	stored map[string]uint64 // events in the stream, by type
	last   uint64            // sequence of the newest message of the stream
	// consumers are those of the events, and parked those of the parked copies, by name.
	consumers, parked map[string]*jetstream.ConsumerInfo
}

// facts are everything that the hub knows at one time. They do not change once they are shown.
type facts struct {
	measurement
	// rates are the events stored in each of the last seconds, oldest first, and settled the deliveries of all workers.
	rates, settled []float64
	// typeRates are the events of each type stored in the last seconds, by type, a second's share.
	typeRates map[string]float64

	survey survey
	// seen is when the last measurement succeeded; zero before the first. err is why a later one has not.
	seen time.Time
	err  error
}

// age is how old the values are.
func (f facts) age(now time.Time) time.Duration { return max(0, now.Sub(f.seen)) }

// stale reports whether the values are too old to be taken for those of now.
func (f facts) stale(now time.Time) bool { return f.err != nil && f.age(now) > staleAfter }

// A hub measures for all viewers, and renders for them what is live. It is safe for concurrent use.
type hub struct {
	c     *Console
	first chan struct{} // closed after the first measurement and survey

	mu      sync.Mutex
	now     facts
	past    []measurement // oldest first
	viewers map[*viewer]bool
	parts   map[string]part
}

func newHub(c *Console) *hub {
	return &hub{c: c, first: make(chan struct{}), viewers: map[*viewer]bool{}, parts: map[string]part{}}
}

// run measures until ctx ends.
func (h *hub) run(ctx context.Context) {
	var surveying sync.WaitGroup
	defer surveying.Wait()
	surveyed := make(chan struct{})
	surveying.Go(func() { h.surveys(ctx, surveyed) })
	h.measure(ctx)
	select {
	case <-surveyed:
	case <-ctx.Done():
	}
	close(h.first)
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		h.show()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.measure(ctx)
	}
}

// facts returns what is known now. It waits a moment for the first measurement.
func (h *hub) facts(ctx context.Context) facts {
	wait, cancel := context.WithTimeout(ctx, measureEvery)
	defer cancel()
	select {
	case <-h.first:
	case <-wait.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// measure takes one measurement.
func (h *hub) measure(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	m, err := h.count(asking)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now.err = err; err != nil {
		return
	}
	h.past = append(h.past, m)
	h.past = h.past[max(0, len(h.past)-history-1):]
	h.now.measurement, h.now.seen = m, m.at
	h.now.rates, h.now.settled, h.now.typeRates = nil, nil, map[string]float64{}
	for i := 1; i < len(h.past); i++ {
		before, after := h.past[i-1], h.past[i]
		seconds := max(after.at.Sub(before.at).Seconds(), 0.001)
		h.now.rates = append(h.now.rates, float64(increase(before.stored, after.stored))/seconds)
		h.now.settled = append(h.now.settled, float64(delivered(before, after))/seconds)
	}
	if n := len(h.past); n > 1 {
		before := h.past[max(0, n-11)]
		seconds := max(m.at.Sub(before.at).Seconds(), 0.001)
		for typ, count := range m.stored {
			if count > before.stored[typ] {
				h.now.typeRates[typ] = float64(count-before.stored[typ]) / seconds
			}
		}
	}
}

// count asks for what a measurement holds.
func (h *hub) count(ctx context.Context) (measurement, error) {
	s, js := h.c.Source, h.c.JS
	if nc := js.Conn(); !nc.IsConnected() {
		return measurement{}, errors.New("not connected to NATS: " + nc.Status().String())
	}
	st, err := js.Stream(ctx, s.Stream())
	if err != nil {
		return measurement{}, err
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(s.EventFilter(">")))
	if err != nil {
		return measurement{}, err
	}
	m := measurement{at: h.c.Now(), stored: map[string]uint64{}, last: info.State.LastSeq}
	for subject, n := range info.State.Subjects {
		m.stored[s.TypeOf(subject)] += n
	}
	if m.consumers, err = consumersOf(ctx, js, st); err != nil {
		return measurement{}, err
	}
	parked, err := js.Stream(ctx, s.ParkedStream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return m, nil
	}
	if err != nil {
		return measurement{}, err
	}
	m.parked, err = consumersOf(ctx, js, parked)
	return m, err
}

// consumersOf returns the durable consumers of a stream by name.
func consumersOf(ctx context.Context, js jetstream.JetStream, st jetstream.Stream) (map[string]*jetstream.ConsumerInfo, error) {
	all := map[string]*jetstream.ConsumerInfo{}
	list := st.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Durable != "" && info.Config.AckPolicy != jetstream.AckNonePolicy {
			all[info.Name] = info
		}
	}
	return all, list.Err()
}

// increase is how many messages were added between two counts by type. Messages that expire make a count smaller.
func increase(before, after map[string]uint64) (n uint64) {
	for typ, count := range after {
		if count > before[typ] {
			n += count - before[typ]
		}
	}
	return n
}

// delivered is how many deliveries the workers had between two measurements, repeated ones included.
func delivered(before, after measurement) (n uint64) {
	for name, info := range after.consumers {
		if was := before.consumers[name]; was != nil && info.Delivered.Consumer > was.Delivered.Consumer {
			n += info.Delivered.Consumer - was.Delivered.Consumer
		}
	}
	return n
}

// surveys surveys until ctx ends, and closes first after the first time.
func (h *hub) surveys(ctx context.Context, first chan struct{}) {
	s := newSurveyor(h.c)
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	logged := ""
	var found survey
	// The first ones are close together: what has just been started changes.
	for n := 0; ; n++ {
		if n == quickSurveys {
			tick.Reset(surveyEvery)
		}
		found = s.look(ctx, found)
		if ctx.Err() != nil {
			return
		}
		if text := found.problem; text != logged {
			logged = text
			if text != "" {
				h.c.Log.Warn("console: some values are missing", zap.String("error", text))
			}
		}
		h.mu.Lock()
		h.now.survey = found
		h.mu.Unlock()
		if first != nil {
			close(first)
			first = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// A survey is what is counted every few seconds.
type survey struct {
	at       time.Time
	problem  string // what did not answer
	snapshot inspect.Snapshot
	states   states
	dead     deadLetters
	ingress  ingressCounts
	expected expectedCounts
}

// consumer returns what the last snapshot says of a consumer.
func (s survey) consumer(in, name string) inspect.Consumer {
	i := slices.IndexFunc(s.snapshot.Consumers, func(c inspect.Consumer) bool { return c.Stream == in && c.Name == name })
	if i < 0 {
		return inspect.Consumer{}
	}
	return s.snapshot.Consumers[i]
}

// stream returns what the last snapshot says of a stream.
func (s survey) stream(name string) inspect.Stream {
	i := slices.IndexFunc(s.snapshot.Streams, func(st inspect.Stream) bool { return st.Name == name })
	if i < 0 {
		return inspect.Stream{}
	}
	return s.snapshot.Streams[i]
}

// workerNames are the workers of a source by name: those with a consumer, and those that run.
func (f facts) workerNames() []string {
	names := map[string]bool{}
	for name := range f.consumers {
		names[name] = true
	}
	for _, w := range f.survey.snapshot.Workers {
		names[w.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
