package pgclaims_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/claimstest"
	"github.com/headgate/headgate/workers/pgclaims"
)

const lease = time.Minute

// holder is what one process has of a worker's claims.
type holder struct {
	*pgclaims.Claims
	owner int
}

func (p *holder) take(t testing.TB, key workers.Key) workers.Claim {
	t.Helper()
	p.owner++
	claim, err := p.Take(context.Background(), key, workers.Taking{Owner: fmt.Sprintf("%p.%d", p, p.owner), Sequence: 7, Lease: lease})
	if err != nil {
		t.Fatalf("Take = %v; want a claim", err)
	}
	return claim
}

func as(claim workers.Claim, s workers.State) workers.Claim {
	claim.Record.State = s
	return claim
}

// What Save of `done` answers must be what became of the effect, whatever happens between the two.
func TestDoneIsTheEffect(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	type moment struct {
		*testing.T
		worker string
		claims *pgclaims.Claims // the process's own
		other  *holder          // another one
		clock  *claimstest.Clock
		claim  workers.Claim
		tx     pgx.Tx
		cancel context.CancelFunc // of the context that Save gets
	}
	tests := []struct {
		name    string
		happens func(m *moment)
		want    error // nil: saved
		effects int
	}{
		{"nothing happens", func(*moment) {}, nil, 1},
		{"the handler commits by itself, which does nothing", func(m *moment) {
			if err := m.tx.Commit(ctx); !errors.Is(err, pgclaims.ErrManaged) {
				m.Errorf("Commit = %v; want ErrManaged", err)
			}
		}, nil, 1},
		{"the handler rolls back by habit, which does nothing", func(m *moment) {
			if err := m.tx.Rollback(ctx); !errors.Is(err, pgclaims.ErrManaged) {
				m.Errorf("Rollback = %v; want ErrManaged", err)
			}
		}, nil, 1},
		{"the handler undoes a part of its own", func(m *moment) {
			part, err := m.tx.Begin(ctx)
			must(m.T, err)
			_, err = part.Exec(ctx, `INSERT INTO effects (worker, id) VALUES ($1, 'msg_1')`, m.worker)
			must(m.T, err)
			must(m.T, part.Rollback(ctx))
		}, nil, 1},
		{"the claim is renewed", func(m *moment) {
			renewed, err := m.claims.Save(ctx, m.claim)
			must(m.T, err)
			m.claim = renewed
		}, nil, 1},
		{"the claim is renewed, and nobody learns it", func(m *moment) {
			renewed := m.claim
			renewed.Record.LeaseUntil = renewed.Record.LeaseUntil.Add(lease)
			_, err := m.claims.Save(ctx, renewed)
			must(m.T, err)
		}, nil, 1},
		{"the server ends the session", func(m *moment) { r.terminate(m.tx) }, workers.ErrUndone, 0},
		{"the server ends the session before the commit", func(m *moment) {
			atCommit(m.tx, func(*wire) hurt { return hurt{before: func() { r.terminate(m.tx) }} })
		}, workers.ErrUndone, 0},
		{"the commit never arrives", func(m *moment) { atCommit(m.tx, neverArrives) }, workers.ErrUndone, 0},
		{"the commit's answer is lost", func(m *moment) { atCommit(m.tx, answerLost) }, nil, 1},
		{"a statement failed, and the handler did not mind", func(m *moment) {
			if _, err := m.tx.Exec(ctx, `SELECT 1/0`); err == nil {
				m.Error("SELECT 1/0 succeeds")
			}
		}, workers.ErrUndone, 0},
		{"a constraint refuses at the commit", func(m *moment) {
			_, err := m.tx.Exec(ctx, `UPDATE effects SET account = 'none' WHERE worker = $1`, m.worker)
			must(m.T, err)
		}, workers.ErrUndone, 0},
		{"the context is cut before", func(m *moment) { m.cancel() }, workers.ErrUndone, 0},
		{"somebody took the claim over", func(m *moment) {
			m.clock.Step(lease + workers.Grace)
			m.other.take(m, m.claim.Key)
		}, workers.ErrLost, 0},
		{"somebody took it over, and failed", func(m *moment) {
			m.clock.Step(lease + workers.Grace)
			_, err := m.other.Save(ctx, as(m.other.take(m, m.claim.Key), workers.Waiting))
			must(m.T, err)
		}, workers.ErrLost, 0},
		{"the claim was forgotten", func(m *moment) {
			m.clock.Step(30 * 24 * time.Hour)
			if n, err := m.other.Forget(ctx, 29*24*time.Hour); n != 1 || err != nil {
				m.Fatalf("Forget = %d, %v; want 1", n, err)
			}
		}, workers.ErrLost, 0},
		{"the claim was forgotten, and begun anew", func(m *moment) {
			m.clock.Step(30 * 24 * time.Hour)
			_, err := m.other.Forget(ctx, 29*24*time.Hour)
			must(m.T, err)
			m.other.take(m, m.claim.Key)
		}, workers.ErrLost, 0},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			worker, clock := fmt.Sprintf("moment-%d", i), &claimstest.Clock{}
			claims := pgclaims.New(r.faulty(), worker, clock.Now)
			p := &holder{Claims: claims}
			key := workers.Key{WebhookID: "msg_1"}
			claim := p.take(t, key)
			tx, err := effect(claims.Bind(ctx, claim), worker, "msg_1")
			must(t, err)
			cut, cancel := context.WithCancel(ctx)
			defer cancel()
			m := &moment{t, worker, claims, &holder{Claims: pgclaims.New(r.pool, worker, clock.Now)}, clock, claim, tx, cancel}
			tt.happens(m)

			saved, err := claims.Save(cut, as(m.claim, workers.Done))
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Save(done) = %v; want %v", err, tt.want)
			}
			if got := r.effects(worker, "msg_1"); got != tt.effects {
				t.Errorf("%d effects; want %d", got, tt.effects)
			}
			switch {
			case err == nil:
				// Saving again what was saved changes nothing.
				if _, err := claims.Save(ctx, as(m.claim, workers.Done)); err != nil {
					t.Errorf("Save(done) again = %v; want it saved", err)
				}
				if _, err := m.other.Take(ctx, key, workers.Taking{Owner: "late", Lease: lease}); !errors.Is(err, workers.ErrSettled) {
					t.Errorf("Take after done = %v; want ErrSettled", err)
				}
			case errors.Is(err, workers.ErrUndone):
				// The claim is still held: the attempt is settled as one that failed.
				if _, err := claims.Save(ctx, as(saved, workers.Waiting)); err != nil {
					t.Errorf("Save(waiting) after it = %v; want it saved", err)
				}
			}
			if _, err := pgclaims.Tx(claims.Bind(ctx, m.claim)); err == nil {
				t.Error("Tx after the attempt = a transaction; want none")
			}
			if n := r.effects(worker, "msg_1"); n != tt.effects {
				t.Errorf("%d effects in the end; want %d", n, tt.effects)
			}
		})
	}
}

