package pgclaims_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
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
func (r *fixture) waitEnd(t testing.TB, srv *streamtest.Server, worker, id string, want claims.State) {
	t.Helper()
	r.waitState(t, worker, id, want)
	r.waitSettled(t, srv, worker)
}

// waitState waits for the state of an event's claim.
func (r *fixture) waitState(t testing.TB, worker, id string, want claims.State) {
	t.Helper()
	store := pgclaims.New(r.pool, worker, nil)
	streamtest.Wait(t, func() bool {
		rec, err := store.Get(context.Background(), claims.Key{WebhookID: id})
		return err == nil && rec.State == want
	}, fmt.Sprintf("%s of %s to be %s", id, worker, want))
}

// waitSettled waits until the worker has acknowledged every event.
func (r *fixture) waitSettled(t testing.TB, srv *streamtest.Server, worker string) {
	t.Helper()
	streamtest.WaitSettled(t, srv.JS, streamtest.Source.Stream(), worker)
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

// killedHere reports whether this process is the child of TestPromise5_EffectExactlyOnce that kills itself: then it has been a worker
// until it was killed, or until its time was over.
func killedHere() bool {
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
	withFaults(config)
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
			atCommit(tx, func(*faultyConn) fault { return fault{before: kill} })
		case duringCommit:
			atCommit(tx, func(*faultyConn) fault { return fault{sent: kill} })
		case afterCommit:
			atCommit(tx, func(*faultyConn) fault { return fault{answered: kill} })
		}
		return nil
	}))
	fmt.Println("still alive:", err)
	return true
}

// Everything that can go wrong in a process that lives on, under the real runtime.
func TestPromise5_EffectExactlyOnceInALivingProcess(t *testing.T) {
	r := newFixture(t)
	const name = "living"
	faulty := r.faulty()
	boom := errors.New("boom")
	tests := []struct {
		id    string
		first func(ctx context.Context, tx pgx.Tx, id string) error // what the first attempt does after its effect
		want  claims.State
	}{
		{"it succeeds", func(context.Context, pgx.Tx, string) error { return nil }, claims.Done},
		{"it fails", func(context.Context, pgx.Tx, string) error { return boom }, claims.Done},
		{"it fails for ever", func(context.Context, pgx.Tx, string) error { return workers.Permanent(boom) }, claims.Dead},
		{"it panics", func(context.Context, pgx.Tx, string) error { panic("boom") }, claims.Done},
		{"its statement is cut off", func(ctx context.Context, tx pgx.Tx, _ string) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			_, _ = tx.Exec(ctx, `SELECT pg_sleep(60)`)
			return nil
		}, claims.Done},
		{"its time ends, and it does not mind", func(ctx context.Context, _ pgx.Tx, _ string) error {
			<-ctx.Done()
			return nil
		}, claims.Done},
		{"a statement fails, and it does not mind", func(ctx context.Context, tx pgx.Tx, _ string) error {
			_, _ = tx.Exec(ctx, `SELECT 1/0`)
			return nil
		}, claims.Done},
		{"the server ends the session", func(_ context.Context, tx pgx.Tx, _ string) error {
			r.terminate(tx)
			return nil
		}, claims.Done},
		{"the server ends the session at the commit", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, func(*faultyConn) fault { return fault{before: func() { r.terminate(tx) }} })
			return nil
		}, claims.Done},
		{"the commit never arrives", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, neverArrives)
			return nil
		}, claims.Done},
		{"the commit's answer is lost", func(_ context.Context, tx pgx.Tx, _ string) error {
			atCommit(tx, answerLost)
			return nil
		}, claims.Done},
		{"a constraint refuses at the commit", func(ctx context.Context, tx pgx.Tx, id string) error {
			_, err := tx.Exec(ctx, `UPDATE effects SET account = 'none' WHERE worker = $1 AND id = $2`, name, id)
			return err
		}, claims.Done},
		{"it outlasts its lease", func(ctx context.Context, tx pgx.Tx, _ string) error {
			_, err := tx.Exec(ctx, `SELECT pg_sleep(1.5)`)
			return err
		}, claims.Done},
		{"another process takes it over", func(ctx context.Context, _ pgx.Tx, id string) error {
			// As a process does whose clock is far ahead, and that gives it back.
			other := pgclaims.New(r.pool, name, func() time.Time { return time.Now().Add(time.Hour) })
			claim, err := other.Take(ctx, claims.Key{WebhookID: id}, claims.TakeRequest{Owner: "other-process", Lease: time.Second})
			if err != nil {
				return err
			}
			_, err = other.Save(ctx, as(claim, claims.Waiting))
			return err
		}, claims.Done},
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
	w.Timeout, w.Attempts = 2*time.Second, 100 // on a slow machine, attempts may time out
	srv := streamtest.New(t, w.Spec())
	for _, tt := range tests {
		post(t, srv.JS, tt.id)
	}
	start(t, srv.URL, w)
	for _, tt := range tests { // each has the deadline for itself
		r.waitState(t, name, tt.id, tt.want)
	}
	r.waitSettled(t, srv, name)
	for _, tt := range tests {
		want := 1
		if tt.want == claims.Dead {
			want = 0
		}
		if n := r.effects(name, tt.id); n != want {
			t.Errorf("%s: %d effects; want exactly %d", tt.id, n, want)
		}
	}
	streamtest.Wait(t, func() bool { return faulty.Stat().AcquiredConns() == 0 }, "all connections to be given back")
}
