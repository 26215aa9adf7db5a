package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

const (
	// lookTimeout bounds one question. A stream that moves its leader is silent for longer, and that is to be seen.
	lookTimeout = 3 * time.Second
	// lookAtOnce bounds the questions that are asked at a time.
	lookAtOnce = 8
)

// A looker looks at one source. It asks for names, states and the time of single messages, and changes nothing.
type looker struct {
	js       jetstream.JetStream
	source   stream.Source
	monitors []string
	http     *http.Client

	known  map[string]bool // streams that were there once
	mu     sync.Mutex
	oldest map[string]stored // the oldest unsettled event of each durable, as it was found last
}

// stored is where and when a message was stored.
type stored struct {
	sequence uint64
	at       time.Time
}

func newLooker(js jetstream.JetStream, s stream.Source, monitors []string) *looker {
	return &looker{
		js: js, source: s, monitors: monitors,
		http:   &http.Client{Timeout: lookTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
		known:  map[string]bool{s.Stream(): true},
		oldest: map[string]stored{},
	}
}

// A glance is one look while it is made. Safe for concurrent use.
type glance struct {
	mu     sync.Mutex
	seen   []prometheus.Metric
	wrong  []error
	states map[string]*jetstream.StreamInfo // of the streams that answered
}

func (g *glance) gauge(d *prometheus.Desc, value float64, labels ...string) {
	g.put(prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
}

func (g *glance) counter(d *prometheus.Desc, value float64, labels ...string) {
	g.put(prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...))
}

func (g *glance) put(m prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, m)
}

func (g *glance) fail(err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrong = append(g.wrong, err)
}

// all asks several questions at once, and waits for the answers.
func (g *glance) all(questions ...func() error) {
	var asked errgroup.Group
	asked.SetLimit(lookAtOnce)
	for _, q := range questions {
		asked.Go(func() error {
			g.fail(q()) // one without an answer does not end the others
			return nil
		})
	}
	_ = asked.Wait()
}

