package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/stream"
)

// The names of figures.
const (
	perSecond       = "requests/s"
	eventsPerSecond = "events/s"
	p50             = "p50 ms"
	p99             = "p99 ms"
	p999            = "p99.9 ms"
	cpuOwn          = "CPU µs"
	cpuNATS         = "NATS CPU µs"
	cpuBoth         = "both µs"
	cpus            = "CPUs"
	memory          = "MiB"
	refused         = "refused"
	others          = "others' CPUs" // what the machine did besides: the less, the better the figure
)

func closedCase(conns int, fsync bool) string {
	return fmt.Sprintf("the most, closed loop, %d connections, %s", conns, fsyncName(fsync))
}

func ownHalfCase(fsync bool) string {
	return "open loop, each at half of its own most, " + fsyncName(fsync)
}

func halfCase(fsync bool) string {
	return "open loop, all at half of the ingress's most, " + fsyncName(fsync)
}

func fixedCase(rate float64, fsync bool) string {
	return fmt.Sprintf("open loop, all at %.0f requests/s, %s", rate, fsyncName(fsync))
}

// A variant is one of the programs that receive, with a stream of its own.
type variant struct {
	name    string
	source  stream.Source
	process *lab.Process
	address string
	signer  *load.Signer
	most    float64 // requests a second, as far as is known

	within func(program string, args ...string) []string // a command that runs the program elsewhere; nil for none
}

// starter starts a variant at an address; it returns when it is ready.
type starter func(ctx context.Context, b *bench, v *variant, servers *lab.NATS, secret string) error

func headgate(env []string, program string, args ...string) starter {
	return func(ctx context.Context, b *bench, v *variant, servers *lab.NATS, secret string) error {
		admin, err := lab.Address()
		if err != nil {
			return err
		}
		if program == "" {
			program = b.programs["ingress"]
		}
		all := append([]string{
			"--listen", v.address, "--admin-listen", admin, "--nats-url", servers.URL, "--source", string(v.source), "--drain-delay", "0s",
		}, args...)
		env := append([]string{"HEADGATE_SECRET=" + secret}, env...)
		command := append([]string{program}, all...)
		if v.within != nil {
			command = v.within(program, all...)
		}
		if v.process, err = b.lab.Start(v.name, command[0], command[1:], env); err != nil {
			return err
		}
		return v.process.Await(ctx, lab.Answers("http://"+admin+"/readyz"))
	}
}

// rival starts a program under a name; it can have more than one.
func rival(program string, env ...string) starter {
	return func(ctx context.Context, b *bench, v *variant, servers *lab.NATS, secret string) error {
		var err error
		v.process, err = b.lab.Start(v.name, b.programs[program], nil, append([]string{
			"LISTEN=" + v.address, "NATS_URL=" + servers.URL, "SOURCE=" + string(v.source), "SECRET=" + secret,
		}, env...))
		if err != nil {
			return err
		}
		return v.process.Await(ctx, lab.Listens(v.address))
	}
}

// variant makes the streams of a variant and starts it.
func (b *bench) variant(ctx context.Context, name string, servers *lab.NATS, start starter) (*variant, error) {
	address, err := lab.Address()
	if err != nil {
		return nil, err
	}
	secret := load.NewSecret()
	v := &variant{name: name, source: stream.Source("bench-" + name), address: address, most: 30_000}
	if v.signer, err = load.NewSigner(secret, b.size); err != nil {
		return nil, err
	}
	if err := provision(ctx, servers, v.source); err != nil {
		return nil, err
	}
	return v, start(ctx, b, v, servers, secret)
}

// provision makes the streams of a source, as for production: with the window in which an id is known. What is not there
// yet, as the leader of a new cluster, is waited for.
func provision(ctx context.Context, servers *lab.NATS, source stream.Source, workers ...stream.WorkerSpec) error {
	plan := stream.Layout{Source: source, Replicas: len(servers.Processes), MaxBytes: 8 << 30, Workers: workers}
	return servers.Processes[0].Await(ctx, func(ctx context.Context) error {
		if _, err := stream.Provision(ctx, servers.JS, plan, false); err != nil {
			return err
		}
		s, err := servers.JS.Stream(ctx, source.Stream())
		if err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader == "" {
			err = errors.New("no leader yet")
		}
		return err
	})
}

