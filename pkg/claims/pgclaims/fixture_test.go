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

	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
)

// effects are what handlers write. Only the claims keep an effect from being written twice.
const effects = `
	CREATE TABLE IF NOT EXISTS accounts (id text PRIMARY KEY);
	CREATE TABLE IF NOT EXISTS effects (worker text, id text, account text REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)`

// server is what all tests of the package share; each has a database of its own in it.
var (
	server   *pgtest.Server
	noServer error
)

func TestMain(m *testing.M) {
	if killedHere() {
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

// fixture is a database with claims and effects.
type fixture struct {
	testing.TB
	*pgtest.Server
	pool *pgxpool.Pool // nothing happens to its connections
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	if errors.Is(noServer, pgtest.ErrNotInstalled) {
		t.Skip(noServer)
	}
	if noServer != nil {
		t.Fatal(noServer)
	}
	r := &fixture{TB: t, Server: server.Database(t)}
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

// effects counts the committed effects.
func (r *fixture) effects(worker, id string) (n int) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.pool.QueryRow(ctx, `SELECT count(*) FROM effects WHERE worker = $1 AND id = $2`, worker, id).Scan(&n); err != nil {
		r.Fatal(err)
	}
	return n
}

// faulty is a pool whose connections can be made to fail at a commit.
func (r *fixture) faulty() *pgxpool.Pool { return r.Pool(r.TB, withFaults) }

func withFaults(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &faultyConn{Conn: conn}, nil
	}
}

// fault is what happens to a connection at its next commit.
type fault struct {
	before   func() // before the commit is sent
	sent     func() // when it has been sent
	answered func() // when the server has answered
}

// faultyConn is a connection to the server that can be made to fail.
type faultyConn struct {
	net.Conn
	fault   atomic.Pointer[fault]
	waiting atomic.Bool // for the answer to a commit
}

// commit is the message as it stands on the wire: a query of eleven bytes.
var commit = []byte("Q\x00\x00\x00\x0bcommit\x00")

func (w *faultyConn) Write(p []byte) (int, error) {
	h := w.fault.Load()
	if h == nil || !bytes.Equal(p, commit) {
		return w.Conn.Write(p)
	}
	call(h.before)
	n, err := w.Conn.Write(p)
	w.waiting.Store(true)
	call(h.sent)
	return n, err
}

func (w *faultyConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && w.waiting.CompareAndSwap(true, false) {
		call(w.fault.Load().answered)
	}
	return n, err
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// atCommit arms the connection of a transaction.
func atCommit(tx pgx.Tx, arm func(*faultyConn) fault) {
	w := tx.Conn().PgConn().Conn().(*faultyConn)
	h := arm(w)
	w.fault.Store(&h)
}

// The ways of a connection to die.
var (
	neverArrives = func(w *faultyConn) fault { return fault{before: func() { _ = w.Close() }} }
	answerLost   = func(w *faultyConn) fault { return fault{sent: func() { _ = w.Close() }} }
)

// terminate ends the server's side of a transaction.
func (r *fixture) terminate(tx pgx.Tx) {
	r.Helper()
	pid := tx.Conn().PgConn().PID()
	if _, err := r.pool.Exec(context.Background(), `SELECT pg_terminate_backend($1, 30000)`, int64(pid)); err != nil {
		r.Errorf("pg_terminate_backend: %v", err)
	}
}
