package pgclaims_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/pgclaims"
)

// worker is one whose attempts are done by act. Its lease is as short as may be, so that a takeover is soon.
func worker(name string, pool *pgxpool.Pool, act func(context.Context, codat.Event[codat.Write]) error) workers.Worker {
	return workers.Worker{
		Name: name, Begin: stream.BeginAll(), Claims: pgclaims.New(pool, name, nil),
		AckWait: time.Second, BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond,
		Handlers: []workers.Handler{workers.Handle(codat.AnyWriteSuccessful, act)},
	}
}

// run runs a worker as its process does, until ctx ends.
func run(ctx context.Context, url string, log *zap.Logger, w workers.Worker) error {
	s := workers.Settings{NATS: stream.NATS{NATSURL: url}, Source: streamtest.Source, Grace: 20 * time.Second}
	return workers.Run(ctx, s, process.New(w.Name, log), w, func(context.Context, workers.Parts) (workers.Worker, error) { return w, nil })
}

// start runs a worker until the test ends.
func start(t testing.TB, url string, w workers.Worker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, url, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)), w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	})
}

func post(t testing.TB, js jetstream.JetStream, id string) {
	t.Helper()
	body := []byte(`{"id":"e","eventType":"invoices.write.successful","payload":{"id":"push","status":"Success"}}`)
	head, err := codat.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := streamtest.Source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := js.PublishMsg(ctx, m); err != nil {
		t.Fatal(err)
	}
}

// waitEnd waits until a worker's event has come to its end, and its delivery is settled.
func (r *rig) waitEnd(t testing.TB, srv *streamtest.Server, worker, id string, want workers.State) {
	t.Helper()
	claims := pgclaims.New(r.pool, worker, nil)
	streamtest.Wait(t, func() bool {
		rec, err := claims.Look(context.Background(), workers.Key{WebhookID: id})
		return err == nil && rec.State == want
	}, fmt.Sprintf("%s of %s to be %s", id, worker, want))
	streamtest.Wait(t, func() bool {
		c, err := srv.JS.Consumer(context.Background(), streamtest.Source.Stream(), worker)
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	}, "the deliveries of "+worker+" to be settled")
}

// Points at which a process is killed, in the order in which it comes by.
const (
	afterClaim   = "after-claim"
	afterEffect  = "after-effect"
	beforeCommit = "before-commit"
	duringCommit = "during-commit"
	afterCommit  = "after-commit"
)

func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // it does not come back from there
}

// doomed reports whether this process is the child of TestPromiseEffectExactlyOnce that kills itself: then it has been a worker
// until it was killed, or until its time was over.
func doomed() bool {
	point := os.Getenv("PGCLAIMS_KILL")
	if point == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	config, err := pgxpool.ParseConfig(os.Getenv("PGCLAIMS_DSN"))
	if err != nil {
		panic(err)
	}
	hurtable(config)
	config.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		panic(err)
	}
	err = run(ctx, os.Getenv("PGCLAIMS_NATS"), zap.NewNop(), worker(point, pool, func(ctx context.Context, e codat.Event[codat.Write]) error {
		if point == afterClaim {
			kill()
		}
		tx, err := effect(ctx, point, e.WebhookID)
		if err != nil {
			return err
		}
		switch point {
		case afterEffect:
			kill()
		case beforeCommit:
			atCommit(tx, func(*wire) hurt { return hurt{before: kill} })
		case duringCommit:
			atCommit(tx, func(*wire) hurt { return hurt{sent: kill} })
		case afterCommit:
			atCommit(tx, func(*wire) hurt { return hurt{answered: kill} })
		}
		return nil
	}))
	fmt.Println("still alive:", err)
	return true
}

// A process is killed with SIGKILL at each point of an attempt; the next one finds the effect or makes it.
func TestPromiseEffectExactlyOnce(t *testing.T) {
	r := newRig(t)
	points := []string{afterClaim, afterEffect, beforeCommit, duringCommit, afterCommit}
	var plans []stream.WorkerPlan
	for _, p := range points {
		plans = append(plans, worker(p, r.pool, func(context.Context, codat.Event[codat.Write]) error { return nil }).Plan())
	}
	srv := streamtest.New(t, plans...)
	post(t, srv.JS, "msg_1") // every worker gets it
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), "PGCLAIMS_KILL="+point, "PGCLAIMS_DSN="+r.DSN, "PGCLAIMS_NATS="+srv.URL)
			child.Dir = filepath.Dir(os.Args[0])
			out, err := child.CombinedOutput()
			if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
				t.Fatalf("the child ended with %v; want it killed\n%s", err, out)
			}
			var runs atomic.Int64
			start(t, srv.URL, worker(point, r.pool, func(ctx context.Context, e codat.Event[codat.Write]) error {
				runs.Add(1)
				_, err := effect(ctx, point, e.WebhookID)
				return err
			}))
			r.waitEnd(t, srv, point, "msg_1", workers.Done)
			if n := r.effects(point, "msg_1"); n != 1 {
				t.Errorf("%d effects; want exactly 1", n)
			}
			// What was committed is not tried again, and what was not is.
			switch n := runs.Load(); {
			case point == afterCommit && n != 0:
				t.Errorf("the handler ran %d times after the commit; want none", n)
			case point != afterCommit && point != duringCommit && n == 0:
				t.Error("the handler did not run again; the effect came from nowhere")
			}
		})
	}
}

