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

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/claimstest"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const lease = time.Minute

// holder is what one process has of a worker's claims.
type holder struct {
	*pgclaims.Store
	owner int
}

func (p *holder) take(t testing.TB, key claims.Key) claims.Claim {
	t.Helper()
	p.owner++
	claim, err := p.Take(context.Background(), key, claims.TakeRequest{Owner: fmt.Sprintf("%p.%d", p, p.owner), Sequence: 7, Lease: lease})
	if err != nil {
		t.Fatalf("Take = %v; want a claim", err)
	}
	return claim
}

func as(claim claims.Claim, s claims.State) claims.Claim {
	claim.Record.State = s
	return claim
}

// What Save of `done` answers must be what became of the effect, whatever happens between the two.
func TestTx_CommitsWithDone(t *testing.T) {
	r := newFixture(t)
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
		store  *pgclaims.Store // the process's own
		other  *holder         // another one
		clock  *claimstest.Clock
		claim  claims.Claim
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
			renewed, err := m.store.Save(ctx, m.claim)
			must(m.T, err)
			m.claim = renewed
		}, nil, 1},
		{"the claim is renewed, and the answer is lost", func(m *moment) {
			renewed := m.claim
			renewed.Record.LeaseUntil = renewed.Record.LeaseUntil.Add(lease)
			_, err := m.store.Save(ctx, renewed)
			must(m.T, err)
		}, nil, 1},
		{"the server ends the session", func(m *moment) { r.terminate(m.tx) }, claims.ErrNotCommitted, 0},
		{"the server ends the session before the commit", func(m *moment) {
			atCommit(m.tx, func(*faultyConn) fault { return fault{before: func() { r.terminate(m.tx) }} })
		}, claims.ErrNotCommitted, 0},
		{"the commit never arrives", func(m *moment) { atCommit(m.tx, neverArrives) }, claims.ErrNotCommitted, 0},
		{"the commit's answer is lost", func(m *moment) { atCommit(m.tx, answerLost) }, nil, 1},
		{"a statement failed, and the handler did not mind", func(m *moment) {
			if _, err := m.tx.Exec(ctx, `SELECT 1/0`); err == nil {
				m.Error("SELECT 1/0 succeeds")
			}
		}, claims.ErrNotCommitted, 0},
		{"a constraint refuses at the commit", func(m *moment) {
			_, err := m.tx.Exec(ctx, `UPDATE effects SET account = 'none' WHERE worker = $1`, m.worker)
			must(m.T, err)
		}, claims.ErrNotCommitted, 0},
		{"the context is cut before", func(m *moment) { m.cancel() }, claims.ErrNotCommitted, 0},
		{"another process took the claim over", func(m *moment) {
			m.clock.Step(lease + claims.ClockSkew)
			m.other.take(m, m.claim.Key)
		}, claims.ErrLost, 0},
		{"another process took it over, and failed", func(m *moment) {
			m.clock.Step(lease + claims.ClockSkew)
			_, err := m.other.Save(ctx, as(m.other.take(m, m.claim.Key), claims.Waiting))
			must(m.T, err)
		}, claims.ErrLost, 0},
		{"the claim was forgotten", func(m *moment) {
			m.clock.Step(30 * 24 * time.Hour)
			if n, err := m.other.Forget(ctx, 29*24*time.Hour); n != 1 || err != nil {
				m.Fatalf("Forget = %d, %v; want 1", n, err)
			}
		}, claims.ErrLost, 0},
		{"the claim was forgotten, and begun anew", func(m *moment) {
			m.clock.Step(30 * 24 * time.Hour)
			_, err := m.other.Forget(ctx, 29*24*time.Hour)
			must(m.T, err)
			m.other.take(m, m.claim.Key)
		}, claims.ErrLost, 0},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			worker, clock := fmt.Sprintf("moment-%d", i), &claimstest.Clock{}
			store := pgclaims.New(r.faulty(), worker, clock.Now)
			p := &holder{Store: store}
			key := claims.Key{WebhookID: "msg_1"}
			claim := p.take(t, key)
			tx, err := effect(store.Bind(ctx, claim), worker, "msg_1")
			must(t, err)
			cut, cancel := context.WithCancel(ctx)
			defer cancel()
			m := &moment{t, worker, store, &holder{Store: pgclaims.New(r.pool, worker, clock.Now)}, clock, claim, tx, cancel}
			tt.happens(m)

			saved, err := store.Save(cut, as(m.claim, claims.Done))
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Save(done) = %v; want %v", err, tt.want)
			}
			if got := r.effects(worker, "msg_1"); got != tt.effects {
				t.Errorf("%d effects; want %d", got, tt.effects)
			}
			switch {
			case err == nil:
				// Saving again what was saved changes nothing.
				if _, err := store.Save(ctx, as(m.claim, claims.Done)); err != nil {
					t.Errorf("Save(done) again = %v; want it saved", err)
				}
				if _, err := m.other.Take(ctx, key, claims.TakeRequest{Owner: "late", Lease: lease}); !errors.Is(err, claims.ErrSettled) {
					t.Errorf("Take after done = %v; want ErrSettled", err)
				}
			case errors.Is(err, claims.ErrNotCommitted):
				// The claim is still held: the attempt is settled as one that failed.
				if _, err := store.Save(ctx, as(saved, claims.Waiting)); err != nil {
					t.Errorf("Save(waiting) after it = %v; want it saved", err)
				}
			}
			if _, err := pgclaims.Tx(store.Bind(ctx, m.claim)); err == nil {
				t.Error("Tx after the attempt = a transaction; want none")
			}
			if n := r.effects(worker, "msg_1"); n != tt.effects {
				t.Errorf("%d effects in the end; want %d", n, tt.effects)
			}
		})
	}
}

