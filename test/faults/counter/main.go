//go:build faults

// Command counter is a worker whose effect can be counted: each run of its handler appends one line to a file and
// waits for the disk. The line has the handler's answer, so that the file tells how often an event was worked on, and
// with which outcome. With a database it keeps its claims there, and each run writes its effect
// there too, in the claim's own transaction.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

type settings struct {
	workers.Settings `embed:""`

	Effects  string        `name:"effects" required:"" help:"File to which each run appends a line: outcome, webhook-id, attempt, process."`
	Work     time.Duration `name:"work" default:"10ms" help:"How long a run takes: half of it before its line, and half after."`
	AckWait  time.Duration `name:"ack-wait" default:"3s" help:"Lease on an event."`
	Database string        `name:"database" help:"PostgreSQL database of the claims, with a table effects to which each run adds a row of the same as its line."`
}

func main() {
	process.Main("counter", "A worker whose effect can be counted.", new(settings), run)
}

func run(ctx context.Context, s *settings, p *process.Process) error {
	effects, err := os.OpenFile(s.Effects, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer effects.Close()
	w := workers.Worker{
		Name: "counter", Begin: stream.BeginAll(), AckWait: s.AckWait,
		BackoffMin: 200 * time.Millisecond, BackoffMax: time.Second,
		Handlers: []workers.Handler{
			workers.Handle(codat.AnyWriteSuccessful, func(ctx context.Context, e codat.Event[codat.Write]) error {
				if s.Database != "" {
					if err := write(ctx, e); err != nil {
						return err
					}
				}
				return work(ctx, effects, s.Work, e)
			}),
		},
	}
	if s.Database == "" {
		return workers.Run(ctx, s.Settings, p, w, func(context.Context, workers.Parts) (workers.Worker, error) { return w, nil })
	}
	pool, err := pgxpool.New(ctx, s.Database)
	if err != nil {
		return process.Misconfigured(err)
	}
	defer pool.Close()
	w.Claims = pgclaims.New(pool, w.Name, nil)
	return workers.Run(ctx, s.Settings, p, w, func(ctx context.Context, _ workers.Parts) (workers.Worker, error) {
		return w, pgclaims.Provision(ctx, pool)
	})
}

// write writes the effect in the transaction in which the event becomes done.
func write(ctx context.Context, e codat.Event[codat.Write]) error {
	tx, err := pgclaims.Tx(ctx)
	if err != nil {
		return err
	}
	outcome, _ := answer(e)
	_, err = tx.Exec(ctx, `INSERT INTO effects (outcome, id, attempt, pid) VALUES ($1, $2, $3, $4)`, outcome, e.WebhookID, e.Attempt, os.Getpid())
	return err
}

var errFirst = errors.New("a first attempt fails")

// answer returns the outcome that the id asks for.
func answer(e codat.Event[codat.Write]) (outcome string, err error) {
	switch {
	case strings.HasPrefix(e.WebhookID, "msg_dead"):
		return "dead", workers.Permanent(errors.New("it says so itself"))
	case strings.HasPrefix(e.WebhookID, "msg_again") && e.Attempt == 1:
		return "again", errFirst
	case strings.HasPrefix(e.WebhookID, "msg_park") && e.Attempt == 1:
		return "again", workers.RetryAfter(2*time.Second, errFirst)
	}
	return "done", nil
}

// work writes its line in the middle of its time, so that a fault is as likely before as after the effect.
func work(ctx context.Context, effects *os.File, takes time.Duration, e codat.Event[codat.Write]) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(takes / 2):
	}
	outcome, says := answer(e)
	// One write of one line: a process that is killed leaves all of it or nothing.
	if _, err := fmt.Fprintf(effects, "%s %s %d %d\n", outcome, e.WebhookID, e.Attempt, os.Getpid()); err != nil {
		return err
	}
	if err := effects.Sync(); err != nil {
		return err
	}
	<-time.After(takes / 2)
	return says
}
