package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/inspect"
)

// scrubCmd reads every message of every stream and bucket of a source from each server that has a copy.
type scrubCmd struct {
	Every        time.Duration `name:"every" env:"-" help:"Read again after this time, until a signal ends the command; once by default."`
	Settle       time.Duration `name:"settle" env:"-" default:"2s" hidden:"" help:"Pause before what is missing is read a second time; longer than a replica can lag."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a time that is not positive.
func (c *scrubCmd) Validate() error {
	if c.Settle <= 0 {
		return fmt.Errorf("--settle must be greater than 0s (got %s)", c.Settle)
	}
	if c.Every < 0 {
		return fmt.Errorf("--every must be greater than 0s (got %s)", c.Every)
	}
	if c.Every > 0 {
		return c.checkEnd("--every")
	}
	return nil
}

// Run reads the copies once, and returns an error when there is an exception. With --every it reads them again and again,
// and reports errors and exceptions only.
func (c *scrubCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	for {
		err := c.scrub(ctx, nc, t)
		if c.Every == 0 || ctx.Err() != nil {
			return err
		}
		if err != nil {
			fmt.Fprintf(t.err, "headgate: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

func (c *scrubCmd) scrub(ctx context.Context, nc *client, t *terminal) error {
	streams, err := inspect.StreamNames(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	found := 0
	err = scrubListing.report(t, c.outputFlags, func(each func(audit.Scrubbed) error) error {
		for _, name := range streams {
			progress := newProgressBar(t)
			r, err := audit.Scrub{
				JS: nc, Stream: name, Settle: c.Settle, Progress: func(done, total uint64) { progress.show(name, done, total) },
			}.Run(ctx)
			progress.clear()
			if err != nil {
				return err
			}
			if err := each(r); err != nil {
				return err
			}
			found += len(r.Exceptions)
		}
		return nil
	})
	if err == nil && found > 0 {
		err = errors.New(plural(found, "exception"))
	}
	return err
}

var scrubListing = listing[audit.Scrubbed]{
	noun: "stream",
	id:   func(r audit.Scrubbed) string { return r.Stream },
	text: func(r audit.Scrubbed) string {
		var b strings.Builder
		for _, e := range r.Exceptions {
			fmt.Fprintf(&b, "EXCEPTION    #%-8d  %s  %s: %s: %s\n", e.Sequence, printable(e.Server), printable(e.Stream), e.Kind, printable(e.Detail))
		}
		return b.String() + strings.TrimSuffix(copiesLine(r), "\n")
	},
}