// An attempt that did not succeed leaves nothing, however it is settled.
func TestOtherEndsUndoTheEffect(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for _, s := range []workers.State{workers.Waiting, workers.Parked, workers.Burying, workers.Dead} {
		worker := "ends-" + string(s)
		claims := pgclaims.New(r.pool, worker, nil)
		claim := (&holder{Claims: claims}).take(t, workers.Key{WebhookID: "msg_1"})
		tx, err := effect(claims.Bind(ctx, claim), worker, "msg_1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := claims.Save(ctx, as(claim, s)); err != nil {
			t.Errorf("Save(%s) = %v", s, err)
		}
		if _, err := tx.Exec(ctx, `SELECT 1`); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("the transaction after Save(%s) says %v; want it closed", s, err)
		}
		if n := r.effects(worker, "msg_1"); n != 0 {
			t.Errorf("%d effects after Save(%s); want none", n, s)
		}
	}
	if n := r.pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are not given back", n)
	}
}

// A commit that gave no answer, on a database that gives none either, is neither done nor undone before it is known.
func TestUnknownCommitIsAskedFor(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		arm     func(*wire) hurt
		want    error
		effects int
	}{
		{"it arrived", answerLost, nil, 1},
		{"it did not arrive", neverArrives, workers.ErrUndone, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var away atomic.Bool
			pool := r.Pool(t, hurtable, func(c *pgxpool.Config) {
				dial := c.ConnConfig.DialFunc
				c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if away.Load() {
						return nil, errors.New("nobody is there")
					}
					return dial(ctx, network, addr)
				}
				c.MaxConns = 1 // so that none is left when the transaction's is dead
			})
			claims := pgclaims.New(pool, tt.name, nil)
			claim := (&holder{Claims: claims}).take(t, workers.Key{WebhookID: "msg_1"})
			tx, err := effect(claims.Bind(ctx, claim), tt.name, "msg_1")
			if err != nil {
				t.Fatal(err)
			}
			atCommit(tx, func(w *wire) hurt {
				h := tt.arm(w)
				for _, f := range []*func(){&h.before, &h.sent} {
					if die := *f; die != nil {
						*f = func() { away.Store(true); die() }
					}
				}
				return h
			})
			for range 2 {
				if _, err := claims.Save(ctx, as(claim, workers.Done)); err == nil || errors.Is(err, workers.ErrLost) || errors.Is(err, workers.ErrUndone) {
					t.Errorf("Save(done) = %v while nobody can know; want an error that says so", err)
				}
			}
			away.Store(false)
			if _, err := claims.Save(ctx, as(claim, workers.Done)); !errors.Is(err, tt.want) {
				t.Errorf("Save(done) = %v; want %v", err, tt.want)
			}
			if n := r.effects(tt.name, "msg_1"); n != tt.effects {
				t.Errorf("%d effects; want %d", n, tt.effects)
			}
		})
	}
}

