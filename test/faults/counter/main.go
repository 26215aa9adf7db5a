//go:build faults

// Command counter is a worker whose effect can be counted: each run of its handler appends one line to a file and
// waits for the disk. What the line says is what the handler answers, so that whoever reads the file knows how often
// an event was worked on, and what came of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

type settings struct {
	workers.Settings `embed:""`

	Effects string        `name:"effects" required:"" help:"File to which each run appends a line: outcome, webhook-id, attempt, process."`
	Work    time.Duration `name:"work" default:"10ms" help:"How long a run takes before its effect."`
	AckWait time.Duration `name:"ack-wait" default:"3s" help:"Lease on an event."`
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
				return work(ctx, effects, s.Work, e)
			}),
		},
	}
	return workers.Run(ctx, s.Settings, p, w, func(context.Context, workers.Parts) (workers.Worker, error) { return w, nil })
}

var errFirst = errors.New("a first attempt fails")

// work takes its time, leaves its effect, and answers what the id asks for.
func work(ctx context.Context, effects *os.File, takes time.Duration, e codat.Event[codat.Write]) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(takes):
	}
	outcome, answer := "done", error(nil)
	switch {
	case strings.HasPrefix(e.WebhookID, "msg_dead"):
		outcome, answer = "dead", workers.Permanent(errors.New("it says so itself"))
	case strings.HasPrefix(e.WebhookID, "msg_again") && e.Attempt == 1:
		outcome, answer = "again", errFirst
	case strings.HasPrefix(e.WebhookID, "msg_park") && e.Attempt == 1:
		outcome, answer = "again", workers.RetryAfter(2*time.Second, errFirst)
	}
	// One write of one line: a process that is killed leaves all of it or nothing.
	if _, err := fmt.Fprintf(effects, "%s %s %d %d\n", outcome, e.WebhookID, e.Attempt, os.Getpid()); err != nil {
		return err
	}
	if err := effects.Sync(); err != nil {
		return err
	}
	return answer
}
