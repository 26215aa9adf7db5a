package ingress

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/schema"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	driftPause   = 50 * time.Millisecond // between two bodies that are compared: 20 a second
	driftBodies  = 4                     // copies that wait
	maxDriftBody = 64 << 10              // bytes of a body that is compared
	maxDrift     = 200                   // names that are counted one by one
	driftOther   = "other"               // the label of those that are not
)

// A drift counts what Codat sends and the catalog does not know: event types, members and values of enumerations, by name
// and never by value. It compares some of the stored events, in a goroutine of its own, so that no request waits for it. All
// sources share it.
type drift struct {
	log    *zap.Logger
	fields *prometheus.CounterVec
	values *prometheus.CounterVec
	types  *prometheus.CounterVec

	shapes map[string]*schema.Shape // of the bodies of each type in the catalog

	idle chan []byte // memory for copies of bodies
	work chan driftSample

	mu    sync.Mutex
	known map[driftName]bool // what was counted
}

// A driftSample is a stored event that is compared. The body is a copy.
type driftSample struct {
	source stream.Source
	typ    string
	body   []byte
}

// A driftName is one series.
type driftName struct {
	counter     *prometheus.CounterVec
	source      stream.Source
	typ, member string
}

func newDrift(registerer prometheus.Registerer, log *zap.Logger) *drift {
	d := &drift{
		log:    log,
		fields: counters(registerer, "unknown_fields_total", "Members in bodies of stored events that the catalog does not know, by name. At most 20 bodies a second are compared.", "source", "type", "field"),
		values: counters(registerer, "unknown_values_total", "Values of enumerations in bodies of stored events that the catalog does not know, by member. At most 20 bodies a second are compared.", "source", "type", "field"),
		types:  counters(registerer, "unknown_types_total", "Events whose type is not in the catalog, by type. They are stored like all others.", "source", "type"),
		shapes: map[string]*schema.Shape{},
		idle:   make(chan []byte, driftBodies),
		work:   make(chan driftSample, driftBodies),
		known:  map[driftName]bool{},
	}
	for _, t := range codat.Catalog() {
		d.shapes[t.Name] = schema.OfEvent(t)
	}
	for range driftBodies {
		d.idle <- nil
	}
	return d
}

// offer copies the body of a stored event for run, unless it is large or run is busy. It does not wait.
func (d *drift) offer(source stream.Source, typ string, body []byte) {
	if len(body) > maxDriftBody {
		return
	}
	select {
	case memory := <-d.idle:
		d.work <- driftSample{source, typ, append(memory[:0], body...)} // it has a place for each memory
	default:
	}
}

// run compares the bodies that are offered until ctx ends.
func (d *drift) run(ctx context.Context) {
	pause := time.NewTicker(driftPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-d.work:
			d.compare(s)
			d.idle <- s.body
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// compare counts what the body has and the shape of its type does not know. A panic does not end the process, which can
// store events without it.
func (d *drift) compare(s driftSample) {
	defer func() {
		if v := recover(); v != nil {
			d.log.Error("comparing an event with the catalog failed", zap.String("type", s.typ), zap.ByteString("stack", debug.Stack()))
		}
	}()
	t, ok := codat.TypeOf(s.typ)
	if !ok {
		return
	}
	for _, f := range d.shapes[t.Name].Unknown(s.body) {
		if f.Value {
			d.count(driftName{d.values, s.source, t.Name, f.Field})
			continue
		}
		d.count(driftName{d.fields, s.source, t.Name, f.Field})
	}
}

// unknownType counts an event whose type is not in the catalog.
func (d *drift) unknownType(source stream.Source, typ string) {
	d.count(driftName{d.types, source, typ, ""})
}

// count counts a name. The first time it writes a log line. Names beyond maxDrift are counted together.
func (d *drift) count(n driftName) {
	d.mu.Lock()
	first := !d.known[n]
	over := first && len(d.known) >= maxDrift
	if first && !over {
		d.known[n] = true
	}
	d.mu.Unlock()
	switch {
	case over:
		n.typ, n.member = driftOther, driftOther
	case first:
		d.log.Info("not in the catalog", zap.String("source", string(n.source)), zap.String("kind", d.kind(n)),
			zap.String("type", n.typ), zap.String("field", n.member))
	}
	if n.counter == d.types {
		d.types.WithLabelValues(string(n.source), n.typ).Inc()
		return
	}
	n.counter.WithLabelValues(string(n.source), n.typ, n.member).Inc()
}

// kind is what a name is of.
func (d *drift) kind(n driftName) string {
	switch n.counter {
	case d.types:
		return "type"
	case d.values:
		return "value"
	}
	return "field"
}
