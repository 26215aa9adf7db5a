package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// pauseCmd pauses the consumers of a worker.
type pauseCmd struct {
	Worker       string    `arg:"" help:"The worker that is to receive nothing."`
	Until        untilFlag `name:"until" env:"-" placeholder:"TIME" help:"When the pause ends: a duration from now (90m, 3d), a date, or a date and time. Until headgate resume by default."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// resumeCmd ends the pause of a worker.
type resumeCmd struct {
	Worker       string `arg:"" help:"The worker that is to receive its events again."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a name that no worker can have and for an end that has passed.
func (c *pauseCmd) Validate() error {
	if !c.Until.IsZero() && !c.Until.After(time.Now()) {
		return fmt.Errorf("--until must be in the future (got %s)", formatTime(c.Until.Time))
	}
	return stream.ValidateWorker(c.Worker)
}

// Validate returns an error for a name that no worker can have.
func (c *resumeCmd) Validate() error { return stream.ValidateWorker(c.Worker) }

// pausedWorker is what pause and resume print for programs.
type pausedWorker struct {
	Worker string    `json:"worker"`
	Paused bool      `json:"paused"`
	Until  time.Time `json:"until,omitzero"` // when the pause ends; absent when only headgate resume ends it
}

// Run pauses, and says how long events are kept for the worker.
func (c *pauseCmd) Run(ctx context.Context, t *terminal) error {
	return c.asOperator(ctx, t, func(o *operator.Operator, nc *client) error {
		if err := o.Pause(ctx, c.Worker, c.Until.Time); err != nil {
			return err
		}
		return c.printRecord(t, pausedWorker{c.Worker, true, c.Until.Time}, c.Worker, func() error { return c.printText(ctx, t, nc) })
	})
}

// printText says until when the worker is paused, and how long events are kept.
func (c *pauseCmd) printText(ctx context.Context, t *terminal, nc *client) error {
	p := stream.Pause{Paused: true, Until: c.Until.UTC()}
	if c.Until.IsZero() {
		p.Until = time.Time{}
	}
	if _, err := fmt.Fprintf(t.out, "%s is paused %s\n", c.Worker, p); err != nil {
		return err
	}
	if events, err := nc.Stream(ctx, nc.source.Stream()); err == nil && events.CachedInfo().Config.MaxAge > 0 {
		fmt.Fprintf(t.err, "handlers that run go on; events wait, and each is kept for %s\n", formatAge(events.CachedInfo().Config.MaxAge))
	}
	return nil
}

// Run ends the pause.
func (c *resumeCmd) Run(ctx context.Context, t *terminal) error {
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		if err := o.Resume(ctx, c.Worker); err != nil {
			return err
		}
		return c.printRecord(t, pausedWorker{Worker: c.Worker}, c.Worker, func() error {
			_, err := fmt.Fprintf(t.out, "%s receives its events again\n", c.Worker)
			return err
		})
	})
}

// formatAge returns a duration of days as days.
func formatAge(d time.Duration) string {
	if days := d / (24 * time.Hour); days >= 2 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", days)
	}
	return d.String()
}

// An untilFlag is a time to come on the command line: a date, a date and a time, or a duration from now.
type untilFlag struct{ time.Time }

// UnmarshalText parses the flag.
func (u *untilFlag) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			u.Time = time.Now().Add(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		u.Time = time.Now().Add(d)
		return nil
	}
	var m timeFlag
	if _, err := time.ParseDuration(s); err == nil || m.UnmarshalText(text) != nil {
		return fmt.Errorf("%q must be a duration from now, such as 90m or 3d, or a date, such as 2026-01-31 or 2026-01-31T15:04:05Z", s)
	}
	u.Time = m.Time
	return nil
}
