package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate/headgate/pkg/operator"
)

// eraseCmd erases what is stored of a company.
type eraseCmd struct {
	Company  string  `arg:"" help:"Id of the company. Delete it at Codat first: a replay brings back two weeks."`
	Mentions bool    `name:"mentions" env:"-" help:"Erase also what belongs to another company and has this id in it. Without it, such messages are named, and stay."`
	Rate     float64 `name:"rate" env:"-" default:"500" help:"Upper bound of the messages and records erased in a second."`
	DryRun   bool    `name:"dry-run" env:"-" help:"Print how much would be erased, and erase nothing."`
	Yes      bool    `name:"yes" env:"-" help:"Do not ask. It is required without a terminal."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

func (c *eraseCmd) options(p *progressBar) operator.EraseOptions {
	return operator.EraseOptions{Company: c.Company, Mentions: c.Mentions, Rate: c.Rate, Progress: p.show}
}

// Validate returns an error for a company that no event can have, and for a rate that is not positive.
func (c *eraseCmd) Validate() error {
	if err := operator.ValidateRate(c.Rate); err != nil {
		return fmt.Errorf("--rate %w", err)
	}
	return operator.EraseOptions{Company: c.Company, Rate: c.Rate}.Validate()
}

// Run searches, says what it has found, asks, erases until nothing is found, and says what it cannot reach.
func (c *eraseCmd) Run(ctx context.Context, t *terminal) error {
	return c.asAdmin(ctx, t, func(o *operator.Operator, _ *client) error {
		progress := newProgressBar(t)
		defer progress.clear()
		e, err := o.NewErasure(ctx, c.options(progress))
		progress.clear()
		if err != nil {
			return err
		}
		r := e.Result()
		if r.DryRun = c.DryRun; c.DryRun || r.Found == 0 {
			return c.report(t, r)
		}
		fmt.Fprintln(t.err, "found: "+foundIn(r))
		if !c.Yes {
			if err := confirm(t, "Erase it? It cannot be undone. [y/N] ", "nothing was erased"); err != nil {
				return err
			}
		}
		r, err = e.Run(ctx)
		progress.clear()
		if err := errors.Join(err, c.report(t, r)); err != nil {
			fmt.Fprintln(t.err, "the same command goes on where this one has ended")
			return err
		}
		return nil
	})
}

// foundIn says how much is in which streams and buckets.
func foundIn(r operator.EraseResult) string {
	var in []string
	for _, s := range r.Streams {
		if s.Found > 0 {
			in = append(in, fmt.Sprintf("%d %s", s.Found, strings.TrimPrefix(s.Name, "KV_")))
		}
	}
	return fmt.Sprintf("%s: %s", plural(r.Found, "message"), strings.Join(in, ", "))
}

// notReached is what no erasure reaches.
const notReached = `not erased, because headgate does not reach it: backups and snapshots; logs; claims in PostgreSQL, whose errors may name the company; what
handlers, the relay and other services have kept or sent. A replay at Codat brings events back, for two weeks, unless the company is deleted there.
What a worker handles now may be stored once more: run the command again later, to see that nothing is left.
`

func (c *eraseCmd) report(t *terminal, r operator.EraseResult) error {
	return c.printRecord(t, r, c.Company, func() error { return c.printText(t, r) })
}

// printText says what was erased, and what was not.
func (c *eraseCmd) printText(t *terminal, r operator.EraseResult) error {
	line := fmt.Sprintf("erased %d of %d", r.Erased, r.Found)
	switch {
	case c.DryRun && r.Found > 0:
		line = "dry run: it would erase " + foundIn(r)
	case r.Found == 0:
		line = "nothing is stored of this company"
	case r.Verified:
		line += ", and the last search found nothing"
	}
	if r.Later > 0 {
		line += fmt.Sprintf("; %d came meanwhile", r.Later)
	}
	if _, err := fmt.Fprintln(t.out, line); err != nil {
		return err
	}
	c.notes(t, r)
	return nil
}

// notes says what was left, and why.
func (c *eraseCmd) notes(t *terminal, r operator.EraseResult) {
	if n := len(r.Mentions); n > 0 {
		shown := strings.Join(r.Mentions[:min(n, maxMentionsShown)], ", ")
		fmt.Fprintf(t.err, "left: %s of other companies with this id in it (%s): --mentions erases them, --json names them all\n", plural(n, "message"), printable(shown))
	}
	if r.Encoded > 0 {
		fmt.Fprintf(t.err, "not searched: %s in the quarantine with a compressed body: headgate quarantine list\n", plural(r.Encoded, "message"))
	}
	if len(r.Behind) > 0 {
		fmt.Fprintf(t.err, "not yet erased on servers that are away or behind, which do it when they are back: %s\n", printable(strings.Join(r.Behind, ", ")))
	}
	if !c.DryRun {
		fmt.Fprint(t.err, notReached)
	}
}

// maxMentionsShown is how many mentions are shown for people.
const maxMentionsShown = 10
