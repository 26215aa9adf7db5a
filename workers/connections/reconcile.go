package connections

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// connectionsAPI is the part of Codat's API that reconciliation calls. It is an *api.Client.
type connectionsAPI interface {
	Connections(ctx context.Context, company string, p api.Page) (api.List[codat.Connection], error)
	PausedUntil(company string) time.Time
}

const (
	// pageSize and maxPages bound the calls for one company. Most have fewer than ten connections.
	pageSize, maxPages = 1000, 10
	// maxFailures is how many companies in a row may fail before a pass ends, because all others would fail too.
	maxFailures = 3
)

// A pace has the pauses of reconciliation.
type pace struct {
	// period is the time from the begin of a round to that of the next.
	period time.Duration
	// look is the time between two looks at whether a round is due or is left by another process.
	look time.Duration
	// lease is for how long a process alone asks. It is longer than the calls for a company take.
	lease time.Duration
	// call is the longest pause between two companies: it is shorter when they would not all fit into half of a period.
	call time.Duration
	// minPause and maxPause bound the pause before companies that failed are asked again.
	minPause, maxPause time.Duration
}

func defaultPace(period, callTimeout time.Duration) pace {
	return pace{
		period: period, look: min(period/240, 30*time.Second), lease: 2*callTimeout + time.Minute, call: time.Second,
		minPause: time.Minute, maxPause: 15 * time.Minute,
	}
}

// roundKey is the key of the round. A connection's key has two parts.
const roundKey = "reconciliation"

// A round is the record of the reconciliation of all companies: one process does it at a time, and another goes on with it
// after the lease. Which companies are left follows from their records.
type round struct {
	Began     time.Time `json:"began,omitzero"`     // the round that is done, or the last one
	Completed time.Time `json:"completed,omitzero"` // the end of the last round in which every company was asked
	Holder    string    `json:"holder,omitempty"`
	Lease     time.Time `json:"lease,omitzero"`
}

// running reports whether the round is not complete.
func (r round) running() bool { return r.Began.After(r.Completed) }

// A reconciler asks Codat in each period for the connections of every company that has a record, and adds the answers to
// the records as facts. Any number of processes may run one.
type reconciler struct {
	store   Store
	js      jetstream.JetStream
	source  stream.Source
	api     connectionsAPI
	log     *zap.Logger
	pace    pace
	metrics *metrics

	holder   string // names this process
	failing  bool   // an error was logged since a round was complete
	failures int    // passes in a row that left companies
}

func newReconciler(s Store, parts workers.Parts, calls connectionsAPI, m *metrics, p pace) *reconciler {
	return &reconciler{store: s, js: parts.JS, source: parts.Source, api: calls, log: parts.Log, pace: p, metrics: m, holder: nuid.Next()}
}

// run reconciles until stopping is closed, which ends its calls: they change nothing at Codat.
func (r *reconciler) run(ctx context.Context, stopping <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		pause, err := r.step(ctx)
		if err != nil && ctx.Err() == nil {
			r.complain(err)
		}
		sleep(ctx, pause)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// complain logs the first error since a round was complete.
func (r *reconciler) complain(err error) {
	if !r.failing {
		r.failing = true
		r.log.Warn("connections are not reconciled with Codat; the worker tries again", zap.Error(err))
	}
}

// step does a pass of the round that is due, when no other process does. It returns the pause before the next step.
func (r *reconciler) step(ctx context.Context) (time.Duration, error) {
	now, _, err := workers.ReadRecord[round](ctx, r.store.bucket, roundKey)
	if err != nil {
		return r.pace.look, err
	}
	r.metrics.show(now)
	if !r.mayTake(now, time.Now()) {
		return r.pace.look, nil
	}
	companies, err := r.companies(ctx)
	if err != nil || len(companies) == 0 { // the first round waits for the first record
		return r.pace.look, err
	}
	now, held, err := r.take(ctx)
	if err != nil || !held {
		return r.pace.look, err
	}
	left, err := r.pass(ctx, now, companies)
	if err == nil && left == 0 {
		r.failures, r.failing = 0, false
		return r.pace.look, r.complete(ctx)
	}
	r.failures++
	return min(r.pace.minPause<<min(r.failures-1, 10), r.pace.maxPause), err
}

// mayTake reports whether a round is due or not complete, and no other process does it.
func (r *reconciler) mayTake(now round, at time.Time) bool {
	free := now.Holder == r.holder || !at.Before(now.Lease)
	return free && (now.running() || at.Sub(now.Began) >= r.pace.period)
}

// take begins the round that is due, or goes on with one, and reports whether this process holds it.
func (r *reconciler) take(ctx context.Context) (taken round, held bool, err error) {
	err = workers.UpdateRecord(ctx, r.store.bucket, roundKey, func(now round) round {
		at := time.Now().UTC()
		if held = r.mayTake(now, at); held {
			if at.Sub(now.Began) >= r.pace.period { // also when companies were left
				now.Began = at
			}
			now.Holder, now.Lease = r.holder, at.Add(r.pace.lease)
		}
		taken = now
		return now
	})
	r.metrics.show(taken)
	return taken, held, err
}

// complete ends the round.
func (r *reconciler) complete(ctx context.Context) error {
	var ended round
	err := workers.UpdateRecord(ctx, r.store.bucket, roundKey, func(now round) round {
		if now.Holder == r.holder && now.running() {
			now.Completed, now.Holder, now.Lease = time.Now().UTC(), "", time.Time{}
		}
		ended = now
		return now
	})
	r.metrics.show(ended)
	return err
}

// companies returns the ids of the connections that have a record, by the id of the company. The leader of the bucket tells
// their keys: a worker has no permission for a consumer, which a watch needs.
func (r *reconciler) companies(ctx context.Context) (map[string][]string, error) {
	bucket := r.store.bucket.Bucket()
	st, err := r.js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return nil, fmt.Errorf("keys of bucket %s: %w", bucket, err)
	}
	prefix := "$KV." + bucket + "."
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(prefix+"*.*"))
	if err != nil {
		return nil, fmt.Errorf("keys of bucket %s: %w", bucket, err)
	}
	all := map[string][]string{}
	for subject := range info.State.Subjects {
		company, connection, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
		all[company] = append(all[company], connection)
	}
	return all, nil
}

