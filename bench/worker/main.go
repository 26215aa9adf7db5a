// Command worker is a worker whose handler does nothing, so that it measures the cost of the runtime. With --claims none it
// is a plain loop without the runtime, with which the benchmark compares it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

func main() { process.Main("worker", "A worker whose handler does nothing.", new(Settings), Run) }

// Settings choose the worker's name and its claims.
type Settings struct {
	workers.Settings

	Name    string `name:"name" required:"" help:"Name of the worker."`
	Type    string `name:"type" required:"" help:"Type of the events that it takes."`
	Claims  string `name:"claims" default:"kv" enum:"none,kv,pg" help:"What remembers an id: nothing, a KV bucket, or a table in PostgreSQL."`
	DSN     string `name:"dsn" help:"Where PostgreSQL is."`
	Ordered bool   `name:"ordered" help:"Handle one event at a time, in the order in which they were stored."`
	Out     string `name:"out" help:"File for the times from when an event came to when its handler began, in nanoseconds, as JSON; written at the end."`
}

// Run handles events until ctx ends.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	var times times
	run := s.runtime
	if s.Claims == "none" {
		run = s.loop
	}
	if err := run(ctx, p, &times); err != nil || s.Out == "" {
		return err
	}
	text, err := json.Marshal(times.all)
	if err != nil {
		return err
	}
	return os.WriteFile(s.Out, text, 0o600)
}

// times are the times from the arrival of an event to the start of its handler.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (t *times) began(received time.Time) {
	took := time.Since(received)
	t.mu.Lock()
	t.all = append(t.all, took)
	t.mu.Unlock()
}

func (s *Settings) runtime(ctx context.Context, p *process.Process, t *times) error {
	worker := workers.Worker{
		Name: s.Name, Ordered: s.Ordered,
		Handlers: []workers.Handler{workers.Handle(codat.Name[codat.Write](s.Type), func(ctx context.Context, e codat.Event[codat.Write]) error {
			t.began(e.Received)
			if s.Claims != "pg" {
				return nil
			}
			_, err := pgclaims.Tx(ctx) // what the handler would write commits with the claim
			return err
		})},
		Begin: stream.BeginAll(),
	}
	if s.Claims == "pg" {
		config, err := pgxpool.ParseConfig(s.DSN)
		if err != nil {
			return err
		}
		config.MaxConns = int32(s.Concurrency + s.Concurrency/4 + 4)
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return err
		}
		defer pool.Close()
		if err := pgclaims.Provision(ctx, pool); err != nil {
			return err
		}
		worker.Claims = pgclaims.New(pool, s.Name, nil)
	}
	return workers.Run(ctx, s.Settings, p, worker, func(context.Context, workers.Parts) (workers.Worker, error) { return worker, nil })
}

// loop takes as many events at once as the worker and acks them.
func (s *Settings) loop(ctx context.Context, p *process.Process, t *times) error {
	nc, err := stream.Connect(ctx, s.NATS, s.Name, p.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := stream.Connected(ctx, nc); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, s.Source.Stream(), s.Name)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", s.Name, err)
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	p.Health.Add("broker", func(context.Context) error { return nil })
	free := make(chan struct{}, s.Concurrency)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		m, err := msgs.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			received, _ := time.Parse(time.RFC3339Nano, m.Headers().Get("ce-receivedtime"))
			t.began(received)
			_ = m.Ack() // it would come again
		})
	}
}
