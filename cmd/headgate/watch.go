package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// watchCmd exports the state of a source as metrics. NATS exports none to Prometheus, and a worker that does not run cannot
// export its lag.
type watchCmd struct {
	AdminListen string        `name:"admin-listen" default:":9090" help:"Address (host:port) of /livez, /readyz and /metrics; do not make it public."`
	LogLevel    string        `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Lowest level that is logged: debug, info, warn or error."`
	LogFormat   string        `name:"log-format" default:"json" enum:"json,console" help:"Format of log lines: json for programs, console for people."`
	Interval    time.Duration `name:"interval" default:"15s" help:"Time between two collections."`
	MonitorURL  []string      `name:"monitor-url" placeholder:"URL" help:"Monitoring address of a NATS server, such as http://nats-1:8222. Give one for each server: only this address tells whether a server writes to its disk before it acknowledges."`

	IndexMemory process.ByteSize `name:"index-memory" default:"64MiB" help:"Most memory of the index by which headgate find finds events without reading the stream: about 25MB for a million events. Of more events than fit, it holds the newest. At least 8MiB, or 0 for no index."`

	watchdogSettings `embed:""`
	stream.NATS      `embed:""`
	Source           stream.Source `name:"source" default:"codat" help:"Name of the Codat instance, which names the streams."`
}

// Validate returns an error for a setting that cannot be used.
func (w *watchCmd) Validate() error {
	err := errors.Join(process.ValidateListen("--admin-listen", w.AdminListen), w.NATS.Validate(), w.Source.Validate(), w.watchdogSettings.Validate())
	if err != nil {
		return err
	}
	if w.Interval < time.Second {
		return fmt.Errorf("--interval must be at least 1s (got %s)", w.Interval)
	}
	if w.IndexMemory != 0 && (w.IndexMemory < inspect.MinIndexBytes || w.IndexMemory > math.MaxInt32) {
		return fmt.Errorf("--index-memory must be 0, or from 8MiB to 2GiB (got %s)", w.IndexMemory)
	}
	return validateAddresses("--monitor-url", w.MonitorURL)
}

// Run exports metrics until ctx ends or a signal stops the process.
func (w *watchCmd) Run(ctx context.Context, t *terminal) error {
	s := process.Settings{AdminListen: w.AdminListen, LogLevel: w.LogLevel, LogFormat: w.LogFormat}
	return process.Serve("watch", s, t.err, func(serving context.Context, p *process.Process) error {
		serving, cancel := context.WithCancel(serving)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return w.watch(serving, p)
	})
}

// watch collects every interval until ctx ends, and runs the watchdog beside it. It writes what the watchdog finds, and only that,
// and continues while NATS does not answer.
func (w *watchCmd) watch(ctx context.Context, p *process.Process) error {
	shown := new(metricsView)
	if err := p.Metrics.Register(shown); err != nil {
		return err
	}
	dog, closeClient, err := w.options(w.Source, p)
	if err != nil {
		return err
	}
	defer closeClient()
	nc, err := stream.Connect(ctx, w.NATS, "watch", p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	connected := func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		return nil
	}
	p.Health.Add("broker", func(ctx context.Context) error {
		return cmp.Or(connected(ctx), errors.New("nothing collected yet"))
	})
	first, cancel := context.WithTimeout(ctx, w.Interval)
	_ = stream.Connected(first, nc) // without a connection, the first collection reports it
	cancel()

	var running sync.WaitGroup
	running.Go(func() { runWatchdog(ctx, js, dog, shown, p) })
	if w.IndexMemory > 0 {
		running.Go(func() { keepIndex(ctx, js, w, shown, p) })
	}
	w.collect(ctx, js, shown, p, connected)
	running.Wait()
	return nil
}

// collect shows a snapshot every interval until ctx ends.
func (w *watchCmd) collect(ctx context.Context, js jetstream.JetStream, shown *metricsView, p *process.Process, connected func(context.Context) error) {
	c := inspect.NewCollector(js, w.Source, w.MonitorURL...)
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	logged, unhealthy := "", map[string]string{}
	for {
		s, err := c.Collect(ctx)
		if ctx.Err() != nil {
			return
		}
		series := shown.show(s)
		p.Health.Add("broker", connected) // a check that replaces another counts at once
		// One line for each change: what stays wrong is in the metrics.
		if now := fmt.Sprint(err); now != logged {
			logged = now
			if err != nil {
				p.Log.Warn("some metrics are missing", zap.Error(err))
			} else {
				p.Log.Info("watching", zap.String("source", string(w.Source)), zap.Duration("interval", w.Interval), zap.Int("series", series))
			}
		}
		logUnhealthy(p.Log, s.Servers, unhealthy)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepIndex keeps the index of headgate find and answers with it until ctx ends.
func keepIndex(ctx context.Context, js jetstream.JetStream, w *watchCmd, shown *metricsView, p *process.Process) {
	index := inspect.NewIndex(js, w.Source, int(w.IndexMemory))
	shown.showIndex(w.Source, index)
	var running sync.WaitGroup
	running.Go(func() {
		if err := index.Answer(ctx, js.Conn()); err != nil {
			p.Log.Error("the index of headgate find answers nobody", zap.Error(err))
		}
	})
	index.Run(ctx, logIndex(p.Log))
	running.Wait()
}

// logIndex returns a function that logs why an index lacks events: once while tries fail in the same way. Tries that fail are less than
// two minutes apart.
func logIndex(log *zap.Logger) func(error) {
	var text string
	var last time.Time
	return func(err error) {
		if err.Error() != text || time.Since(last) >= 2*time.Minute {
			log.Warn("the index of headgate find lacks events, which find reads from the stream; watch tries again", zap.Error(err))
		}
		text, last = err.Error(), time.Now()
	}
}

// logUnhealthy logs what servers say is wrong with them, once for each change. logged is what it has logged of each.
func logUnhealthy(log *zap.Logger, servers []inspect.Server, logged map[string]string) {
	for _, s := range servers {
		if s.Healthy == nil || s.Problem == logged[s.Monitor] {
			continue
		}
		logged[s.Monitor] = s.Problem
		if *s.Healthy {
			log.Info("server is healthy again", zap.String("monitor", s.Monitor), zap.String("server", s.Name))
		} else {
			log.Warn("server is not healthy", zap.String("monitor", s.Monitor), zap.String("server", s.Name), zap.String("error", s.Problem))
		}
	}
}
