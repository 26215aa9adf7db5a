package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// watch is the exporter: it looks at a source in JetStream from outside and shows what it sees as metrics. NATS exports
// none to Prometheus, and a worker that does not run cannot say that its events wait.
type watch struct {
	AdminListen string        `name:"admin-listen" default:":9090" help:"Address (host:port) of /livez, /readyz and /metrics; keep it away from the public."`
	LogLevel    string        `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat   string        `name:"log-format" default:"json" enum:"json,console" help:"How a log line looks: json for programs, console for people."`
	Interval    time.Duration `name:"interval" default:"15s" help:"How often to look."`
	MonitorURL  []string      `name:"monitor-url" placeholder:"URL" help:"Monitoring address of a NATS server, as http://nats-1:8222. Give that of each: only there is seen whether a server writes to its disk before it acknowledges."`

	stream.NATS `embed:""`
	Source      stream.Source `name:"source" default:"codat" help:"Name of the Codat instance whose streams are watched."`
}

// Validate reports a setting that cannot be meant.
func (w *watch) Validate() error {
	err := errors.Join(process.ValidateListen("--admin-listen", w.AdminListen), w.NATS.Validate(), w.Source.Validate())
	if err != nil {
		return err
	}
	if w.Interval < time.Second {
		return fmt.Errorf("--interval: %s is too often: give 1s or more", w.Interval)
	}
	for _, address := range w.MonitorURL {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("--monitor-url: %q is no address: give one as http://nats-1:8222", withoutUser(address))
		}
	}
	return nil
}

// Run watches until ctx ends or the process is told to stop.
func (w *watch) Run(ctx context.Context, t *terminal) error {
	s := process.Settings{AdminListen: w.AdminListen, LogLevel: w.LogLevel, LogFormat: w.LogFormat}
	return process.Serve("watch", s, t.err, func(serving context.Context, p *process.Process) error {
		serving, cancel := context.WithCancel(serving)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return w.watch(serving, p)
	})
}

// watch looks every interval until ctx ends. It only reads, and goes on also while nobody answers.
func (w *watch) watch(ctx context.Context, p *process.Process) error {
	shown := new(view)
	if err := p.Metrics.Register(shown); err != nil {
		return err
	}
	nc, err := stream.Connect(ctx, w.NATS, "watch", p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var looked atomic.Bool
	p.Health.Add("broker", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		if !looked.Load() {
			return errors.New("has not looked yet")
		}
		return nil
	})
	first, cancel := context.WithTimeout(ctx, w.Interval)
	_ = stream.Connected(first, nc) // without a connection, the look says so
	cancel()

	l := newLooker(js, w.Source, w.MonitorURL)
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	was := ""
	for {
		seen, err := l.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		shown.replace(seen)
		looked.Store(true)
		// One line for each change: what is wrong for an hour is in the metrics.
		if is := fmt.Sprint(err); is != was {
			was = is
			if err != nil {
				p.Log.Warn("cannot see everything", zap.Error(err))
			} else {
				p.Log.Info("watching", zap.String("source", string(w.Source)), zap.Duration("interval", w.Interval), zap.Int("series", len(seen)))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
