package writes

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// pushAPI are the calls of Codat's API that carry out plans. It is an *api.Client.
type pushAPI interface {
	pushes
	Create(ctx context.Context, t api.Target, key string, body []byte) (api.PushOperation, error)
	Update(ctx context.Context, t api.Target, id string, body []byte) (api.PushOperation, error)
	Delete(ctx context.Context, t api.Target, id string) (api.PushOperation, error)
	UploadAttachment(ctx context.Context, t api.Target, id, key string, a api.Attachment) (api.PushOperation, error)
	Pushes(ctx context.Context, company string, p api.Page) (api.List[api.PushOperation], error)
	PausedUntil(company string) time.Time
}

// A pace has the pauses of plans.
type pace struct {
	// scan is the time between two looks at the list of open plans.
	scan time.Duration
	// lease is for how long a process alone calls for a step. It is longer than a call takes.
	lease time.Duration
	// memory is for how long a create is repeated with its idempotency key. Codat remembers the key for 90 minutes.
	memory time.Duration
	// settle is how long after a call its push operation is in Codat's history at the latest.
	settle time.Duration
	// skew is how far Codat's clock and ours may be apart.
	skew time.Duration
	// ask is after how long without an event Codat is asked for the outcome of a push operation.
	ask time.Duration
	// minPause and maxPause bound the pause before another call or another look.
	minPause, maxPause time.Duration
}

func defaultPace(callTimeout time.Duration) pace {
	return pace{
		scan: 2 * time.Second, lease: callTimeout + 15*time.Second, memory: 80 * time.Minute, settle: 2 * time.Minute, skew: time.Minute,
		ask: 5 * time.Minute, minPause: time.Second, maxPause: 5 * time.Minute,
	}
}

// pause is the pause after n tries: it doubles.
func (p pace) pause(n int) time.Duration {
	if n > 20 {
		return p.maxPause
	}
	return min(p.minPause<<max(n-1, 0), p.maxPause)
}

const (
	// plansAtOnce bounds the plans that one process works on at once.
	plansAtOnce = 16
	// shards is the number of records that list the open plans.
	shards = 16
)

// plans carries out write plans. Any number of processes may do so at once: every change of a record is a compare-and-set,
// and only the process with the lease calls Codat for a step.
type plans struct {
	bucket jetstream.KeyValue
	store  Store
	api    pushAPI
	source stream.Source
	log    *zap.Logger
	pace   pace
	ends   *prometheus.CounterVec // of steps, by state

	woken   chan struct{} // with room for one
	failing atomic.Bool   // what was done last has failed

	mu    sync.Mutex
	due   map[string]time.Time // by plan
	busy  map[string]bool
	asked map[string]time.Time // by push operation key: when Codat was last asked
}

func newPlans(bucket jetstream.KeyValue, s Store, calls pushAPI, ends *prometheus.CounterVec, p pace) *plans {
	plans := &plans{
		bucket: bucket, store: s, api: calls, source: "codat", log: zap.NewNop(), pace: p, ends: ends,
		woken: make(chan struct{}, 1), due: map[string]time.Time{}, busy: map[string]bool{}, asked: map[string]time.Time{},
	}
	plans.store.wake = plans.wake
	return plans
}

// worker returns the worker that also carries out the plans.
func (p *plans) worker(nc *nats.Conn) workers.Worker {
	w := Worker(p.store)
	w.Background = func(ctx context.Context, stopping <-chan struct{}) {
		var serving sync.WaitGroup
		defer serving.Wait()
		serving.Go(func() {
			if err := p.serve(ctx, stopping, nc); err != nil {
				p.log.Error("requests about write plans are not answered", zap.Error(err))
			}
		})
		p.run(ctx, stopping)
	}
	return w
}

func newStepEnds() *prometheus.CounterVec {
	ends := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "headgate", Subsystem: "plans", Name: "step_ends_total",
		Help: "Steps of write plans that became done, failed or unknown.",
	}, []string{"state"})
	for _, s := range []plan.State{plan.Done, plan.Failed, plan.Unknown} {
		ends.WithLabelValues(string(s))
	}
	return ends
}

// run carries out plans until stopping is closed. What it has begun ends with ctx at the latest.
func (p *plans) run(ctx context.Context, stopping <-chan struct{}) {
	var working sync.WaitGroup
	defer working.Wait()
	slots := make(chan struct{}, plansAtOnce)
	var scanned time.Time
	for !closedChannel(stopping) {
		if time.Since(scanned) >= p.pace.scan {
			p.scan(ctx)
			scanned = time.Now()
		}
		id, wait := p.take(time.Now())
		if id == "" {
			select {
			case <-stopping:
			case <-p.woken:
			case <-time.After(min(wait, p.pace.scan)):
			}
			continue
		}
		select {
		case <-stopping:
		case slots <- struct{}{}:
			working.Go(func() {
				p.work(ctx, stopping, id)
				<-slots
			})
		}
	}
}

