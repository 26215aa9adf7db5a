package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/watchdog"
)

// watchdogSettings are the settings with which headgate watch looks for what should have come from Codat and has not.
type watchdogSettings struct {
	Codat           api.Settings    `embed:""`
	IgnoreType      []codat.Pattern `name:"ignore-type" placeholder:"PATTERN" help:"Event type, or pattern of types, that may be silent and that no endpoint at Codat needs to have; give it again for more."`
	StaleReadsAfter time.Duration   `name:"stale-reads-after" default:"0s" help:"After this time without a successful read, the data of a linked connection is stale. It is longer than the time between two reads. 0 looks for none."`
}

// Validate returns an error for a setting that cannot be used.
func (s watchdogSettings) Validate() error {
	var errs []error
	if s.Codat.Enabled() {
		errs = append(errs, s.Codat.Validate())
	}
	for _, p := range s.IgnoreType {
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("--ignore-type %q: %w", p, err))
		}
	}
	if s.StaleReadsAfter != 0 && s.StaleReadsAfter < time.Hour {
		errs = append(errs, fmt.Errorf("--stale-reads-after must be at least 1h, or 0s (got %s)", s.StaleReadsAfter))
	}
	return errors.Join(errs...)
}

// environmentWatchdog returns the settings in the environment: those of headgate serve, whose workers have theirs there too.
func environmentWatchdog() (watchdogSettings, error) {
	var s watchdogSettings
	_, err := process.Parse("headgate watch", "", &s, nil)
	return s, err
}

// options returns the options of the watchdog of a source, and a function that closes its client of Codat's API. Until then the
// client reads the file of its key again when it changes.
func (s watchdogSettings) options(source stream.Source, p *process.Process) (watchdog.Options, func(), error) {
	o := watchdog.Options{Source: source, Ignore: s.IgnoreType, StaleReadsAfter: s.StaleReadsAfter}
	if !s.Codat.Enabled() {
		return o, func() {}, nil
	}
	client, err := api.New(s.Codat, p.Metrics)
	if err != nil {
		return o, nil, process.Misconfigured(err)
	}
	o.Endpoints = client.Webhooks
	p.Health.Add("codat key", func(context.Context) error { return process.Warning(client.KeyProblem()) })
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { client.WatchKey(ctx, p.Log) })
	return o, func() {
		cancel()
		watch.Wait()
		client.Close()
	}, nil
}

// runWatchdog looks about every five minutes until ctx ends, and continues while NATS or Codat does not answer.
func runWatchdog(ctx context.Context, js jetstream.JetStream, o watchdog.Options, shown *metricsView, p *process.Process) {
	dog := watchdog.New(js, o)
	log := watchdogLog{log: p.Log}
	for ctx.Err() == nil {
		r, err := dog.Look(ctx, time.Now())
		if ctx.Err() != nil {
			return
		}
		shown.showReport(o.Source, r, err == nil)
		log.changes(r, err)
		pause := watchdog.LookEvery*9/10 + rand.N(watchdog.LookEvery/5)
		if _, looked := r.Missing[state.SilentType]; !looked {
			pause = watchInterval // the stream did not answer
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watchdogLog logs what a look has found, once for each change. What stays as it is is in the metrics.
type watchdogLog struct {
	log          *zap.Logger
	failed       string
	disabled     map[string]bool
	needed       string
	silent       []string
	withoutCodat bool
}

func (l *watchdogLog) changes(r watchdog.Report, err error) {
	if now := fmt.Sprint(err); now != l.failed {
		if l.failed = now; err != nil {
			l.log.Warn("the watchdog could not look at everything", zap.Error(err))
		}
	}
	if r.EndpointsError == nil {
		l.withoutCodat = false
	} else if !l.withoutCodat {
		l.withoutCodat = true
		l.log.Warn("Codat does not say which endpoints there are; it is asked again every five minutes", zap.Error(r.EndpointsError))
	}
	disabled := map[string]bool{}
	for _, e := range r.Endpoints {
		disabled[e.ID] = e.Disabled
		switch was, known := l.disabled[e.ID]; {
		case e.Disabled && !was:
			l.log.Warn("an endpoint is disabled at Codat: nothing is delivered to it", zap.String("endpoint", e.ID))
		case known && was && !e.Disabled:
			l.log.Info("an endpoint is enabled again", zap.String("endpoint", e.ID))
		}
	}
	l.disabled = disabled
	if now := fmt.Sprint(r.NeededNotSubscribed); now != l.needed {
		if l.needed = now; len(r.NeededNotSubscribed) > 0 {
			l.log.Warn("no endpoint at Codat has types that a consumer takes", zap.Strings("types", r.NeededNotSubscribed))
		}
	}
	for _, typ := range r.Silent {
		if !slices.Contains(l.silent, typ) {
			l.log.Warn("a type has become silent", zap.String("type", typ))
		}
	}
	for _, typ := range l.silent {
		if !slices.Contains(r.Silent, typ) {
			l.log.Info("a type is not silent any more", zap.String("type", typ))
		}
	}
	l.silent = r.Silent
}

// The metrics of what should have come from Codat and has not. Those of the endpoints need an API key.
var (
	watchdogUp      = described("watchdog_up", "1 when the last look for what should have come was complete, 0 when something in NATS could not be read or written: the log says what.", "source")
	endpointCount   = described("codat_endpoints", "Endpoints at Codat, disabled ones included; Codat allows 50.", "source")
	endpointOff     = described("codat_endpoint_disabled", "1 when Codat has disabled the endpoint and delivers nothing to it, 0 when it is enabled.", "source", "endpoint")
	endpointsAge    = described("codat_endpoints_unanswered_seconds", "For how long Codat has not said which endpoints there are; 0 when it answered the last time.", "source")
	typesMissing    = described("codat_types_not_subscribed", "Current types of the catalog that no endpoint at Codat has. needed is true of those that a consumer of the source takes by name.", "source", "needed")
	typesLearned    = described("types_learned", "Event types of which enough is known to notice their silence.", "source")
	expectedMissing = described("expected", "What should have come and has not: silent types (kind silent), outcomes of writes (overdue), successful reads (stale). CODAT_expected has the records.", "source", "kind")
)

// reportMetrics returns a report as metrics.
func reportMetrics(of stream.Source, r watchdog.Report, complete bool) []prometheus.Metric {
	source := string(of)
	l := &metricList{}
	l.gauge(watchdogUp, boolGauge(complete), source)
	l.gauge(typesLearned, float64(r.Learned), source)
	for _, kind := range slices.Sorted(maps.Keys(r.Missing)) {
		l.gauge(expectedMissing, float64(r.Missing[kind]), source, string(kind))
	}
	if r.AsksCodat {
		l.gauge(endpointsAge, r.Unanswered.Seconds(), source)
	}
	if r.Endpoints == nil {
		return l.all
	}
	l.gauge(endpointCount, float64(len(r.Endpoints)), source)
	for _, e := range r.Endpoints {
		l.gauge(endpointOff, boolGauge(e.Disabled), source, e.ID)
	}
	needed := len(r.NeededNotSubscribed)
	l.gauge(typesMissing, float64(needed), source, "true")
	l.gauge(typesMissing, float64(len(r.NotSubscribed)-needed), source, "false")
	return l.all
}
