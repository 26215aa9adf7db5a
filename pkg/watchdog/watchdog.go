// Package watchdog finds what should have come from Codat and has not: endpoints that Codat has disabled, event types that no
// endpoint has, types that have become silent, writes without an outcome and reads that are stale. It reads no body and makes no
// consumer, and writes only the bucket CODAT_expected. headgate watch runs it.
package watchdog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// MaxRecords is how many records of each kind are written.
	MaxRecords = 1000
	// maxTypes is how many types are learned: those with the most events in the stream.
	maxTypes       = 1000
	requestTimeout = 5 * time.Second
	saveAfter      = time.Hour // after which what was learned is written again
)

// Options are the settings of a watchdog.
type Options struct {
	Source stream.Source
	// Endpoints returns the endpoints at Codat; nil without an API key.
	Endpoints func(context.Context) ([]api.Webhook, error)
	Ignore    []codat.Pattern // types that may be silent and that no endpoint needs to have
	// StaleReadsAfter is after how long without a successful read the data of a linked connection is stale; 0 is never.
	StaleReadsAfter time.Duration
}

// A Report is what a look has found.
type Report struct {
	// AsksCodat says that there is an API key. Endpoints is what Codat said last, nil before it has answered; EndpointsError is why
	// it has not answered now, and Unanswered for how long it has not.
	AsksCodat      bool
	Endpoints      []api.Webhook
	EndpointsError error
	Unanswered     time.Duration
	// NotSubscribed are the current types of the catalog that no endpoint has, and NeededNotSubscribed those of them that a consumer
	// of the source takes.
	NotSubscribed, NeededNotSubscribed []string

	Learned int      // types of which enough is known to notice their silence
	Silent  []string // types whose silence is raised
	// Missing is how many there are of each kind, those without a record included. A kind that could not be read is absent.
	Missing map[state.ExpectedKind]int
}

// A Watchdog looks again and again. Its methods must not be called concurrently.
type Watchdog struct {
	Options
	js          jetstream.JetStream
	began       time.Time // the first look
	answered    time.Time // by Codat
	endpoints   []api.Webhook
	types       map[string]*learned
	saved       map[string]saved  // what was written last of each type
	stored      *follower[record] // CODAT_expected
	overdue     *follower[state.Expected]
	reads       *follower[state.Expected]
	connections *follower[struct{}] // the linked ones
}

// A record is a value in CODAT_expected, or the mark that it was deleted.
type record struct {
	sequence uint64
	at       time.Time
	value    []byte // nil when it was deleted
}

// saved says which look was written last of a type, and the silence in it.
type saved struct{ looked, silent time.Time }

// New returns a watchdog that has looked at nothing.
func New(js jetstream.JetStream, o Options) *Watchdog {
	w := &Watchdog{Options: o, js: js, types: map[string]*learned{}, saved: map[string]saved{}}
	w.stored = newFollower(o.Source.StateBucket(stream.ExpectedState), w.load)
	w.overdue = newFollower(o.Source.StateBucket(state.WritesName), ofRecord(overdueWrite))
	w.reads = newFollower(o.Source.StateBucket(state.ReadsName), ofRecord(lastRead))
	w.connections = newFollower(o.Source.StateBucket(state.ConnectionsName), ofRecord(func(c state.Connection) (struct{}, bool) {
		return struct{}{}, c.Status == codat.Linked && !c.Deleted
	}))
	return w
}

// Look looks at everything at now, and writes what is missing. The error says what could not be read or written; the report has
// the rest. What Codat does not answer is in the report only.
func (w *Watchdog) Look(ctx context.Context, now time.Time) (Report, error) {
	if w.began.IsZero() {
		w.began, w.answered = now, now
	}
	r := Report{Missing: map[state.ExpectedKind]int{}}
	errs := []error{w.askCodat(ctx, now, &r)}
	missing := map[state.ExpectedKind][]state.Expected{}
	loaded := w.stored.read(ctx, w.js)
	errs = append(errs, loaded)
	for kind, find := range map[state.ExpectedKind]func(context.Context, time.Time, *Report) ([]state.Expected, error){
		state.SilentType: w.silentTypes, state.OverdueWrite: w.overdueWrites, state.StaleRead: w.staleReads,
	} {
		found, err := find(ctx, now, &r)
		if err == nil {
			found, err = w.withoutErased(ctx, kind, found)
		}
		errs = append(errs, err)
		if err == nil {
			state.SortExpected(found)
			missing[kind], r.Missing[kind] = found, len(found)
		}
	}
	if loaded == nil {
		errs = append(errs, w.write(ctx, now, missing))
	}
	return r, errors.Join(errs...)
}

