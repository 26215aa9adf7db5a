package console

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// A surveyor surveys a source again and again.
type surveyor struct {
	c           *Console
	collector   *inspect.Collector
	connections tally[state.Connection]
	writes      tally[state.Write]
	plans       tally[plan.Record]
	dead        recentDead
	ingress     ingressHistory
}

func newSurveyor(c *Console) *surveyor {
	bucket := func(name string) string { return "KV_" + c.Source.StateBucket(name) }
	return &surveyor{
		c: c, collector: inspect.NewCollector(c.JS, c.Source, c.Monitors...),
		connections: tally[state.Connection]{stream: bucket(state.ConnectionsName), class: connectionStatus, skip: func(subject string) bool {
			return strings.HasSuffix(subject, "_"+state.ConnectionsName+".reconciliation") // the worker's own
		}},
		writes: tally[state.Write]{stream: bucket(state.WritesName), class: writeStatus},
		plans: tally[plan.Record]{stream: bucket(plan.StateName), class: func(r plan.Record) string { return string(r.Status) }, skip: func(subject string) bool {
			return strings.Contains(subject, "_"+plan.StateName+".open.")
		}},
	}
}

// connectionStatus is the status of a connection in one word.
func connectionStatus(r state.Connection) string {
	switch {
	case r.Deleted:
		return "Deleted"
	case r.Suspect:
		return "Suspect"
	}
	return cmp.Or(string(r.Status), "Unknown")
}

// writeStatus is the status of a write in one word.
func writeStatus(r state.Write) string {
	if !r.Overdue.IsZero() && r.Status == codat.Pending {
		return "Overdue"
	}
	return string(r.Status)
}

// states are the numbers of records by status; nil where there is no bucket.
type states struct {
	connections, writes, plans map[string]int
	quota                      state.Quota
}

// expectedCounts count what should have come from Codat and has not.
type expectedCounts struct {
	all  []state.Expected
	kind map[state.ExpectedKind]int
	// watched says that headgate watch has a place for what it finds.
	watched bool
}

// look surveys once. What does not answer is named in problem, and stays as it was in the last survey.
func (s *surveyor) look(ctx context.Context, last survey) survey {
	found := last
	found.at = s.c.Now()
	var mu sync.Mutex
	problems := map[string]bool{}
	var running sync.WaitGroup
	do := func(name string, look func(context.Context) error) {
		running.Go(func() {
			asking, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			if err := look(asking); err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				problems[name+": "+err.Error()] = true
			}
		})
	}
	do("streams", func(ctx context.Context) error {
		snapshot, err := s.collector.Collect(ctx)
		if err == nil || s.c.JS.Conn().IsConnected() { // a stream that does not answer is news
			found.snapshot = snapshot
		}
		return err
	})
	do("connections", func(ctx context.Context) error {
		counts, err := s.connections.look(ctx, s.c.JS)
		return set(&found.states.connections, counts, err)
	})
	do("writes", func(ctx context.Context) error {
		counts, err := s.writes.look(ctx, s.c.JS)
		return set(&found.states.writes, counts, err)
	})
	do("plans", func(ctx context.Context) error {
		counts, err := s.plans.look(ctx, s.c.JS)
		return set(&found.states.plans, counts, err)
	})
	do("quota", func(ctx context.Context) error {
		quota, err := readQuota(ctx, s.c)
		return set(&found.states.quota, quota, err)
	})
	do("expected", func(ctx context.Context) error {
		expected, err := readExpected(ctx, s.c)
		return set(&found.expected, expected, err)
	})
	do("dead letters", func(ctx context.Context) error {
		dead, err := s.dead.look(ctx, s.c.JS, s.c.Source, s.c.Now())
		return set(&found.dead, dead, err)
	})
	do("metrics", func(ctx context.Context) error { found.ingress = s.ingress.look(ctx, s.c); return nil })
	running.Wait()
	if found.problem = strings.Join(slices.Sorted(maps.Keys(problems)), "; "); found.problem != "" && !s.c.JS.Conn().IsConnected() {
		found.problem = "not connected to NATS"
	}
	return found
}

// set sets a value unless err is an error, and returns err.
func set[T any](to *T, value T, err error) error {
	if err == nil {
		*to = value
	}
	return err
}

func readQuota(ctx context.Context, c *Console) (state.Quota, error) {
	q, err := state.ReadQuota(ctx, c.JS, c.Source)
	if errors.Is(err, stream.ErrNotProvisioned) || errors.Is(err, jetstream.ErrKeyNotFound) {
		return state.Quota{}, nil
	}
	return q, err
}