func closedChannel(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// take returns a plan that is due and that nobody in this process works on, and marks it as busy; else how long none is due.
func (p *plans) take(now time.Time) (id string, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = p.pace.scan
	for id, at := range p.due {
		if p.busy[id] {
			continue
		}
		if left := at.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		delete(p.due, id)
		p.busy[id] = true
		return id, 0
	}
	return "", wait
}

// work advances a plan, and notes when it is due again.
func (p *plans) work(ctx context.Context, stopping <-chan struct{}, id string) {
	at, err := p.advance(ctx, stopping, id)
	p.complain("a write plan waits", err, zap.String("plan", id))
	if err != nil {
		at = time.Now().Add(p.pace.pause(3))
	}
	p.mu.Lock()
	delete(p.busy, id)
	if again, woken := p.due[id]; !at.IsZero() && (!woken || at.Before(again)) {
		p.due[id] = at
	}
	p.mu.Unlock()
	p.signal()
}

// complain logs an error when what was done before has succeeded: a bucket or an API that is away concerns every plan.
func (p *plans) complain(message string, err error, fields ...zap.Field) {
	if failed := p.failing.Swap(err != nil); err != nil && !failed {
		p.log.Warn(message, append(fields, zap.Error(err))...)
	}
}

// wake makes a plan due now.
func (p *plans) wake(id string) {
	p.mu.Lock()
	p.due[id] = time.Time{}
	p.mu.Unlock()
	p.signal()
}

func (p *plans) signal() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// An openList is a record that lists open plans: those that can go on without an action. The value is the plan's generation.
type openList map[string]int

// openKey is the key of the openList that a plan is in.
func openKey(shard uint32) string { return fmt.Sprintf("%s%02d", plan.OpenPrefix, shard) }

func shardOf(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // it returns no error
	return h.Sum32() % shards
}

// scan makes the open plans due that this process does not know.
func (p *plans) scan(ctx context.Context) {
	ids, err := p.openPlans(ctx)
	if err != nil {
		p.complain("the open write plans cannot be listed", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if _, known := p.due[id]; !known && !p.busy[id] {
			p.due[id] = time.Time{}
		}
	}
}

// openPlans returns the ids of all open plans.
func (p *plans) openPlans(ctx context.Context) (ids []string, err error) {
	for i := range uint32(shards) {
		list, _, err := workers.ReadRecord[openList](ctx, p.bucket, openKey(i))
		if err != nil {
			return nil, err
		}
		for id := range list {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// open lists a plan among the open ones.
func (p *plans) open(ctx context.Context, r plan.Record) error {
	return workers.UpdateRecord(ctx, p.bucket, openKey(shardOf(r.Plan.ID)), func(list openList) openList {
		list = maps.Clone(list)
		if list == nil {
			list = openList{}
		}
		list[r.Plan.ID] = max(list[r.Plan.ID], r.Generation)
		return list
	})
}

// forget takes a plan from the open ones, unless an action has opened it again since its record was read.
func (p *plans) forget(ctx context.Context, r plan.Record) error {
	return workers.UpdateRecord(ctx, p.bucket, openKey(shardOf(r.Plan.ID)), func(list openList) openList {
		if list[r.Plan.ID] > r.Generation {
			return list
		}
		list = maps.Clone(list)
		delete(list, r.Plan.ID)
		return list
	})
}

// change changes the record of a plan. It returns the record as it is then, and whether f had something to change, also when
// that was stored by a try whose answer was lost.
func (p *plans) change(ctx context.Context, id string, f func(r *plan.Record) bool) (stored plan.Record, changed bool, err error) {
	err = workers.UpdateRecord(ctx, p.bucket, id, func(r plan.Record) plan.Record {
		if r.Hash == "" {
			stored = r
			return r
		}
		r = cloned(r)
		if f(&r) {
			changed = true
			settle(&r)
		}
		stored = r
		return r
	})
	if err == nil && stored.Hash == "" {
		err = fmt.Errorf("%w: %s", plan.ErrNotFound, id)
	}
	return stored, changed, err
}

// advance does everything that a plan can do now. It returns when the plan is due again, and the zero time when that is after
// an action or an event only.
func (p *plans) advance(ctx context.Context, stopping <-chan struct{}, id string) (time.Time, error) {
	followed := map[string]bool{}
	for !closedChannel(stopping) {
		r, _, err := workers.ReadRecord[plan.Record](ctx, p.bucket, id)
		if err != nil {
			return time.Time{}, err
		}
		do, at := p.next(r, time.Now(), followed)
		if do == nil {
			if closed(r, time.Now()) {
				return time.Time{}, p.forget(ctx, r)
			}
			return at, nil
		}
		limited, cancel := context.WithTimeout(ctx, p.pace.lease)
		err = do(limited)
		cancel()
		if err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// next returns what a plan can do now, or when it is due.
func (p *plans) next(r plan.Record, now time.Time, followed map[string]bool) (do func(context.Context) error, at time.Time) {
	at = now.Add(p.pace.maxPause)
	for i, s := range r.Steps {
		due := now
		switch {
		case s.State == plan.Pushing:
			if due = later(s.Push.Lease, s.NotBefore); !due.After(now) {
				return func(ctx context.Context) error { return p.recover(ctx, r, i) }, now
			}
		case s.PushOperationKey != "" && (s.State == plan.Pending || s.State == plan.Unknown):
			if !followed[s.PushOperationKey] {
				followed[s.PushOperationKey] = true
				return func(ctx context.Context) error { return p.follow(ctx, r, i) }, now
			}
			due = now.Add(min(max(now.Sub(s.Since)/2, p.pace.minPause), p.pace.maxPause))
		case ready(r, i):
			if due = s.NotBefore; !due.After(now) {
				return func(ctx context.Context) error { return p.start(ctx, r, i) }, now
			}
		default:
			continue
		}
		if due.Before(at) {
			at = due
		}
	}
	return nil, at
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// paused returns until when Codat wants no calls for a company.
func (p *plans) paused(ctx context.Context, company string) (time.Time, error) {
	quota, _, err := workers.ReadRecord[state.Quota](ctx, p.store.quota, state.QuotaKey)
	if err != nil {
		return time.Time{}, err
	}
	return later(p.api.PausedUntil(company), quota.PausedUntil(time.Now())), nil
}

// nonce names one lease.
func nonce() string { return nuid.Next() }