// askCodat asks for the endpoints, and compares their types with what the source's consumers take.
func (w *Watchdog) askCodat(ctx context.Context, now time.Time, r *Report) error {
	if w.Endpoints == nil {
		return nil
	}
	all, err := w.Endpoints(ctx)
	if r.AsksCodat, r.EndpointsError = true, err; err == nil {
		w.endpoints, w.answered = append([]api.Webhook{}, all...), now
	}
	r.Endpoints, r.Unanswered = w.endpoints, now.Sub(w.answered)
	if w.endpoints == nil {
		return nil
	}
	r.NotSubscribed = slices.DeleteFunc(api.Unsubscribed(w.endpoints), w.ignores)
	needed, err := inspect.ConsumedTypes(ctx, w.js, w.Source)
	for _, typ := range r.NotSubscribed {
		if slices.ContainsFunc(needed, func(p codat.Pattern) bool { return p.Match(typ) }) {
			r.NeededNotSubscribed = append(r.NeededNotSubscribed, typ)
		}
	}
	return err
}

func (w *Watchdog) ignores(typ string) bool {
	return slices.ContainsFunc(w.Ignore, func(p codat.Pattern) bool { return p.Match(typ) })
}

// silentTypes learns from the newest event of each type, and returns the types whose silence is raised.
func (w *Watchdog) silentTypes(ctx context.Context, now time.Time, r *Report) ([]state.Expected, error) {
	newest, err := w.newest(ctx)
	if err != nil {
		return nil, err
	}
	for typ := range newest {
		if w.types[typ] == nil && len(w.types) < maxTypes {
			w.types[typ] = new(learned)
		}
	}
	var silent []state.Expected
	for typ, l := range w.types {
		last := newest[typ] // the zero time when the stream has no event any more
		if w.ignores(typ) || !l.look(now, last) {
			delete(w.types, typ)
			continue
		}
		if l.raises() {
			r.Learned++
		}
		if !l.Silent.IsZero() {
			silent = append(silent, state.Expected{Kind: state.SilentType, Type: typ, Due: l.Silent, Last: l.Last})
			r.Silent = append(r.Silent, typ)
		}
	}
	slices.Sort(r.Silent)
	return silent, nil
}

// newest returns when the newest event of each type was stored, of the types with the most events.
func (w *Watchdog) newest(ctx context.Context) (map[string]time.Time, error) {
	name := w.Source.Stream()
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := w.js.Stream(asking, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	info, err := st.Info(asking, jetstream.WithSubjectFilter(w.Source.EventFilter(">")))
	if err != nil {
		return nil, fmt.Errorf("subjects of stream %s: %w", name, err)
	}
	counts := info.State.Subjects
	subjects := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	all := map[string]time.Time{}
	err = stream.Last(ctx, w.js, name, subjects[:min(len(subjects), maxTypes)], func(m *jetstream.RawStreamMsg) error {
		all[strings.TrimPrefix(m.Subject, w.Source.EventFilter(""))] = m.Time
		return nil
	})
	return all, err
}

// overdueWrites returns the writes whose outcome is overdue.
func (w *Watchdog) overdueWrites(ctx context.Context, _ time.Time, _ *Report) ([]state.Expected, error) {
	err := w.overdue.read(ctx, w.js)
	return slices.Collect(maps.Values(w.overdue.all)), err
}

func overdueWrite(r state.Write) (state.Expected, bool) {
	e := state.Expected{
		Kind: state.OverdueWrite, Due: r.Overdue, Last: r.Requested,
		PushOperationKey: r.PushOperationKey, Company: r.Company, Connection: r.Connection, DataType: r.DataType,
	}
	return e, !r.Overdue.IsZero()
}

// staleReads returns the data types of linked connections that were not read with success for too long.
func (w *Watchdog) staleReads(ctx context.Context, now time.Time, _ *Report) ([]state.Expected, error) {
	if w.StaleReadsAfter == 0 {
		return nil, nil
	}
	if err := errors.Join(w.reads.read(ctx, w.js), w.connections.read(ctx, w.js)); err != nil {
		return nil, err
	}
	var stale []state.Expected
	for _, e := range w.reads.all {
		key, err := state.ConnectionKey(e.Company, e.Connection)
		if _, linked := w.connections.all[key]; err != nil || !linked {
			continue
		}
		e.Due = e.Due.Add(w.StaleReadsAfter)
		if e.Due.Before(now) {
			stale = append(stale, e)
		}
	}
	return stale, nil
}

// lastRead keeps of the record of a data type's reads when the last success was, or, before the first one, the first event that is
// known.
func lastRead(r state.Read) (state.Expected, bool) {
	from := r.LastSuccess
	if from.IsZero() {
		for _, f := range r.Facts {
			if at := cmp.Or(f.Generated, f.Received); from.IsZero() || at.Before(from) {
				from = at
			}
		}
	}
	e := state.Expected{Kind: state.StaleRead, Due: from, Last: r.LastSuccess, Company: r.Company, Connection: r.Connection, DataType: r.DataType}
	return e, !from.IsZero()
}