// look returns what it saw, and with it why it did not see all. It is not called twice at a time.
func (l *looker) look(ctx context.Context) ([]prometheus.Metric, error) {
	began := time.Now()
	g := &glance{states: map[string]*jetstream.StreamInfo{}}
	questions := []func() error{func() error { return l.everything(ctx, g) }}
	for _, m := range l.monitors {
		questions = append(questions, func() error { return l.server(ctx, g, m) })
	}
	g.all(questions...)

	g.gauge(watchUp, truth(len(g.wrong) == 0), string(l.source))
	g.gauge(watchSeconds, time.Since(began).Seconds(), string(l.source))
	slices.SortFunc(g.wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return g.seen, errors.Join(g.wrong...)
}

// everything looks at all that is in JetStream.
func (l *looker) everything(ctx context.Context, g *glance) error {
	if nc := l.js.Conn(); !nc.IsConnected() {
		return fmt.Errorf("not connected to NATS: %s", nc.Status())
	}
	g.fail(l.names(ctx))
	var questions []func() error
	for name := range l.known {
		questions = append(questions, func() error { return l.stream(ctx, g, name) })
	}
	g.all(questions...)

	// The rest needs to know what the streams are like.
	durables, err := l.durables(ctx, g, l.source.Stream())
	g.fail(err)
	workers, err := l.durables(ctx, g, l.source.ParkedStream())
	g.fail(err)
	questions = []func() error{
		func() error { return l.lastEvent(ctx, g) },
		func() error { return l.instances(ctx, g, workers) },
	}
	for _, name := range durables {
		questions = append(questions, func() error { return l.consumer(ctx, g, l.source.Stream(), name) })
	}
	for _, name := range workers {
		questions = append(questions, func() error { return l.consumer(ctx, g, l.source.ParkedStream(), name) })
	}
	g.all(questions...)
	l.deadLetters(g, workers)
	return nil
}

// names learns which streams and buckets the source has. Those that were there before are not forgotten when nobody
// answers for them: just that is to be shown.
func (l *looker) names(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	names := l.js.StreamNames(ctx)
	for name := range names.Name() {
		if l.owns(name) {
			l.known[name] = true
		}
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("names of streams: %w", err)
	}
	return nil
}

// owns reports whether a stream is the source's. The buckets of a source codat-x go on in capitals where those of codat
// go on in small letters.
func (l *looker) owns(name string) bool {
	switch s := l.source; name {
	case s.Stream(), s.DeadStream(), s.ParkedStream(), s.PlansStream(), s.OperatorStream():
		return true
	}
	rest, ok := strings.CutPrefix(name, bucketStream(l.source.StateBucket("")))
	return ok && rest != "" && rest[0] >= 'a' && rest[0] <= 'z'
}

// bucketStream is the stream under a KV bucket.
func bucketStream(bucket string) string { return "KV_" + bucket }

// counted are the subjects of a stream whose messages are counted for each subject, "" for none.
func (l *looker) counted(name string) string {
	switch s := l.source; name {
	case s.Stream():
		return s.QuarantineSubject()
	case s.DeadStream():
		return s.DeadFilter("*")
	case bucketStream(s.WorkersBucket()):
		return instanceSubject(s, ">")
	}
	return ""
}

func instanceSubject(s stream.Source, key string) string {
	return "$KV." + s.WorkersBucket() + "." + key
}

func (l *looker) state(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	st, err := l.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	if subjects := l.counted(name); subjects != "" {
		return st.Info(ctx, jetstream.WithSubjectFilter(subjects))
	}
	return st.CachedInfo(), nil
}

// stream looks at one stream.
func (l *looker) stream(ctx context.Context, g *glance, name string) error {
	info, err := l.state(ctx, name)
	own := []string{string(l.source), name}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if name == l.source.Stream() {
			return fmt.Errorf("stream %s is not there: run headgate provision", name)
		}
		return nil // it is not used, or somebody deleted it
	case err != nil:
		g.gauge(streamLeader, 0, own...)
		return fmt.Errorf("stream %s: %w", name, err)
	}
	g.mu.Lock()
	g.states[name] = info
	g.mu.Unlock()

	g.gauge(streamMessages, float64(info.State.Msgs), own...)
	g.gauge(streamBytes, float64(info.State.Bytes), own...)
	g.counter(streamLastSequence, float64(info.State.LastSeq), own...)
	if info.Config.MaxBytes > 0 {
		g.gauge(streamMaxBytes, float64(info.Config.MaxBytes), own...)
	}
	if info.Config.MaxAge > 0 {
		g.gauge(streamMaxAge, info.Config.MaxAge.Seconds(), own...)
	}
	if info.State.Msgs > 0 {
		g.gauge(streamFirst, unix(info.State.FirstTime), own...)
	}
	if name == l.source.Stream() {
		g.gauge(quarantineHolds, float64(info.State.Subjects[l.source.QuarantineSubject()]), string(l.source))
	}

	g.gauge(streamLeader, truth(led(info.Cluster)), own...)
	g.gauge(streamReplicas, float64(info.Config.Replicas), own...)
	current := 1 // the leader
	if info.Cluster != nil {
		for _, r := range info.Cluster.Replicas {
			g.gauge(streamReplicaLag, float64(r.Lag), append(own, r.Name)...)
			if r.Current && !r.Offline {
				current++
			}
		}
	}
	g.gauge(streamReplicasCurrent, float64(current), own...)
	return nil
}

// led reports whether what answered has a leader. A server without a cluster leads by itself.
func led(c *jetstream.ClusterInfo) bool { return c == nil || c.Name == "" || c.Leader != "" }

