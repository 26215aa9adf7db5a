package inspect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/stream"
)

// concurrentRequests bounds the requests that a collector has in flight.
const concurrentRequests = 8

// A Collector reads the state of one source again and again. It needs permission to ask for names and states of streams
// and consumers, and for single messages of the source's stream and of the workers bucket; it changes nothing.
type Collector struct {
	js       jetstream.JetStream
	source   stream.Source
	monitors []string
	http     *http.Client
	timeout  time.Duration // of one request

	known  map[string]bool // streams that existed once
	mu     sync.Mutex
	oldest map[string]place // the oldest unsettled event of each durable, as it was found last
}

// collectTimeout bounds one request of a collector. A stream that moves its leader does not answer for longer, and is reported as one
// without an answer.
const collectTimeout = 3 * time.Second

// NewCollector returns a collector of a source, and of the servers with these monitoring addresses, such as
// http://nats-1:8222.
func NewCollector(js jetstream.JetStream, s stream.Source, monitors ...string) *Collector {
	return &Collector{
		js: js, source: s, monitors: monitors, timeout: collectTimeout,
		http:   &http.Client{Timeout: collectTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
		known:  map[string]bool{s.Stream(): true},
		oldest: map[string]place{},
	}
}

// collection is a snapshot while it is made. It is safe for concurrent use.
type collection struct {
	mu     sync.Mutex
	s      Snapshot
	errs   []error
	states map[string]*jetstream.StreamInfo // of the streams that answered
}

// update changes the snapshot.
func (c *collection) update(change func(*Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.s)
}

func (c *collection) fail(err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// all runs requests concurrently and waits for them. One that fails does not end the others.
func (c *collection) all(requests ...func() error) {
	var running errgroup.Group
	running.SetLimit(concurrentRequests)
	for _, request := range requests {
		running.Go(func() error {
			c.fail(request())
			return nil
		})
	}
	_ = running.Wait() // it returns nil only
}

// Collect returns what it saw. The error says what did not answer; the snapshot has the rest. When a stream or consumer has
// no leader or does not answer, it looks from another server before it says so: a server that has lost its peers sees no
// leader. Collect must not be called concurrently.
func (c *Collector) Collect(ctx context.Context) (Snapshot, error) {
	s, err := c.collect(ctx)
	if s.leaderless() && stream.LeaveServer(c.js.Conn(), errLeaderless) {
		again, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		if stream.Connected(again, c.js.Conn()) == nil {
			return c.collect(ctx)
		}
	}
	return s, err
}

var errLeaderless = errors.New("a stream or consumer has no leader")

// leaderless reports whether a stream or consumer that exists has no leader or did not answer.
func (s Snapshot) leaderless() bool {
	return slices.ContainsFunc(s.Streams, func(st Stream) bool { return !st.HasLeader }) ||
		slices.ContainsFunc(s.Consumers, func(c Consumer) bool { return !c.HasLeader && !c.Missing })
}

func (c *Collector) collect(ctx context.Context) (Snapshot, error) {
	began := time.Now()
	now := &collection{s: Snapshot{Source: c.source}, states: map[string]*jetstream.StreamInfo{}}
	requests := []func() error{func() error { return c.jetStream(ctx, now) }}
	for _, address := range c.monitors {
		requests = append(requests, func() error { return c.server(ctx, now, address) })
	}
	now.all(requests...)

	now.s.Complete, now.s.Took = len(now.errs) == 0, time.Since(began)
	slices.SortFunc(now.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return now.s, errors.Join(now.errs...)
}

// jetStream reads everything that JetStream has of the source.
func (c *Collector) jetStream(ctx context.Context, now *collection) error {
	if nc := c.js.Conn(); !nc.IsConnected() {
		return fmt.Errorf("not connected to NATS: %s", nc.Status())
	}
	now.fail(c.streamNames(ctx))
	var requests []func() error
	for name := range c.known {
		requests = append(requests, func() error { return c.stream(ctx, now, name) })
	}
	now.all(requests...)

	// The rest needs the states of the streams.
	workers := c.claimants(now)
	requests = []func() error{func() error { return c.lastEvent(ctx, now) }}
	for _, in := range []string{c.source.Stream(), c.source.ParkedStream()} {
		durables, err := c.durables(ctx, now, in)
		now.fail(err)
		for _, name := range durables {
			requests = append(requests, func() error { return c.consumer(ctx, now, in, name) })
		}
		if err == nil && now.states[in] != nil {
			now.missing(in, workers, durables)
		}
		if in == c.source.ParkedStream() {
			workers = union(workers, durables)
		}
	}
	requests = append(requests, func() error { return c.workers(ctx, now, workers) })
	now.all(requests...)
	c.deadLetters(now, workers)
	return nil
}

// claimants returns the workers that have a bucket of claims.
func (c *Collector) claimants(now *collection) []string {
	var workers []string
	for name := range now.states {
		if w, ok := strings.CutPrefix(name, bucketStream(c.source.ClaimsBucket(""))); ok {
			workers = append(workers, w)
		}
	}
	return workers
}

// missing reports the workers that have a bucket of claims and no consumer on a stream: without it they have no series at all.
func (c *collection) missing(in string, workers, durables []string) {
	for _, w := range workers {
		if slices.Contains(durables, w) {
			continue
		}
		c.update(func(s *Snapshot) { s.Consumers = append(s.Consumers, Consumer{Stream: in, Name: w, Missing: true}) })
		c.fail(fmt.Errorf("consumer %s of %s does not exist: run headgate provision, which skips no event; if the worker was removed for good, remove its bucket of claims", w, in))
	}
}

// union returns the sorted names that are in a or in b.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// streamNames learns the names of the source's streams and buckets. A name that is known stays known when nothing
// answers for it, so that its loss is reported.
func (c *Collector) streamNames(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	names := c.js.StreamNames(ctx)
	for name := range names.Name() {
		if c.owns(name) {
			c.known[name] = true
		}
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("names of streams: %w", err)
	}
	return nil
}

// StreamNames returns the names of the source's streams, and of the streams that hold its buckets, sorted. The stream of the
// events is among them also when it does not exist.
func StreamNames(ctx context.Context, js jetstream.JetStream, s stream.Source) ([]string, error) {
	c := NewCollector(js, s)
	if err := c.streamNames(ctx); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(c.known)), nil
}

// owns reports whether a stream is the source's. The bucket names of a source codat-x continue in capitals where those
// of codat continue in small letters.
func (c *Collector) owns(name string) bool {
	switch s := c.source; name {
	case s.Stream(), s.DeadStream(), s.ParkedStream(), s.OperatorStream():
		return true
	}
	rest, ok := strings.CutPrefix(name, bucketStream(c.source.StateBucket("")))
	return ok && rest != "" && rest[0] >= 'a' && rest[0] <= 'z'
}

// countedSubjects returns the subjects of a stream whose messages are counted for each subject, or "".
func (c *Collector) countedSubjects(name string) string {
	switch s := c.source; name {
	case s.Stream():
		return s.QuarantineSubject()
	case s.DeadStream():
		return s.DeadFilter("*")
	case bucketStream(s.WorkersBucket()):
		return instanceSubject(s, ">")
	}
	return ""
}

// stream reads the state of one stream.
func (c *Collector) stream(ctx context.Context, now *collection, name string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	info, err := streamInfo(ctx, c.js, name, c.countedSubjects(name))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if name == c.source.Stream() {
			return fmt.Errorf("stream %s does not exist: run headgate provision", name)
		}
		return nil // it is not used, or was deleted
	case err != nil:
		now.update(func(s *Snapshot) { s.Streams = append(s.Streams, Stream{Name: name}) })
		return fmt.Errorf("stream %s: %w", name, err)
	}
	now.mu.Lock()
	defer now.mu.Unlock()
	now.states[name] = info
	now.s.Streams = append(now.s.Streams, newStream(info))
	if name == c.source.Stream() {
		n := info.State.Subjects[c.source.QuarantineSubject()]
		now.s.Quarantined = &n
		now.s.Created = info.Created
	}
	return nil
}

func newStream(info *jetstream.StreamInfo) Stream {
	st := Stream{
		Name: info.Config.Name, Answered: true, HasLeader: hasLeader(info.Cluster),
		Messages: info.State.Msgs, Bytes: info.State.Bytes, LastSequence: info.State.LastSeq,
		Last: info.State.LastTime, MaxBytes: info.Config.MaxBytes, MaxAge: info.Config.MaxAge, Duplicates: info.Config.Duplicates,
		Replicas: info.Config.Replicas, ReplicasCurrent: 1, // the leader
		ReplicaLag: map[string]uint64{},
	}
	if info.State.Msgs > 0 {
		st.First = info.State.FirstTime
	}
	if info.State.Lost != nil {
		st.Lost = uint64(len(info.State.Lost.Msgs))
	}
	if info.Cluster != nil {
		for _, r := range info.Cluster.Replicas {
			st.ReplicaLag[r.Name] = r.Lag
			if r.Current && !r.Offline {
				st.ReplicasCurrent++
			}
		}
	}
	return st
}

// hasLeader reports whether a stream or consumer that answered has a leader. A server without a cluster leads alone.
func hasLeader(c *jetstream.ClusterInfo) bool { return c == nil || c.Name == "" || c.Leader != "" }

// lastEvent reads when the newest event was stored.
func (c *Collector) lastEvent(ctx context.Context, now *collection) error {
	if now.states[c.source.Stream()] == nil {
		return nil
	}
	last, err := c.find(ctx, map[string]any{"last_by_subj": c.source.EventFilter(">")})
	if err != nil {
		return fmt.Errorf("newest event: %w", err)
	}
	now.update(func(s *Snapshot) { s.LastEvent = last.stored })
	return nil
}

// deadLetters counts the dead letters of each worker. Workers that have none count 0, so that the first one is an
// increase.
func (c *Collector) deadLetters(now *collection, workers []string) {
	info := now.states[c.source.DeadStream()]
	if info == nil {
		return
	}
	letters := map[string]uint64{}
	for _, w := range workers {
		letters[w] = 0
	}
	for subject, n := range info.State.Subjects {
		letters[c.source.WorkerOf(subject)] += n
	}
	now.s.DeadLetters = letters
}

// workers counts the running processes of each worker.
func (c *Collector) workers(ctx context.Context, now *collection, names []string) error {
	info := now.states[bucketStream(c.source.WorkersBucket())]
	if info == nil {
		return nil
	}
	instances, err := readInstances(ctx, c.js, c.source, info, c.timeout)
	if err != nil {
		return fmt.Errorf("running workers: %w", err)
	}
	byName := map[string]*Worker{}
	for _, name := range names {
		byName[name] = &Worker{Name: name}
	}
	for _, i := range instances {
		w := byName[i.Worker]
		if w == nil {
			w = &Worker{Name: i.Worker}
			byName[i.Worker] = w
		}
		w.Instances++
		if i.CannotClaim != "" {
			w.CannotClaim++
		}
		if !i.Paused.IsZero() {
			w.PausedFor = max(w.PausedFor, time.Since(i.Paused))
		}
	}
	now.update(func(s *Snapshot) {
		for _, w := range byName {
			s.Workers = append(s.Workers, *w)
		}
	})
	return nil
}
