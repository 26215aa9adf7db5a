package workers

import (
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// Settings are the flags and environment variables of every worker's process. A worker with settings of its own embeds
// them.
type Settings struct {
	process.Settings `embed:""`
	stream.NATS      `embed:""`

	Source    stream.Source     `name:"source" default:"codat" help:"Name of the source whose events the worker takes."`
	Spec      process.PrintFlag `name:"spec" env:"-" help:"Print what the worker needs on NATS, for headgate provision --spec and headgate keys --spec, and exit."`
	Provision bool              `name:"provision" help:"Create or update the streams, consumers and buckets that the worker needs before it starts, as headgate provision does."`

	Concurrency int           `name:"concurrency" help:"Number of handlers that run at once in this process; 0 means the worker's own default."`
	Timeout     time.Duration `name:"timeout" help:"Time limit of one attempt of a handler; 0 means the worker's own default."`
	Attempts    int           `name:"attempts" help:"Number of attempts after which an event becomes a dead letter; 0 means the worker's own default."`
	BackoffMin  time.Duration `name:"backoff-min" help:"Longest pause before the second attempt; the pause is random, at least half of this, and doubles with each further attempt; 0 means the worker's own default."`
	BackoffMax  time.Duration `name:"backoff-max" help:"Longest pause before any attempt; 0 means the worker's own default."`
	ParkAfter   time.Duration `name:"park-after" help:"Longest pause during which an event stays on the worker's own consumer; for a longer one it is parked. 0 means the worker's own default."`
	Grace       time.Duration `name:"grace" default:"25s" help:"Time that running handlers have to finish after SIGTERM. Keep it shorter than the time after which the process is killed."`
}

// Prints reports whether --spec is given.
func (s Settings) Prints() bool { return bool(s.Spec) }

// Validate returns an error that names the first setting with a value that cannot be used.
func (s Settings) Validate() error {
	if err := errors.Join(s.Settings.Validate(), s.NATS.Validate(), s.Source.Validate()); err != nil {
		return err
	}
	for _, n := range []struct {
		flag  string
		value int
	}{{"concurrency", s.Concurrency}, {"attempts", s.Attempts}} {
		if n.value < 0 {
			return fmt.Errorf("--%s must not be negative (got %d): leave it out for the default", n.flag, n.value)
		}
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"timeout", s.Timeout}, {"backoff-min", s.BackoffMin}, {"backoff-max", s.BackoffMax}, {"park-after", s.ParkAfter}, {"grace", s.Grace}} {
		if d.value < 0 {
			return fmt.Errorf("--%s must not be negative (got %s): leave it out for the default", d.flag, d.value)
		}
	}
	return nil
}

// apply returns w with the fields that the settings override, and with the defaults where neither says anything.
func (s Settings) apply(w Worker) Worker {
	if s.Concurrency > 0 {
		w.Concurrency = s.Concurrency
	}
	if s.Attempts > 0 {
		w.Attempts = s.Attempts
	}
	for _, d := range []struct {
		from time.Duration
		to   *time.Duration
	}{{s.Timeout, &w.Timeout}, {s.BackoffMin, &w.BackoffMin}, {s.BackoffMax, &w.BackoffMax}, {s.ParkAfter, &w.ParkAfter}} {
		if d.from > 0 {
			*d.to = d.from
		}
	}
	return w.withDefaults()
}