// durables are the durable consumers of a stream: the workers', and those of teams that read the events themselves.
func (l *looker) durables(ctx context.Context, g *glance, name string) ([]string, error) {
	if g.states[name] == nil { // it did not answer, and would not now
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	st, err := l.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", name, err)
	}
	names := st.ConsumerNames(ctx)
	var durables []string
	for consumer := range names.Name() {
		// A tail is a person's, who may take a holiday.
		if !strings.HasPrefix(consumer, stream.TailPrefix) {
			durables = append(durables, consumer)
		}
	}
	if err := names.Err(); err != nil {
		return durables, fmt.Errorf("consumers of %s: %w", name, err)
	}
	return durables, nil
}

// consumer looks at one consumer.
func (l *looker) consumer(ctx context.Context, g *glance, in, name string) error {
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	c, err := l.js.Consumer(asking, in, name)
	own := []string{string(l.source), in, name}
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil // gone since it was named, or nobody's that we know
	case err != nil:
		g.gauge(consumerLeader, 0, own...)
		return fmt.Errorf("consumer %s of %s: %w", name, in, err)
	}
	info := c.CachedInfo()
	if info.Config.Durable == "" {
		return nil
	}
	g.gauge(consumerLeader, truth(led(info.Cluster)), own...)
	g.gauge(consumerPending, float64(info.NumPending), own...)
	g.gauge(consumerAckPending, float64(info.NumAckPending), own...)
	g.gauge(consumerWaiting, float64(info.NumWaiting), own...)
	g.counter(consumerDelivered, float64(info.Delivered.Consumer), own...)
	if in != l.source.Stream() {
		return nil
	}
	age, err := l.oldestUnsettled(ctx, info)
	if err != nil {
		return fmt.Errorf("oldest event of %s: %w", name, err)
	}
	g.gauge(consumerOldest, age.Seconds(), own...)
	return nil
}

// oldestUnsettled is the age of the first event behind all that the consumer has settled without a gap.
func (l *looker) oldestUnsettled(ctx context.Context, info *jetstream.ConsumerInfo) (time.Duration, error) {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return 0, nil
	}
	floor := info.AckFloor.Stream
	l.mu.Lock()
	found := l.oldest[info.Name]
	l.mu.Unlock()
	if found.sequence > floor {
		// It stays the oldest while it is not settled, unless it was erased.
		var err error
		if found, err = l.message(ctx, map[string]any{"seq": found.sequence}); err != nil {
			return 0, err
		}
	}
	if found.sequence <= floor {
		var err error
		if found, err = l.next(ctx, floor, &info.Config); err != nil {
			return 0, err
		}
	}
	l.mu.Lock()
	l.oldest[info.Name] = found
	l.mu.Unlock()
	if found.sequence == 0 { // settled since
		return 0, nil
	}
	return max(0, time.Since(found.at)), nil
}

// next is the first message behind a sequence that a consumer takes.
func (l *looker) next(ctx context.Context, after uint64, c *jetstream.ConsumerConfig) (first stored, err error) {
	filters := c.FilterSubjects
	if len(filters) == 0 {
		filters = []string{cmp.Or(c.FilterSubject, ">")}
	}
	for _, f := range filters {
		m, err := l.message(ctx, map[string]any{"seq": after + 1, "next_by_subj": f})
		if err != nil {
			return stored{}, err
		}
		if m.sequence > 0 && (first.sequence == 0 || m.sequence < first.sequence) {
			first = m
		}
	}
	return first, nil
}

// lastEvent looks for the time of the newest event.
func (l *looker) lastEvent(ctx context.Context, g *glance) error {
	if g.states[l.source.Stream()] == nil {
		return nil
	}
	last, err := l.message(ctx, map[string]any{"last_by_subj": l.source.EventFilter(">")})
	if err != nil {
		return fmt.Errorf("newest event: %w", err)
	}
	if last.sequence > 0 {
		g.gauge(lastEvent, unix(last.at), string(l.source))
	}
	return nil
}