// Who takes a claim over while its holder commits waits for the holder's end, and goes by it.
func TestTakeoverDuringCommit(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		end     func(w *wire)
		effects int
	}{
		{"the commit succeeds", func(*wire) {}, 1},
		{"the commit dies", func(w *wire) { _ = w.Close() }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := &claimstest.Clock{}
			claims := pgclaims.New(r.faulty(), tt.name, clock.Now)
			other := pgclaims.New(r.pool, tt.name, clock.Now)
			key := workers.Key{WebhookID: "msg_1"}
			claim := (&holder{Claims: claims}).take(t, key)
			tx, err := effect(claims.Bind(ctx, claim), tt.name, "msg_1")
			if err != nil {
				t.Fatal(err)
			}
			took := make(chan error, 1)
			atCommit(tx, func(w *wire) hurt {
				return hurt{before: func() {
					clock.Step(lease + workers.Grace)
					go func() {
						_, err := other.Take(ctx, key, workers.Taking{Owner: "other", Lease: lease})
						took <- err
					}()
					streamtest.Wait(t, func() bool { return r.waitsForLock(t) }, "the taker to wait for the lock")
					tt.end(w)
				}}
			})
			_, saveErr := claims.Save(ctx, as(claim, workers.Done))
			takeErr := <-took
			if tt.effects == 1 && (saveErr != nil || !errors.Is(takeErr, workers.ErrSettled)) {
				t.Errorf("Save(done) = %v, Take = %v; want it saved and settled", saveErr, takeErr)
			}
			// Whether the holder or the taker gets the lock first when the commit has died is open.
			if tt.effects == 0 && (takeErr != nil || !errors.Is(saveErr, workers.ErrLost) && !errors.Is(saveErr, workers.ErrUndone)) {
				t.Errorf("Save(done) = %v, Take = %v; want it not saved and taken", saveErr, takeErr)
			}
			if n := r.effects(tt.name, "msg_1"); n != tt.effects {
				t.Errorf("%d effects; want %d", n, tt.effects)
			}
		})
	}
}

// waitsForLock reports whether some session waits for another's transaction to end.
func (r *rig) waitsForLock(t testing.TB) bool {
	t.Helper()
	var n int
	err := r.pool.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&n)
	if err != nil {
		t.Error(err)
	}
	return n > 0
}

// A process that was cut off leaves a session that the server still believes in. It must not hold what it locked for
// longer than its attempt could have lasted.
func TestCutOffTransactionEnds(t *testing.T) {
	r := newRig(t)
	claims := pgclaims.New(r.pool, "cut", nil)
	claim, err := claims.Take(context.Background(), workers.Key{WebhookID: "msg_1"}, workers.Taking{Owner: "a", Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	tx, err := effect(claims.Bind(ctx, claim), "cut", "msg_1")
	if err != nil {
		t.Fatal(err)
	}
	pid := int64(tx.Conn().PgConn().PID())
	streamtest.Wait(t, func() bool {
		var n int
		if err := r.pool.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, pid).Scan(&n); err != nil {
			t.Error(err)
		}
		return n == 0
	}, "the server to end the session")
	if _, err := claims.Save(context.Background(), as(claim, workers.Done)); !errors.Is(err, workers.ErrUndone) {
		t.Errorf("Save(done) = %v; want ErrUndone", err)
	}
}

func TestTxOutsideOfAHandler(t *testing.T) {
	if _, err := pgclaims.Tx(context.Background()); err == nil {
		t.Error("Tx without a claim = a transaction; want an error")
	}
}

func TestTxWithoutAConnection(t *testing.T) {
	r := newRig(t)
	pool := r.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
	claims := pgclaims.New(pool, "narrow", nil)
	claim := (&holder{Claims: claims}).take(t, workers.Key{WebhookID: "msg_1"})
	held, err := pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	want := "transaction for the handler (1 of the pool's 1 connections are in use): context deadline exceeded"
	if _, err := pgclaims.Tx(claims.Bind(ctx, claim)); err == nil || err.Error() != want {
		t.Errorf("Tx = %v; want %s", err, want)
	}
}