func readExpected(ctx context.Context, c *Console) (expectedCounts, error) {
	all, err := state.ListExpected(ctx, c.JS, c.Source)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, stream.ErrNotProvisioned) {
		return expectedCounts{kind: map[state.ExpectedKind]int{}}, nil
	}
	counts := expectedCounts{all: all, kind: map[state.ExpectedKind]int{}, watched: true}
	for _, e := range all {
		counts.kind[e.Kind]++
	}
	return counts, err
}

// recentFor is how far back dead letters count as recent, and maxRecent how many are kept.
const (
	recentFor = 24 * time.Hour
	maxRecent = 10_000
)

// recentDead are the dead letters of the last day. It reads each once.
type recentDead struct {
	created time.Time
	after   uint64
	letters []recentLetter // oldest first
}

// A recentLetter is what is kept of a dead letter.
type recentLetter struct {
	at                         time.Time
	worker, typ, cause, reason string // reason is the first line of the last error
	redrive                    bool
}

// deadLetters count the dead letters of the last day.
type deadLetters struct {
	// More says that there were more than are counted.
	more     bool
	byWorker map[string]int
	lastHour map[string]int // without those of redrives
	groups   []deadGroup
}

// A deadGroup are the recent dead letters of one worker and type with the same error.
type deadGroup struct {
	Worker, Type, Reason string
	Count                int
	Newest               time.Time
}

func (d *recentDead) look(ctx context.Context, js jetstream.JetStream, s stream.Source, now time.Time) (deadLetters, error) {
	st, err := js.Stream(ctx, s.DeadStream())
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = nil
		}
		return deadLetters{}, err
	}
	info := st.CachedInfo()
	if !d.created.Equal(info.Created) || info.State.LastSeq < d.after {
		*d = recentDead{created: info.Created}
	}
	if info.State.LastSeq > d.after {
		o := stream.ReadOptions{Filters: []string{s.DeadFilter("*")}, After: d.after, Created: d.created, Since: now.Add(-recentFor)}
		// Of more than are kept, those that are newest.
		if info.State.LastSeq > maxRecent {
			o.After = max(o.After, info.State.LastSeq-maxRecent)
		}
		last, err := stream.Read(ctx, js, s.DeadStream(), o, func(m *jetstream.RawStreamMsg) error { d.take(s, m, now); return nil })
		if err != nil {
			return d.counts(now), err
		}
		d.after = last
	}
	return d.counts(now), nil
}

func (d *recentDead) take(s stream.Source, m *jetstream.RawStreamMsg, now time.Time) {
	if d.after = max(d.after, m.Sequence); m.Time.Before(now.Add(-recentFor)) {
		return
	}
	h := m.Header
	d.letters = append(d.letters, recentLetter{
		at: m.Time, worker: s.WorkerOf(m.Subject), typ: s.TypeOf(m.Subject), cause: h.Get(deadletter.HeaderCause),
		reason: firstLine(cmp.Or(h.Get(deadletter.HeaderLastError), h.Get(deadletter.HeaderFirstError))), redrive: s.OpenRaw(m).Redrive != "",
	})
}

func (d *recentDead) counts(now time.Time) deadLetters {
	d.letters = slices.DeleteFunc(d.letters, func(l recentLetter) bool { return l.at.Before(now.Add(-recentFor)) })
	found := deadLetters{byWorker: map[string]int{}, lastHour: map[string]int{}}
	if n := len(d.letters) - maxRecent; n >= 0 {
		d.letters, found.more = d.letters[n:], true
	}
	groups := map[recentLetter]*deadGroup{}
	for _, l := range d.letters {
		found.byWorker[l.worker]++
		if !l.redrive && l.at.After(now.Add(-time.Hour)) {
			found.lastHour[l.worker]++
		}
		key := recentLetter{worker: l.worker, typ: l.typ, reason: l.reason}
		g := groups[key]
		if g == nil {
			g = &deadGroup{Worker: l.worker, Type: l.typ, Reason: l.reason}
			groups[key] = g
		}
		g.Count++
		g.Newest = l.at
	}
	for _, g := range groups {
		found.groups = append(found.groups, *g)
	}
	slices.SortFunc(found.groups, func(a, b deadGroup) int {
		return cmp.Or(b.Newest.Compare(a.Newest), cmp.Compare(a.Worker+a.Type+a.Reason, b.Worker+b.Type+b.Reason))
	})
	return found
}

// firstLine is the first line of a text, of 200 characters at most.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if r := []rune(line); len(r) > 200 {
		line = string(r[:200]) + "…"
	}
	return line
}
