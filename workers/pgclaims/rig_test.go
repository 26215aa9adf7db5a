package pgclaims_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/workers/pgclaims"
	"github.com/headgate/headgate/workers/pgclaims/pgtest"
)

// effects are what handlers write. Nothing keeps an effect from being there twice but the claims.
const effects = `
	CREATE TABLE IF NOT EXISTS accounts (id text PRIMARY KEY);
	CREATE TABLE IF NOT EXISTS effects (worker text, id text, account text REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)`

// server is what all tests of the package share; each has workers of its own in it.
var (
	server   *pgtest.Server
	noServer error
)

func TestMain(m *testing.M) {
	if doomed() {
		return
	}
	server, noServer = pgtest.Start()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		if noServer == nil {
			if err := server.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		os.Exit(code)
	}))
}

// rig is a database with claims and effects.
type rig struct {
	testing.TB
	*pgtest.Server
	pool *pgxpool.Pool // nothing happens to its connections
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if errors.Is(noServer, pgtest.ErrNotInstalled) {
		t.Skip(noServer)
	}
	if noServer != nil {
		t.Fatal(noServer)
	}
	r := &rig{TB: t, Server: server}
	r.pool = r.Pool(t)
	if err := pgclaims.Provision(context.Background(), r.pool); err != nil {
		t.Fatal(err)
	}
	if _, err := r.pool.Exec(context.Background(), effects); err != nil {
		t.Fatal(err)
	}
	return r
}

// effect writes one effect in a handler's transaction.
func effect(ctx context.Context, worker, id string) (pgx.Tx, error) {
	tx, err := pgclaims.Tx(ctx)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO effects (worker, id) VALUES ($1, $2)`, worker, id)
	return tx, err
}

// effects counts those that are there for all to see.
func (r *rig) effects(worker, id string) (n int) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.pool.QueryRow(ctx, `SELECT count(*) FROM effects WHERE worker = $1 AND id = $2`, worker, id).Scan(&n); err != nil {
		r.Fatal(err)
	}
	return n
}

// faulty is a pool whose connections can be hurt at a commit.
func (r *rig) faulty() *pgxpool.Pool { return r.Pool(r.TB, hurtable) }

func hurtable(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &wire{Conn: conn}, nil
	}
}

// hurt is what happens to a connection at its next commit.
type hurt struct {
	before   func() // before the commit is sent
	sent     func() // when it has been sent
	answered func() // when the server has answered
}

// wire is a connection to the server that can be hurt.
type wire struct {
	net.Conn
	hurt    atomic.Pointer[hurt]
	waiting atomic.Bool // for the answer to a commit
}

// commit is the message as it stands on the wire: a query of eleven bytes.
var commit = []byte("Q\x00\x00\x00\x0bcommit\x00")

func (w *wire) Write(p []byte) (int, error) {
	h := w.hurt.Load()
	if h == nil || !bytes.Equal(p, commit) {
		return w.Conn.Write(p)
	}
	call(h.before)
	n, err := w.Conn.Write(p)
	w.waiting.Store(true)
	call(h.sent)
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && w.waiting.CompareAndSwap(true, false) {
		call(w.hurt.Load().answered)
	}
	return n, err
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// atCommit arms the connection of a transaction.
func atCommit(tx pgx.Tx, arm func(*wire) hurt) {
	w := tx.Conn().PgConn().Conn().(*wire)
	h := arm(w)
	w.hurt.Store(&h)
}

// The ways of a connection to die.
var (
	neverArrives = func(w *wire) hurt { return hurt{before: func() { _ = w.Close() }} }
	answerLost   = func(w *wire) hurt { return hurt{sent: func() { _ = w.Close() }} }
)

// terminate ends the server's side of a transaction.
func (r *rig) terminate(tx pgx.Tx) {
	r.Helper()
	pid := tx.Conn().PgConn().PID()
	if _, err := r.pool.Exec(context.Background(), `SELECT pg_terminate_backend($1, 30000)`, int64(pid)); err != nil {
		r.Errorf("pg_terminate_backend: %v", err)
	}
}
