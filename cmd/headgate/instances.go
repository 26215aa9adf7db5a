package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/workers"
)

// instances lists the running workers.
type instances struct {
	JSON   bool `name:"json" env:"-" help:"Print JSON."`
	broker `embed:""`
}

// Run lists. A worker that stopped is listed for up to a minute more.
func (c *instances) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	bucket, err := l.KeyValue(ctx, l.source.WorkersBucket())
	if err != nil {
		return fmt.Errorf("bucket %s: %w", l.source.WorkersBucket(), err)
	}
	all, err := bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("bucket %s: %w", l.source.WorkersBucket(), err)
	}
	defer func() { _ = all.Stop() }()
	n := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry := <-all.Updates():
			if entry == nil { // that was all
				if !c.JSON {
					fmt.Fprintln(t.err, plural(n, "running worker"))
				}
				return nil
			}
			n++
			if err := c.print(t, entry); err != nil {
				return err
			}
		}
	}
}

func (c *instances) print(t *terminal, entry jetstream.KeyValueEntry) error {
	var i workers.Instance
	if err := json.Unmarshal(entry.Value(), &i); err != nil {
		return fmt.Errorf("entry %s: %w", entry.Key(), err)
	}
	if c.JSON {
		return printJSON(t.out, i)
	}
	state := "works"
	if !i.Paused.IsZero() {
		state = "pauses since " + when(i.Paused)
	}
	_, err := fmt.Fprintf(t.out, "%-20s  %s  on %s  version %s  %s  seen %s ago\n",
		clean(i.Worker), clean(i.Instance), clean(i.Host), clean(i.Version), state, time.Since(i.Seen).Round(time.Second))
	return err
}