// An attempt that did not succeed leaves nothing, however it is settled.
func TestTx_RollsBackUnlessDone(t *testing.T) {
	r := newFixture(t)
	ctx := context.Background()
	for _, s := range []claims.State{claims.Waiting, claims.Parked, claims.Burying, claims.Dead} {
		worker := "ends-" + string(s)
		store := pgclaims.New(r.pool, worker, nil)
		claim := (&holder{Store: store}).take(t, claims.Key{WebhookID: "msg_1"})
		tx, err := effect(store.Bind(ctx, claim), worker, "msg_1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Save(ctx, as(claim, s)); err != nil {
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
func TestSave_ReadsTheResultOfAnUnansweredCommit(t *testing.T) {
	r := newFixture(t)
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		arm     func(*faultyConn) fault
		want    error
		effects int
	}{
		{"it arrived", answerLost, nil, 1},
		{"it did not arrive", neverArrives, claims.ErrNotCommitted, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var away atomic.Bool
			pool := r.Pool(t, withFaults, func(c *pgxpool.Config) {
				dial := c.ConnConfig.DialFunc
				c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if away.Load() {
						return nil, errors.New("no server")
					}
					return dial(ctx, network, addr)
				}
				c.MaxConns = 1 // so that none is left when the transaction's is dead
			})
			store := pgclaims.New(pool, tt.name, nil)
			claim := (&holder{Store: store}).take(t, claims.Key{WebhookID: "msg_1"})
			tx, err := effect(store.Bind(ctx, claim), tt.name, "msg_1")
			if err != nil {
				t.Fatal(err)
			}
			atCommit(tx, func(w *faultyConn) fault {
				h := tt.arm(w)
				for _, f := range []*func(){&h.before, &h.sent} {
					if die := *f; die != nil {
						*f = func() { away.Store(true); die() }
					}
				}
				return h
			})
			for range 2 {
				if _, err := store.Save(ctx, as(claim, claims.Done)); err == nil || errors.Is(err, claims.ErrLost) || errors.Is(err, claims.ErrNotCommitted) {
					t.Errorf("Save(done) = %v while the outcome is unknown; want an error that says so", err)
				}
			}
			away.Store(false)
			if _, err := store.Save(ctx, as(claim, claims.Done)); !errors.Is(err, tt.want) {
				t.Errorf("Save(done) = %v; want %v", err, tt.want)
			}
			if n := r.effects(tt.name, "msg_1"); n != tt.effects {
				t.Errorf("%d effects; want %d", n, tt.effects)
			}
		})
	}
}

