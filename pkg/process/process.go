// Package process is what every Headgate program does beside its work: it reads its settings, keeps a log,
// answers probes, counts, and stops when it is told to. A program that runs has valid settings, answers /livez
// before it reaches for NATS, and ends with 0 (stopped as told), 1 (could not go on) or 2 (not with these settings).
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// A Process is what a Run function gets from the process it runs in.
type Process struct {
	Name    string
	Version string
	Log     *zap.Logger
	// Health is what /readyz answers from. A Run adds its checks before it connects to anything.
	Health *Health
	// Metrics adds the label process="<Name>" to what is registered with it, so that several Runs in one process
	// can register the same collectors.
	Metrics prometheus.Registerer
	// Gatherer has the metrics of the whole process, as /metrics shows them.
	Gatherer prometheus.Gatherer
	// Traces are the process's OpenTelemetry traces; they go nowhere unless its variables name a collector.
	Traces trace.TracerProvider

	registry *prometheus.Registry
}

// New makes a process that logs to log and has a registry and a health of its own. Nothing is global: a test can
// have as many as it likes.
func New(name string, log *zap.Logger) *Process {
	registry := prometheus.NewRegistry()
	version := Version()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "headgate_build_info",
		Help:        "Always 1; the labels say what was built.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	p := &Process{
		Name:     name,
		Version:  version,
		Log:      log.Named(name),
		Health:   &Health{state: new(state)},
		Metrics:  labelled(registry, name),
		Gatherer: registry,
		Traces:   noop.NewTracerProvider(),
		registry: registry,
	}
	p.Metrics.MustRegister(build)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return p
}

// Named is a part of the process that runs under a name of its own: its log, checks and metrics carry the name,
// and the process is not ready before the part is. This is how headgate dev runs what production runs apart.
func (p *Process) Named(name string) *Process {
	part := *p
	part.Name = name
	part.Log = p.Log.Named(name)
	part.Health = p.Health.named(name)
	part.Metrics = labelled(p.registry, name)
	return &part
}

func labelled(registry *prometheus.Registry, name string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"process": name}, registry)
}

// Main is a whole main. It reads and validates the settings, opens the admin listener, runs until SIGTERM or
// SIGINT, and exits: 0 when it was stopped or done, 1 for an error or a panic, 2 with one line that names the cure
// for settings that it cannot run with. A second signal ends it at once with 128 and the signal's number.
//
// The settings are a pointer to a struct with kong's tags that embeds Settings; each struct in it can have a
// Validate() error, which is called before anything is opened. Settings that are to be looked at only have a method
// Look(io.Writer) (bool, error), which returns true when that was all: nothing is opened or run then.
func Main[S interface{ base() Settings }](name, help string, settings S, run func(context.Context, S, *Process) error) {
	if _, err := Parse(name, help, settings, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(ExitCode(err))
	}
	if l, ok := any(settings).(interface {
		Look(w io.Writer) (bool, error)
	}); ok {
		if looked, err := l.Look(os.Stdout); looked || err != nil {
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s: %s\n", name, redact(err.Error()))
			}
			os.Exit(ExitCode(err))
		}
	}
	collectLess()
	err := Serve(name, settings.base(), os.Stderr, func(ctx context.Context, p *Process) error {
		return run(ctx, settings, p)
	})
	os.Exit(ExitCode(err))
}

// Serve is Main once the settings are read: it opens the log, which goes to w, and the admin listener, runs, and
// stops at a signal. Readiness fails from the first signal on; the admin listener is the last thing to close. The
// error has been logged when it is returned.
func Serve(name string, s Settings, w io.Writer, run func(context.Context, *Process) error) error {
	log, err := s.Logger(w)
	if err != nil {
		fmt.Fprintf(w, "%s: %v\n", name, err)
		return err
	}
	p := New(name, log)
	log = p.Log
	began := time.Now()
	log.Info("starting", zap.String("version", p.Version), zap.String("go", runtime.Version()),
		zap.Strings("set", s.Given), zap.Int64("memory_limit", limitMemory(os.DirFS("/"))))

	err = p.serve(s.AdminListen, run)
	ran := zap.Duration("ran", time.Since(began))
	if err != nil {
		log.Error("stopped", zap.String("error", redact(err.Error())), zap.Int("exit", ExitCode(err)), ran)
		return err
	}
	log.Info("stopped", ran)
	return nil
}

func (p *Process) serve(adminListen string, run func(context.Context, *Process) error) error {
	ctx, stop := untilSignal(context.Background(), p.Log)
	defer stop()
	admin, err := p.ServeAdmin(adminListen)
	if err != nil {
		return err
	}
	defer admin.Close()
	defer context.AfterFunc(ctx, p.Health.Drain)()
	provider, flush, err := traces(ctx, p.Name, p.Version, p.Log)
	if err != nil {
		return err
	}
	p.Traces = provider
	defer func() {
		if err := flush(); err != nil {
			p.Log.Warn("the last traces were not sent", zap.String("error", redact(err.Error())))
		}
	}()

	err = p.guard(ctx, run)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// It was told to stop and says that it did.
		return nil
	}
	return err
}

// guard turns a panic into an error, so that the process ends as it does for any other: logged, with exit 1.
func (p *Process) guard(ctx context.Context, run func(context.Context, *Process) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.Log.Error("panic", zap.String("panic", redact(fmt.Sprint(v))), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return run(ctx, p)
}

// Misconfigured marks an error as one that only other settings can cure: the process ends with exit 2, and the text
// of err should name the cure. Misconfigured(nil) is nil.
func Misconfigured(err error) error {
	if err == nil {
		return nil
	}
	return misconfigured{err}
}

type misconfigured struct{ error }

func (m misconfigured) Unwrap() error { return m.error }

// ExitCode is the code that a process ends with for err: 0 for nil, 2 for what Misconfigured marked, else 1.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[misconfigured](err); ok {
		return 2
	}
	return 1
}
