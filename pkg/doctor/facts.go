package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	requestTimeout = 5 * time.Second
	// copyLooks is how often copies of a stream are compared that differ: servers are read at different moments.
	copyLooks = 6
	// idleLooks is how often consumers are read for which something waits and nothing asks: a program asks again when it has
	// handled what it has.
	idleLooks = 6
	lookPause = 500 * time.Millisecond
	// maxLetters bounds the dead letters that are read.
	maxLetters = 10000
)

// serverInfo is what the server of the connection says.
type serverInfo struct {
	version    string
	roundTrip  time.Duration
	clock      time.Duration // ahead of this machine's
	maxPayload int64
	account    *jetstream.AccountInfo
}

// facts are what the checks examine.
type facts struct {
	Options
	now     time.Time
	missing map[need]error // why something cannot be examined

	js     jetstream.JetStream
	done   func()
	server serverInfo
	denied []string // subjects that the user may not publish to
	unsaid int      // how many subjects the server said nothing of
	asked  bool     // whether JetStream answers

	keys     []keyFile
	snapshot inspect.Snapshot
	idle     map[string]uint64 // consumers that idleConsumers has found at each look
	copies   []copyRange       // that differed each time they were read
	changes  []stream.Change

	instances   []inspect.Instance
	letters     map[string]int // dead letters of each worker in the last hour, failed redrives left out
	quarantined time.Time      // when the newest message of the quarantine was stored
	expected    map[state.ExpectedKind][]state.Expected
	quota       state.Quota
	consumed    []codat.Pattern // types that consumers take by name
	endpoints   []Endpoint
	processes   []Process
}

// after is what a need needs itself.
var after = map[need]need{
	account: connection, streams: account, eventsKept: streams, consumers: eventsKept, messages: eventsKept, expected: eventsKept,
	instances: streams, provision: streams, quotaTold: streams,
}

// reason says why something cannot be examined; "" when it can be.
func (f *facts) reason(n need) string {
	if before, has := after[n]; has {
		if why := f.reason(before); why != "" {
			return why
		}
	}
	switch err := f.missing[n]; {
	case err == nil:
		return ""
	case n == connection: // the finding of the check of the connection says why
		return errNotConnected.Error()
	default:
		return err.Error()
	}
}

// unanswered returns why a check lacks an answer of NATS: there is no connection, or a request had none in time.
func (f *facts) unanswered(c check) error {
	if c.needs == nothing && c.code != connectionCode {
		return nil
	}
	if err := f.missing[connection]; err != nil && (c.code == connectionCode || f.reason(c.needs) == errNotConnected.Error()) {
		return err
	}
	for n, has := c.needs, true; has; n, has = after[n] {
		if err := f.missing[n]; errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
			return err
		}
	}
	return nil
}

// gather looks at everything.
func gather(ctx context.Context, o Options) *facts {
	f := &facts{Options: o, now: time.Now(), missing: map[need]error{}, letters: map[string]int{}, expected: map[state.ExpectedKind][]state.Expected{}}
	f.keys = readKeyFiles(o.SecretFiles)
	f.connect(ctx)
	f.readServers(ctx)
	f.readCodat(ctx)
	if o.Processes == nil {
		f.missing[processes] = errors.New("no --metrics-url names a process of Headgate")
	} else {
		f.processes = o.Processes(ctx)
	}
	return f
}

func (f *facts) close() {
	if f.done != nil {
		f.done()
	}
}

var errNotConnected = errors.New("there is no connection to NATS")

// connect connects to NATS and reads what the user may read.
func (f *facts) connect(ctx context.Context) {
	js, done, err := f.Connect(ctx)
	if err != nil {
		f.missing[connection] = err
		return
	}
	f.js, f.done = js, done
	nc := js.Conn()
	f.server.version, f.server.maxPayload = nc.ConnectedServerVersion(), nc.MaxPayload()
	for range 3 { // the first has to wait for what the connection began with
		rtt, err := nc.RTT()
		if err != nil {
			f.missing[connection] = fmt.Errorf("the connection to NATS ended: %w", err)
			return
		}
		if f.server.roundTrip == 0 || rtt < f.server.roundTrip {
			f.server.roundTrip = rtt
		}
	}
	f.probePermissions(nc)
	if f.asked = f.missing[account] == nil; f.asked {
		f.missing[account] = f.ask(ctx, func(ctx context.Context) (err error) {
			f.server.account, err = js.AccountInfo(ctx)
			return err
		})
	}
	if f.reason(account) == "" {
		f.readSource(ctx)
	}
}