// A pass asks for the companies that the round has left.
type pass struct {
	*reconciler
	began    time.Time           // of the round
	known    map[string][]string // the connections that have a record, by company
	quota    jetstream.KeyValue  // nil when no worker writes it
	answered string              // a company that Codat knows
	gone     []string            // companies that it does not know
}

// pass does one pass, in another order each time so that a company whose calls fail keeps out no other. It returns how many
// companies are left, and the error of the last of them.
func (r *reconciler) pass(ctx context.Context, now round, known map[string][]string) (left int, err error) {
	p := &pass{reconciler: r, began: now.Began, known: known}
	if p.quota, err = stream.Bucket(ctx, r.js, r.source.StateBucket(state.QuotaName)); err != nil && !errors.Is(err, stream.ErrNotProvisioned) {
		return len(known), err
	}
	ids := slices.Collect(maps.Keys(known))
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	pause := min(r.pace.call, r.pace.period/time.Duration(2*len(ids)))
	lease, inRow := now.Lease, 0
	err = nil
	for _, id := range ids {
		if time.Until(lease) < r.pace.lease/2 {
			again, held, err := r.take(ctx)
			if err != nil || !held || !again.Began.Equal(now.Began) {
				return len(ids), err
			}
			lease = again.Lease
		}
		called, failed := p.company(ctx, id)
		switch {
		case failed != nil:
			left, err = left+1, failed
			inRow++
		case called:
			inRow = 0
		}
		if inRow >= maxFailures || errors.Is(failed, errNoCalls) || ctx.Err() != nil {
			return len(ids), err
		}
		if called {
			sleep(ctx, pause)
		}
	}
	if failed := p.deleteGone(ctx); failed != nil {
		return left + 1, failed
	}
	return left, err
}

var (
	// errPaused marks that Codat wants no calls for a company now, and errNoCalls that it wants none at all.
	errPaused  = errors.New("codat wants no calls")
	errNoCalls = fmt.Errorf("%w for any company", errPaused)
)

// company asks for the connections of a company, unless this round has, and adds the answer to the records. It reports whether
// Codat was called.
func (p *pass) company(ctx context.Context, company string) (called bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.pace.lease/2)
	defer cancel()
	records, due, err := p.records(ctx, company)
	if err != nil || !due {
		return false, err
	}
	if err := p.mayCall(ctx, company); err != nil {
		p.metrics.reconciled(map[bool]string{true: resultPaused, false: resultFailed}[errors.Is(err, errPaused)])
		return false, err
	}
	a, err := p.ask(ctx, company)
	switch {
	case errors.Is(err, api.ErrNotFound):
		p.gone = append(p.gone, company)
		return true, nil
	case err == nil:
		p.answered = company
		err = p.add(ctx, a, records)
	}
	if err != nil {
		p.metrics.reconciled(resultFailed)
		return true, err
	}
	p.metrics.reconciled(resultOK)
	return true, nil
}

// records reads the records of a company, and reports whether one of a connection that is not deleted was not reconciled in
// this round. A company whose records were removed was erased: it is not due.
func (p *pass) records(ctx context.Context, company string) (records map[string]state.Connection, due bool, err error) {
	records = map[string]state.Connection{}
	for _, connection := range p.known[company] {
		r, revision, err := workers.ReadRecord[state.Connection](ctx, p.store.bucket, company+"."+connection)
		if err != nil {
			return nil, false, err
		}
		if revision > 0 {
			records[connection] = r
			due = due || !r.Deleted && r.Reconciled.Before(p.began)
		}
	}
	return records, due, nil
}