// message asks the stream of the events where and when a message was stored; the zero stored when there is none such.
// nats.go would put a wildcard into the subject that it asks on, which is a permission more.
func (l *looker) message(ctx context.Context, which map[string]any) (stored, error) {
	body, err := json.Marshal(which)
	if err != nil {
		return stored{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	m, err := l.js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.source.Stream(), body)
	if err != nil {
		return stored{}, err
	}
	if status := m.Header.Get("Status"); status == "404" {
		return stored{}, nil
	} else if status != "" {
		return stored{}, fmt.Errorf("the stream answers %s %s", status, m.Header.Get("Description"))
	}
	sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("sequence of a message: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	return stored{sequence, at}, err
}

// deadLetters counts those of each worker, also when there are none, so that the first is seen as one more.
func (l *looker) deadLetters(g *glance, workers []string) {
	info := g.states[l.source.DeadStream()]
	if info == nil {
		return
	}
	letters := map[string]uint64{}
	for _, w := range workers {
		letters[w] = 0
	}
	for subject, n := range info.State.Subjects {
		letters[l.source.WorkerOf(subject)] += n
	}
	for w, n := range letters {
		g.gauge(deadLetters, float64(n), string(l.source), w)
	}
}

// instances counts the running processes of each worker, and looks for one that pauses.
func (l *looker) instances(ctx context.Context, g *glance, names []string) error {
	bucket := bucketStream(l.source.WorkersBucket())
	info := g.states[bucket]
	if info == nil {
		return nil
	}
	running, open := map[string]int{}, map[string]time.Duration{}
	for _, w := range names {
		running[w] = 0
	}
	for subject := range info.State.Subjects {
		i, err := l.instance(ctx, bucket, subject)
		if err != nil {
			return fmt.Errorf("running workers: %w", err)
		}
		if i.Worker == "" { // it has ended since
			continue
		}
		running[i.Worker]++
		if !i.Paused.IsZero() {
			open[i.Worker] = max(open[i.Worker], time.Since(i.Paused))
		}
	}
	for w, n := range running {
		g.gauge(workerInstances, float64(n), string(l.source), w)
		g.gauge(workerBreaker, open[w].Seconds(), string(l.source), w)
	}
	return nil
}

func (l *looker) instance(ctx context.Context, bucket, subject string) (i workers.Instance, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	m, err := l.js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+bucket+"."+subject, nil)
	if err != nil || len(m.Data) == 0 {
		return i, err
	}
	return i, json.Unmarshal(m.Data, &i)
}

// server looks at one server by its monitoring address, which needs no user and is in nobody's account.
func (l *looker) server(ctx context.Context, g *glance, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("--monitor-url: not an address")
	}
	monitor := u.Host
	v, err := l.varz(ctx, u.JoinPath("varz").String())
	g.gauge(serverUp, truth(err == nil), monitor)
	if err != nil {
		return fmt.Errorf("monitoring address %s: %w", monitor, err)
	}
	if c := v.JetStream.Config; c != nil {
		g.gauge(serverSync, truth(c.SyncAlways), monitor, v.Name)
		g.gauge(serverMaxStore, float64(c.MaxStore), monitor, v.Name)
	}
	if s := v.JetStream.Stats; s != nil {
		g.gauge(serverStore, float64(s.Store), monitor, v.Name)
	}
	if m := v.JetStream.Meta; m != nil {
		g.gauge(serverMeta, truth(m.Leader != ""), monitor, v.Name)
	}
	return nil
}

// varz is what is read of what a server says of itself.
type varz struct {
	Name      string `json:"server_name"`
	JetStream struct {
		Config *struct {
			SyncAlways bool  `json:"sync_always"`
			MaxStore   int64 `json:"max_storage"`
		} `json:"config"`
		Stats *struct {
			Store uint64 `json:"storage"`
		} `json:"stats"`
		Meta *struct {
			Leader string `json:"leader"`
		} `json:"meta"`
	} `json:"jetstream"`
}

func (l *looker) varz(ctx context.Context, address string) (v varz, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return v, err
	}
	answer, err := l.http.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) { // it quotes the address, and that may hold a password
			err = failed.Err
		}
		return v, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return v, fmt.Errorf("it answers %s", answer.Status)
	}
	return v, json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&v)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unix is a time in seconds since 1970.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