// ask makes one request within its time.
func (f *facts) ask(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return request(ctx)
}

// A permission is a subject that an operator may publish to, and what needs it.
type permission struct {
	subject string
	needs   []need
}

// permissions are the subjects of the requests that the checks, and the other commands, read with.
func (f *facts) permissions() []permission {
	s := f.Source
	bucket := func(name string) string { return "KV_" + name }
	workers := bucket(s.WorkersBucket())
	return []permission{
		{"$JS.API.INFO", []need{account}},
		{"$JS.API.STREAM.NAMES", []need{streams}},
		{"$JS.API.STREAM.INFO." + s.Stream(), []need{streams}},
		{"$JS.API.STREAM.LIST", []need{provision}},
		{"$JS.API.CONSUMER.NAMES." + s.Stream(), []need{consumers}},
		{"$JS.API.CONSUMER.LIST." + s.Stream(), []need{consumers}},
		{"$JS.API.CONSUMER.INFO." + s.Stream() + ".x", []need{consumers, provision}},
		{"$JS.API.DIRECT.GET." + s.Stream(), []need{messages}},
		{"$JS.API.DIRECT.GET." + s.DeadStream(), []need{messages}},
		{"$JS.API.DIRECT.GET." + workers + ".$KV." + s.WorkersBucket() + ".x", []need{instances}},
		{"$JS.API.DIRECT.GET." + bucket(s.StateBucket(stream.ExpectedState)), []need{expected}},
		{"$JS.API.STREAM.MSG.GET." + s.Stream(), nil},
	}
}

// probePermissions publishes to each subject without a reply, which no server answers, and notes what is refused: a server says so
// before it answers the flush.
func (f *facts) probePermissions(nc *nats.Conn) {
	for _, p := range f.permissions() {
		if nc.Publish(p.subject, nil) != nil || nc.FlushTimeout(requestTimeout) != nil {
			f.unsaid++
			continue
		}
		if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+p.subject+`"`) {
			f.denied = append(f.denied, p.subject)
			for _, n := range p.needs {
				f.missing[n] = f.denial(p.subject)
			}
		}
	}
	inbox := nc.NewInbox()
	if sub, err := nc.SubscribeSync(inbox); err == nil {
		_ = nc.FlushTimeout(requestTimeout) // without an answer the requests fail
		if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), inbox) {
			f.missing[account] = fmt.Errorf("this user may not subscribe to its inbox, %s.>: use the key of operator", nc.Opts.InboxPrefix)
		}
		_ = sub.Unsubscribe() // the connection ends soon
	}
}

// denial is the error for a subject that is refused, and nil for one that is not.
func (f *facts) denial(subject string) error {
	for _, d := range f.denied {
		if d == subject {
			return fmt.Errorf("this user may not publish to %s", subject)
		}
	}
	return nil
}