// Everything that can go wrong in a process that lives on, under the real runtime.
func TestPromiseEffectExactlyOnceInALivingProcess(t *testing.T) {
	r := newRig(t)
	const name = "living"
	faulty := r.faulty()
	boom := errors.New("boom")
	tests := []struct {
		id    string
		first func(ctx context.Context, tx pgx.Tx, id string) error // what the first attempt does after its effect
		want  workers.State
	}{
		{"it succeeds", func(context.Context, pgx.Tx, string) error { return nil }, workers.Done},
		{"it fails", func(context.Context, pgx.Tx, string) error { return boom }, workers.Done},
		{"it fails for ever", func(context.Context, pgx.Tx, string) error { return workers.Permanent(boom) }, workers.Dead},
		{"it panics", func(context.Context, pgx.Tx, string) error { panic("boom") }, workers.Done},
		{"its statement is cut off", func(ctx context.Context, tx pgx.Tx, _ string) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			_, _ = tx.Exec(ctx, `SELECT pg_sleep(60)`)
			return nil
		}, workers.Done},
		{"its time ends, and it does not mind", func(ctx context.Context, _ pgx.Tx, _ string) error {
			<-ctx.Done()
			return nil
		}, workers.Done},
		{"a statement fails, and it does not mind", func(ctx context.Context, tx pgx.Tx, _ string) error {
			_, _ = tx.Exec(ctx, `SELECT 1/0`)
			return nil
		}, workers.Done},
		{"the server ends the session", func(_ context.Context, tx pgx.Tx, _ string) error {
			r.terminate(tx)
			return nil
		}, workers.Done},
		{"the server ends the session at the commit", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, func(*wire) hurt { return hurt{before: func() { r.terminate(tx) }} })
			return nil
		}, workers.Done},
		{"the commit never arrives", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, neverArrives)
			return nil
		}, workers.Done},
		{"the commit's answer is lost", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, answerLost)
			return nil
		}, workers.Done},
		{"a constraint refuses at the commit", func(ctx context.Context, tx pgx.Tx, id string) error {
			_, err := tx.Exec(ctx, `UPDATE effects SET account = 'none' WHERE worker = $1 AND id = $2`, name, id)
			return err
		}, workers.Done},
		{"it outlasts its lease", func(ctx context.Context, tx pgx.Tx, _ string) error {
			_, err := tx.Exec(ctx, `SELECT pg_sleep(1.5)`)
			return err
		}, workers.Done},
		{"somebody takes it over", func(ctx context.Context, _ pgx.Tx, id string) error {
			// As a process does whose clock is far ahead, and that gives it back.
			thief := pgclaims.New(r.pool, name, func() time.Time { return time.Now().Add(time.Hour) })
			claim, err := thief.Take(ctx, workers.Key{WebhookID: id}, workers.Taking{Owner: "thief", Lease: time.Second})
			if err != nil {
				return err
			}
			_, err = thief.Save(ctx, as(claim, workers.Waiting))
			return err
		}, workers.Done},
	}
	first := map[string]func(context.Context, pgx.Tx, string) error{}
	for _, tt := range tests {
		first[tt.id] = tt.first
	}
	w := worker(name, faulty, func(ctx context.Context, e codat.Event[codat.Write]) error {
		tx, err := effect(ctx, name, e.WebhookID)
		if err != nil || e.Attempt > 1 {
			return err
		}
		return first[e.WebhookID](ctx, tx, e.WebhookID)
	})
	w.Timeout, w.Attempts = 5*time.Second, 100 // a slow machine is no reason to give up
	srv := streamtest.New(t, w.Plan())
	for _, tt := range tests {
		post(t, srv.JS, tt.id)
	}
	start(t, srv.URL, w)
	for _, tt := range tests {
		r.waitEnd(t, srv, name, tt.id, tt.want)
		want := 1
		if tt.want == workers.Dead {
			want = 0
		}
		if n := r.effects(name, tt.id); n != want {
			t.Errorf("%s: %d effects; want exactly %d", tt.id, n, want)
		}
	}
	streamtest.Wait(t, func() bool { return faulty.Stat().AcquiredConns() == 0 }, "all connections to be given back")
}
