// Package process has what all Headgate programs share: settings, log, probes, metrics, traces and the handling of
// signals. A program that runs has valid settings and answers /livez before it connects to NATS. It exits with 0 when
// a signal stopped it or its work is done, with 1 on an error, and with 2 when its settings are wrong.
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

// A Process is what a Run function uses of the process it runs in.
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
	// Traces are off unless OpenTelemetry's variables name a collector.
	Traces trace.TracerProvider
	// Observer is called for every request and delivery; nil in production.
	Observer Observer

	registry *prometheus.Registry
}

// New returns a process that logs to log, with a registry and a health of its own. It sets nothing global: a test can
// make several.
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
	p.Metrics.MustRegister(build, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "headgate_ready",
		Help: "1 when the process is ready, 0 when /readyz says why it is not.",
	}, func() float64 {
		if p.Health.Ready() != nil {
			return 0
		}
		return 1
	}))
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return p
}

// Named returns a part of the process. Its log, checks and metrics have the name, and the process is not ready before
// the part is. headgate dev runs in one process what are several in production.
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

// A Checker is a pointer to settings that can be checked without running the program.
type Checker interface {
	// Check returns false when no check was asked for. After a check it returns true, with the report written to w,
	// and the program ends: it opens no listener and connects to no server.
	Check(w io.Writer) (checked bool, err error)
}

// Main is a whole main. It reads and validates the settings, opens the admin listener, calls run, and exits: with 0
// after SIGTERM or SIGINT and when run returns nil, with 1 for an error or a panic, and with 2 for wrong settings, with
// one line that names the cure. A second signal ends the process at once, with 128 and the signal's number.
//
// The settings are a pointer to a struct with kong's tags that embeds Settings. Each struct in it can have a method
// Validate() error, which is called before anything is opened. Settings that are a Checker are asked first.
func Main[S interface{ base() Settings }](name, help string, settings S, run func(context.Context, S, *Process) error) {
	if _, err := Parse(name, help, settings, os.Args[1:]); err != nil {
		exit(name, err)
	}
	if c, ok := any(settings).(Checker); ok {
		if checked, err := c.Check(os.Stdout); checked || err != nil {
			for _, variable := range settings.base().Unknown {
				fmt.Fprintf(os.Stderr, "%s: %s\n", name, unknownVariable(name, variable))
			}
			exit(name, err)
		}
	}
	if c, ok := any(settings).(Printer); ok && c.Prints() {
		exit(name, run(context.Background(), settings, New(name, zap.NewNop())))
	}
	setGCPercent()
	err := Serve(name, settings.base(), os.Stderr, func(ctx context.Context, p *Process) error {
		return run(ctx, settings, p)
	})
	os.Exit(ExitCode(err))
}

// exit prints err, if any, without a secret, and ends the process with its code.
func exit(name string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, redact(err.Error()))
	}
	os.Exit(ExitCode(err))
}

// Serve does what Main does once the settings are read, except to exit. The log goes to w. Readiness fails from the
// first signal on, and the admin listener closes last. The error has been logged when Serve returns it.
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
		zap.Strings("set", s.Given), zap.Int64("memory_limit", setMemoryLimit(log)))
	for _, variable := range s.Unknown {
		log.Warn(unknownVariable(name, variable))
	}

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
	provider, flush := traces(ctx, p.Name, p.Version, p.Log)
	p.Traces = provider
	defer func() {
		if err := flush(); err != nil {
			p.Log.Warn("the last traces were not sent", zap.String("error", redact(err.Error())))
		}
	}()

	err = p.guard(ctx, run)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // a signal stopped it
	}
	return err
}

// guard calls run and returns a panic as an error, so that the process ends as for any other error.
func (p *Process) guard(ctx context.Context, run func(context.Context, *Process) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.Log.Error("panic", zap.String("panic", redact(fmt.Sprint(v))), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return run(ctx, p)
}

// Misconfigured marks an error that only other settings can cure: the process exits with 2. The text of err should
// name the cure. Misconfigured(nil) is nil.
func Misconfigured(err error) error {
	if err == nil {
		return nil
	}
	return misconfigured{err}
}

type misconfigured struct{ error }

func (m misconfigured) Unwrap() error { return m.error }

// ExitCode returns the code with which a process exits for err: 0 for nil, 2 for an error that Misconfigured marked,
// and 1 for any other.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[misconfigured](err); ok {
		return 2
	}
	return 1
}