// empty makes the stream of a source anew, so that no load meets what the one before has left.
func empty(ctx context.Context, servers *lab.NATS, source stream.Source) error {
	if err := servers.JS.DeleteStream(ctx, source.Stream()); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	return provision(ctx, servers, source)
}

// sample is what a load gave and cost.
type sample struct {
	load.Result
	own, nats, others time.Duration // CPU time
	memory            int64
}

// cost runs something and says what it cost the processes, NATS, and what the machine did besides.
func (b *bench) cost(v *variant, servers *lab.NATS, run func() load.Result) (sample, error) {
	type accounts struct{ own, nats, lab, self, machine time.Duration }
	read := func() (a accounts, err error) {
		var errs [5]error
		a.own, errs[0] = lab.CPU(v.process)
		a.nats, errs[1] = lab.CPU(servers.Processes...)
		a.lab, errs[2] = lab.CPU(b.lab.Running()...)
		a.machine, errs[3] = lab.Machine()
		var self syscall.Rusage
		errs[4] = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
		a.self = time.Duration(self.Utime.Nano() + self.Stime.Nano())
		return a, errors.Join(errs[:]...)
	}
	before, err := read()
	if err != nil {
		return sample{}, err
	}
	s := sample{Result: run()}
	after, err := read()
	if err != nil {
		return s, err
	}
	s.own, s.nats = after.own-before.own, after.nats-before.nats
	s.others = max(0, after.machine-before.machine-(after.lab-before.lab)-(after.self-before.self))
	s.memory, _, err = v.process.Memory()
	return s, err
}

// turn gives one variant one load, on an empty stream, and checks that everything was accepted.
func (b *bench) turn(ctx context.Context, v *variant, servers *lab.NATS, batch *load.Batch, n int, run func() load.Result) (sample, error) {
	if len(servers.Processes) == 1 { // a cluster would need seconds to elect a leader
		if err := empty(ctx, servers, v.source); err != nil {
			return sample{}, err
		}
	}
	if err := v.process.Forget(); err != nil {
		return sample{}, err
	}
	v.signer.Sign(batch, n, time.Now())
	runtime.GC() // not in the middle of it
	s, err := b.cost(v, servers, run)
	if err != nil {
		return s, err
	}
	if ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	if s.Refused() > 0 || s.Accepted() == 0 {
		return s, fmt.Errorf("%s: answers %v, none to %d: %v\n%s", v.name, s.Answers, s.Broken, s.Err, cmp.Or(v.process.Said(`"reason"`), v.process.Last()))
	}
	if len(servers.Processes) == 1 {
		st, err := servers.JS.Stream(ctx, v.source.Stream())
		if err != nil {
			return s, err
		}
		if stored := st.CachedInfo().State.Msgs; stored != uint64(s.Accepted()) {
			return s, fmt.Errorf("%s: accepted %d requests and stored %d", v.name, s.Accepted(), stored)
		}
	}
	return s, nil
}

// note adds what a load gave and cost to the report.
func (b *bench) note(in, variant string, s sample) {
	n := float64(s.Accepted())
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / n }
	b.add(in, variant, perSecond, s.Rate())
	b.latencies(in, variant, s.Latencies)
	b.add(in, variant, cpuOwn, micros(s.own))
	b.add(in, variant, cpuNATS, micros(s.nats))
	b.add(in, variant, cpuBoth, micros(s.own+s.nats))
	b.add(in, variant, memory, float64(s.memory)/(1<<20))
	b.add(in, variant, others, s.others.Seconds()/s.Took.Seconds())
}

func (b *bench) latencies(in, variant string, ascending []time.Duration) {
	for _, q := range []struct {
		name string
		part float64
	}{{p50, 0.5}, {p99, 0.99}, {p999, 0.999}} {
		b.add(in, variant, q.name, float64(load.Quantile(ascending, q.part).Microseconds())/1000)
	}
}

// closed is one turn of a closed loop.
func (b *bench) closed(ctx context.Context, in string, v *variant, servers *lab.NATS, batch *load.Batch, conns []*load.Conn) (sample, error) {
	n := int(1.5 * v.most * b.slice.Seconds())
	s, err := b.turn(ctx, v, servers, batch, n, func() load.Result { return load.Closed(ctx, conns, batch, b.slice) })
	if err == nil && in != "" {
		v.most = max(v.most, s.Rate())
		b.note(in, v.name, s)
	}
	return s, err
}