// mayCall returns errPaused while Codat wants no calls for a company, and errNoCalls while it wants none at all.
func (p *pass) mayCall(ctx context.Context, company string) error {
	now, until := time.Now(), p.api.PausedUntil("")
	if p.quota != nil {
		quota, _, err := workers.ReadRecord[state.Quota](ctx, p.quota, state.QuotaKey)
		if err != nil {
			return err
		}
		if paused := quota.PausedUntil(now); paused.After(until) {
			until = paused
		}
	}
	if now.Before(until) {
		return fmt.Errorf("%w until %s", errNoCalls, until.UTC().Format(time.RFC3339))
	}
	if until := p.api.PausedUntil(company); now.Before(until) {
		return fmt.Errorf("%w for a company until %s", errPaused, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// An answers is what Codat has said of the connections of a company.
type answers struct {
	company     string
	asked       time.Time
	connections map[string]codat.Connection
	complete    bool // there are no others
}

// ask asks for the connections of a company. The answer is not complete when there are more than the pages that are read, or when
// they changed between two pages.
func (p *pass) ask(ctx context.Context, company string) (answers, error) {
	a := answers{company: company, asked: time.Now().UTC(), connections: map[string]codat.Connection{}}
	for number := 1; number <= maxPages; number++ {
		list, err := p.api.Connections(ctx, company, api.Page{Number: number, Size: pageSize})
		if err != nil {
			return a, err
		}
		for _, c := range list.Results {
			a.connections[c.ID] = c
		}
		if number*pageSize >= list.Total || len(list.Results) == 0 {
			a.complete = len(a.connections) == list.Total
			break
		}
	}
	return a, nil
}

// deleteGone adds to the records of the companies that Codat does not know that their connections are deleted. An API key of
// another client knows no company, and a key can change twice in a pass: so each is asked for again, and one that this pass
// knows must be known after that.
func (p *pass) deleteGone(ctx context.Context) error {
	if len(p.gone) == 0 {
		return nil
	}
	gone, err := p.stillGone(ctx)
	for _, a := range gone {
		records, _, failed := p.records(ctx, a.company)
		if err = errors.Join(err, failed); err == nil {
			err = p.add(ctx, a, records)
		}
		if err != nil {
			break
		}
		p.metrics.reconciled(resultNotFound)
	}
	if err != nil {
		p.metrics.reconciled(resultFailed)
	}
	return err
}

// stillGone asks again for the companies that Codat does not know. It returns no answers with an error.
func (p *pass) stillGone(ctx context.Context) (gone []answers, err error) {
	if p.answered == "" {
		return nil, fmt.Errorf("codat knows none of the %d companies that it was asked for: is the API key of another client?", len(p.gone))
	}
	for _, company := range p.gone {
		a, err := p.ask(ctx, company)
		if err == nil {
			return nil, errors.New("codat knows a company that it did not know before: has the API key changed?")
		}
		if !errors.Is(err, api.ErrNotFound) {
			return nil, err
		}
		gone = append(gone, answers{company: company, asked: a.asked, complete: true})
	}
	if _, err := p.ask(ctx, p.answered); err != nil {
		return nil, err
	}
	return gone, nil
}

// add adds answers to the records of a company: to those that a complete answer does not list, that they are deleted. A
// connection without a record gets one.
func (p *pass) add(ctx context.Context, a answers, records map[string]state.Connection) error {
	for id, c := range a.connections {
		f := state.ConnectionFact{Status: c.Status, Platform: c.IntegrationKey, PlatformName: c.PlatformName, SourceType: c.SourceType}
		if err := p.addOne(ctx, a, id, records[id], f); err != nil {
			return err
		}
	}
	for id, r := range records {
		if _, listed := a.connections[id]; listed || !a.complete {
			continue
		}
		f := state.ConnectionFact{Status: r.Status, Deleted: true, Platform: r.Platform, PlatformName: r.PlatformName, SourceType: r.SourceType}
		if err := p.addOne(ctx, a, id, r, f); err != nil {
			return err
		}
	}
	return nil
}

// addOne adds to the record of a connection, which was r before Codat was asked, what the answer says of it.
func (p *pass) addOne(ctx context.Context, a answers, id string, r state.Connection, f state.ConnectionFact) error {
	if _, err := state.ConnectionKey(a.company, id); err != nil {
		return nil // no event could have named it
	}
	f.Generated, f.Received = a.asked.Add(-clockSkew), a.asked
	told := r // by events, and by answers that were news
	told.Asked = nil
	told = derived(told, kept(told))
	f.Found = len(told.Timeline) == 0 || !same(state.ConnectionChange{Status: told.Status, Deleted: told.Deleted}, report(&f))
	if err := p.store.add(ctx, a.company, id, f); err != nil {
		return err
	}
	p.metrics.found(r, with(r, f))
	return nil
}
