// Command bench measures Headgate on one machine: the ingress beside the plain handler that one would write in an hour
// and beside the bound of what can be done at all, a cluster, floods of forgeries and of what clients without a key can
// send, and the worker beside a bare loop.
// What it compares it runs in turns, in short slices and in random order, so that a machine whose speed drifts does not
// decide; it prints medians and ratios, and says of each figure how it was measured. It needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/headgate/bench/lab"
)

// A part is something that can be measured alone.
type part struct {
	name  string
	asked bool // measured only when it is asked for
	run   func(context.Context, *bench) error
}

var parts = []part{
	{"ingress", false, ingressPart},
	{"cluster", false, clusterPart},
	{"forgery", false, forgeryPart},
	{"worker", false, workerPart},
	{"writes", false, writesPart},
	{"start", false, startPart},
	{"memory", true, memoryPart},
	{"profile", true, profilePart},
	{"serve", true, servePart},
	{"ordered", true, orderedPart},
	{"find", true, findPart},
	{"replay", true, replayPart},
	{"console", true, consolePart},
}

// options are what the flags say.
type options struct {
	only    []string
	rounds  int
	slice   time.Duration
	size    int
	rate    float64
	events  int
	writes  int
	ids     int
	dir     string
	json    string
	timeout time.Duration
	fsyncs  []bool
	extra   []string
	others  []string // builds of headgate
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "ingress,cluster,forgery,worker,writes,start", "`parts` to measure, separated by commas; there are memory, profile, serve, ordered, find, replay and console beside the default ones")
	quick := flags.Bool("quick", false, "one round of short slices, a minute or two: to see that everything works, for its figures mean little")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.DurationVar(&o.slice, "slice", 1500*time.Millisecond, "how long a load runs")
	flags.IntVar(&o.size, "size", 600, "bytes of a body")
	flags.Float64Var(&o.rate, "rate", 4000, "requests a second at which the latencies of all are compared")
	flags.IntVar(&o.events, "events", 40_000, "events that a worker settles in one measurement")
	flags.IntVar(&o.writes, "writes", 100_000, "events about as many writes that worker-writes handles in one measurement")
	flags.IntVar(&o.ids, "ids", 1_000_000, "events that are stored in the parts start, memory, find and console; of console a tenth as many dead letters")
	fsync := flags.String("fsync", "both", "servers that the ingress and the worker are measured with: off, on or both")
	flags.StringVar(&o.dir, "dir", "", "`folder` for the servers' files, on the disk that is to be measured (default the system's for temporary files)")
	flags.StringVar(&o.json, "json", "", "`file` for the figures of all rounds, as JSON")
	flags.DurationVar(&o.timeout, "timeout", 40*time.Minute, "when it gives up")
	flags.Func("ingress", "one more ingress to compare, `NAME=[VARIABLE=value ...] [program [argument ...]]`, as gogc400=GOGC=400; can be repeated", func(s string) error {
		o.extra = append(o.extra, s)
		return nil
	})
	flags.Func("headgate", "one more build of headgate to compare in the part replay, `NAME=PROGRAM`; can be repeated", func(s string) error {
		_, _, err := parseHeadgate(s)
		o.others = append(o.others, s)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.rounds, o.slice, o.events, o.ids = 1, time.Second/2, 10_000, 50_000
	}
	switch *fsync {
	case "off", "on":
		o.fsyncs = []bool{*fsync == "on"}
	case "both":
		o.fsyncs = []bool{false, true}
	default:
		return o, fmt.Errorf("--fsync: %q is not off, on or both", *fsync)
	}
	o.only = strings.Split(*only, ",")
	for _, name := range o.only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return o, fmt.Errorf("--only: there is no part %q", name)
		}
	}
	if o.rounds < 1 || o.slice < 100*time.Millisecond || o.rate <= 0 || o.events < 1000 || o.writes < 1000 || o.ids < 1000 {
		return o, errors.New("--rounds, --slice, --rate, --events, --writes or --ids: too little to measure anything")
	}
	return o, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the benchmark.
type bench struct {
	options
	*report
	lab      *lab.Lab
	programs map[string]string
	began    time.Time
	workers  int // that were started, for their names
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done within %s (--timeout)", o.timeout))
	defer cancel()
	l, err := lab.New(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &bench{options: o, report: newReport(o), lab: l, programs: make(map[string]string), began: time.Now()}
	if err := b.build(ctx); err != nil {
		return err
	}
	for _, p := range parts {
		if !slices.Contains(o.only, p.name) {
			continue
		}
		if err = p.run(ctx, b); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			err = fmt.Errorf("%s: %w", p.name, err)
			break
		}
	}
	b.print(out) // what was measured until then
	if o.json != "" {
		err = errors.Join(err, b.write(o.json))
	}
	return err
}

// build builds all programs, as they are built for an image.
func (b *bench) build(ctx context.Context) error {
	for _, p := range []struct{ name, folder, of string }{
		{"ingress", "..", "./cmd/ingress"},
		{"worker-connections", "..", "./cmd/worker-connections"},
		{"worker-writes", "..", "./cmd/worker-writes"},
		{"headgate", "..", "./cmd/headgate"},
		{"plain", ".", "./plain"},
		{"bound", ".", "./bound"},
		{"worker", ".", "./worker"},
		{"nats-server", ".", "github.com/nats-io/nats-server/v2"},
	} {
		b.progress("build %s", p.name)
		program, err := b.lab.Build(ctx, p.folder, p.name, p.of)
		if err != nil {
			return err
		}
		b.programs[p.name] = program
	}
	for _, name := range []string{"ingress", "worker-connections"} {
		file, err := os.Stat(b.programs[name])
		if err != nil {
			return err
		}
		b.add("stripped binary", name, "MB", float64(file.Size())/1e6)
	}
	return nil
}

// progress says what is being done.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// shuffled are the same in random order.
func shuffled[T any](of []T) []T {
	all := slices.Clone(of)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func fsyncName(on bool) string {
	if on {
		return "fsync on"
	}
	return "fsync off"
}