// open is one turn of an open loop: requests come as events do, at a rate that does not change and at random moments, and
// a latency counts from the moment at which the request was to be sent.
func (b *bench) open(ctx context.Context, in string, v *variant, servers *lab.NATS, batch *load.Batch, conns []*load.Conn, rate float64) error {
	const longer = 2 // a tail needs more requests than a mean
	s, err := b.turn(ctx, v, servers, batch, int(1.2*rate*longer*b.slice.Seconds()), func() load.Result {
		return load.Open(ctx, conns, batch, rate, load.Poisson, longer*b.slice)
	})
	if err == nil {
		b.note(in, v.name, s)
	}
	return err
}

// ingressPart compares the ingress with its rivals, on one server without fsync and on one with it.
func ingressPart(ctx context.Context, b *bench) error {
	starters := map[string]starter{
		"ingress": headgate(nil, ""), "plain": rival("plain"), "bound": rival("bound"), "bound-headers": rival("bound", "HEADERS=all"),
	}
	names := []string{"plain", "ingress", "bound", "bound-headers"}
	for _, extra := range b.extra {
		name, start, err := parseExtra(extra)
		if err != nil {
			return err
		}
		starters[name] = start
		names = append(names, name)
	}
	for _, fsync := range b.fsyncs {
		if err := b.compare(ctx, names, starters, fsync); err != nil {
			return err
		}
	}
	return nil
}

// parseExtra reads NAME=[VARIABLE=value ...] [program [argument ...]].
func parseExtra(s string) (string, starter, error) {
	name, rest, _ := strings.Cut(s, "=")
	words := strings.Fields(rest)
	n := slices.IndexFunc(words, func(w string) bool { return !strings.Contains(w, "=") })
	if n < 0 {
		n = len(words)
	}
	env, words := words[:n], words[n:]
	if err := stream.Source("bench-" + name).Validate(); err != nil {
		return "", nil, fmt.Errorf("--ingress %s: %w", s, err)
	}
	if len(words) == 0 {
		return name, headgate(env, ""), nil
	}
	program, err := filepath.Abs(words[0])
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		return "", nil, fmt.Errorf("--ingress %s: %w", s, err)
	}
	return name, headgate(env, program, words[1:]...), nil
}

func (b *bench) compare(ctx context.Context, names []string, starters map[string]starter, fsync bool) error {
	b.progress("ingress, %s", fsyncName(fsync))
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, fsync)
	if err != nil {
		return err
	}
	var variants []*variant
	conns := make(map[*variant][]*load.Conn)
	for _, name := range names {
		v, err := b.variant(ctx, name, servers, starters[name])
		if err != nil {
			return err
		}
		variants = append(variants, v)
		if conns[v], err = load.Dial(v.address, nil, 256); err != nil {
			return err
		}
		defer load.Close(conns[v])
	}
	batch := new(load.Batch)
	for _, v := range variants { // warm up
		if _, err := b.closed(ctx, "", v, servers, batch, conns[v]); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for _, n := range []int{64, 256} {
			b.progress("ingress, %s: the most over %d connections, round %d of %d", fsyncName(fsync), n, round+1, b.rounds)
			for _, v := range shuffled(variants) {
				if _, err := b.closed(ctx, closedCase(n, fsync), v, servers, batch, conns[v][:n]); err != nil {
					return err
				}
			}
		}
	}

	most := func(name string) float64 { return b.median(closedCase(64, fsync), name, perSecond) }
	type turn struct {
		in   string
		v    *variant
		rate float64
	}
	var turns []turn
	fixed := b.rate
	if fsync { // one stream has one at a time
		fixed = min(fixed, 500)
	}
	for _, v := range variants {
		turns = append(turns, turn{ownHalfCase(fsync), v, most(v.name) / 2}, turn{fixedCase(fixed, fsync), v, fixed})
		if v.name != "plain" { // it would be near its end
			turns = append(turns, turn{halfCase(fsync), v, most("ingress") / 2})
		}
	}
	for round := range b.rounds {
		b.progress("ingress, %s: latencies, round %d of %d", fsyncName(fsync), round+1, b.rounds)
		for _, t := range shuffled(turns) {
			if err := b.open(ctx, t.in, t.v, servers, batch, conns[t.v], t.rate); err != nil {
				return err
			}
		}
	}
	for _, v := range variants {
		if err := b.lab.Stop(v.process); err != nil {
			return err
		}
	}
	return servers.Stop()
}