// readSource reads what JetStream has of the source.
func (f *facts) readSource(ctx context.Context) {
	if f.missing[streams] != nil {
		return
	}
	asked := time.Now()
	err := f.ask(ctx, func(ctx context.Context) error {
		st, err := f.js.Stream(ctx, f.Source.Stream())
		if err == nil {
			f.server.clock = st.CachedInfo().TimeStamp.Sub(asked.Add(time.Since(asked) / 2))
		}
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		f.missing[eventsKept] = fmt.Errorf("stream %s does not exist", f.Source.Stream())
	case err != nil:
		f.missing[eventsKept] = fmt.Errorf("stream %s: %w", f.Source.Stream(), err)
	}
	f.collect(ctx)
	if f.missing[provision] == nil {
		f.changes, err = stream.Provision(ctx, f.js, f.Layout, true)
		if err != nil && !errors.Is(err, stream.ErrRefused) {
			f.missing[provision] = err
		}
	}
	f.readMessages(ctx)
	f.readRecords(ctx)
}

// collect reads the state of the source, again while something waits for a consumer and nothing asks for it.
func (f *facts) collect(ctx context.Context) {
	c := inspect.NewCollector(f.js, f.Source)
	for look := range idleLooks {
		s, _ := c.Collect(ctx) // what does not answer is marked
		idle := idleConsumers(s)
		for key, delivered := range idle {
			if was, has := f.idle[key]; look > 0 && (!has || was != delivered) {
				delete(idle, key)
			}
		}
		if f.snapshot, f.idle = s, idle; len(idle) == 0 || !pause(ctx) {
			return
		}
	}
}

// idleConsumers are the consumers for which something waits while nothing asks for it, with the number of their deliveries.
func idleConsumers(s inspect.Snapshot) map[string]uint64 {
	idle := map[string]uint64{}
	for _, c := range s.Consumers {
		if c.Answered && c.Pending+uint64(max(0, c.AckPending)) > 0 && c.Waiting == 0 && !c.Pause.Paused {
			idle[c.Stream+" "+c.Name] = c.Delivered
		}
	}
	return idle
}

// readMessages reads when dead letters and messages of the quarantine were stored, and what consumers take.
func (f *facts) readMessages(ctx context.Context) {
	if f.reason(messages) != "" {
		return
	}
	errEnough := errors.New("enough")
	n := 0
	err := deadletter.List(ctx, f.js, f.Source, deadletter.Filter{Since: f.now.Add(-deadWindow)}, func(l deadletter.Letter) error {
		if l.Redrive == "" {
			f.letters[l.Worker]++
		}
		if n++; n >= maxLetters {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		f.missing[messages] = err
		return
	}
	if f.snapshot.Quarantined != nil && *f.snapshot.Quarantined > 0 {
		f.missing[messages] = stream.Last(ctx, f.js, f.Source.Stream(), []string{f.Source.QuarantineSubject()}, func(m *jetstream.RawStreamMsg) error {
			f.quarantined = m.Time
			return nil
		})
	}
}

// readRecords reads the entries of running workers and the records of headgate watch and of the quota.
func (f *facts) readRecords(ctx context.Context) {
	var err error
	if f.missing[instances] == nil {
		f.instances, f.missing[instances] = inspect.Instances(ctx, f.js, f.Source)
	}
	if f.reason(expected) == "" {
		f.missing[expected] = f.readExpected(ctx)
	}
	if f.quota, err = state.ReadQuota(ctx, f.js, f.Source); !errors.Is(err, jetstream.ErrKeyNotFound) {
		f.missing[quotaTold] = err
	}
	if f.reason(consumers) == "" {
		f.consumed, f.missing[consumers] = inspect.ConsumedTypes(ctx, f.js, f.Source)
	}
}

// readExpected reads what headgate watch has noticed. It is an error when it has not looked.
func (f *facts) readExpected(ctx context.Context) error {
	all, err := state.ListExpected(ctx, f.js, f.Source)
	if err != nil {
		return err
	}
	for _, e := range all {
		f.expected[e.Kind] = append(f.expected[e.Kind], e)
	}
	bucket := f.stream("KV_" + f.Source.StateBucket(stream.ExpectedState))
	if f.snapshot.LastEvent.IsZero() || len(all) > 0 {
		return nil // it writes nothing before the first event
	}
	if bucket == nil {
		return fmt.Errorf("bucket %s does not answer", f.Source.StateBucket(stream.ExpectedState))
	}
	switch age := f.now.Sub(bucket.Last); {
	case bucket.LastSequence == 0:
		return errors.New("headgate watch has never looked: run it")
	case age > watchSilent:
		return fmt.Errorf("headgate watch has not looked for %s: run it", span(age))
	}
	return nil
}

// stream is the state of a stream; nil when it is unknown.
func (f *facts) stream(name string) *inspect.Stream {
	for i := range f.snapshot.Streams {
		if f.snapshot.Streams[i].Name == name && f.snapshot.Streams[i].Answered {
			return &f.snapshot.Streams[i]
		}
	}
	return nil
}

// readServers reads the monitoring addresses, again while copies of a stream differ.
func (f *facts) readServers(ctx context.Context) {
	if len(f.Monitors) == 0 {
		f.missing[servers] = errors.New("no --monitor-url names a server")
		return
	}
	var before []inspect.Server
	for look := range copyLooks {
		f.snapshot.Servers, _ = inspect.Servers(ctx, f.Source, f.Monitors...) // what does not answer is marked
		differ := differingCopies(f.snapshot.Servers, before)
		before = f.snapshot.Servers
		if look > 0 {
			differ = both(differ, f.copies)
		}
		if f.copies = differ; len(differ) == 0 {
			return
		}
		if !pause(ctx) {
			return
		}
	}
}

// pause waits between two looks, and reports whether ctx goes on.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(lookPause):
		return true
	}
}

// readCodat reads the endpoints.
func (f *facts) readCodat(ctx context.Context) {
	if f.Endpoints == nil {
		f.missing[codatAPI] = errors.New("no --codat-key-file names the API key of Codat")
		return
	}
	f.endpoints, f.missing[codatAPI] = f.Endpoints(ctx)
}