// Who takes a claim over while its holder commits waits for the holder's end, and goes by it.
func TestSave_TakeoverDuringCommit(t *testing.T) {
	r := newFixture(t)
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		end     func(w *faultyConn)
		effects int
	}{
		{"the commit succeeds", func(*faultyConn) {}, 1},
		{"the commit dies", func(w *faultyConn) { _ = w.Close() }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := &claimstest.Clock{}
			store := pgclaims.New(r.faulty(), tt.name, clock.Now)
			other := pgclaims.New(r.pool, tt.name, clock.Now)
			key := claims.Key{WebhookID: "msg_1"}
			claim := (&holder{Store: store}).take(t, key)
			tx, err := effect(store.Bind(ctx, claim), tt.name, "msg_1")
			if err != nil {
				t.Fatal(err)
			}
			took := make(chan error, 1)
			atCommit(tx, func(w *faultyConn) fault {
				return fault{before: func() {
					clock.Step(lease + claims.ClockSkew)
					go func() {
						_, err := other.Take(ctx, key, claims.TakeRequest{Owner: "other", Lease: lease})
						took <- err
					}()
					streamtest.Wait(t, func() bool { return r.waitsForLock(t) }, "the taker to wait for the lock")
					tt.end(w)
				}}
			})
			_, saveErr := store.Save(ctx, as(claim, claims.Done))
			takeErr := <-took
			if tt.effects == 1 && (saveErr != nil || !errors.Is(takeErr, claims.ErrSettled)) {
				t.Errorf("Save(done) = %v, Take = %v; want it saved and settled", saveErr, takeErr)
			}
			// Whether the holder or the taker gets the lock first when the commit has died is open.
			if tt.effects == 0 && (takeErr != nil || !errors.Is(saveErr, claims.ErrLost) && !errors.Is(saveErr, claims.ErrNotCommitted)) {
				t.Errorf("Save(done) = %v, Take = %v; want it not saved and taken", saveErr, takeErr)
			}
			if n := r.effects(tt.name, "msg_1"); n != tt.effects {
				t.Errorf("%d effects; want %d", n, tt.effects)
			}
		})
	}
}

// waitsForLock reports whether some session waits for another's transaction to end.
func (r *fixture) waitsForLock(t testing.TB) bool {
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
func TestTx_EndsWhenItsProcessIsCutOff(t *testing.T) {
	r := newFixture(t)
	store := pgclaims.New(r.pool, "cut", nil)
	claim, err := store.Take(context.Background(), claims.Key{WebhookID: "msg_1"}, claims.TakeRequest{Owner: "a", Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	tx, err := effect(store.Bind(ctx, claim), "cut", "msg_1")
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
	if _, err := store.Save(context.Background(), as(claim, claims.Done)); !errors.Is(err, claims.ErrNotCommitted) {
		t.Errorf("Save(done) = %v; want ErrUndone", err)
	}
}

func TestTx_OutsideOfAHandler(t *testing.T) {
	if _, err := pgclaims.Tx(context.Background()); err == nil {
		t.Error("Tx without a claim = a transaction; want an error")
	}
}

func TestTx_WithoutAConnection(t *testing.T) {
	r := newFixture(t)
	pool := r.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
	store := pgclaims.New(pool, "narrow", nil)
	claim := (&holder{Store: store}).take(t, claims.Key{WebhookID: "msg_1"})
	held, err := pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	want := "transaction for the handler (1 of the pool's 1 connections are in use): context deadline exceeded"
	if _, err := pgclaims.Tx(store.Bind(ctx, claim)); err == nil || err.Error() != want {
		t.Errorf("Tx = %v; want %s", err, want)
	}
}
