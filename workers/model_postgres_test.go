package workers_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

// The model of TestModel_EveryEventAndRedriveIsSettledOnce with claims in PostgreSQL, whose `done` commits with the handler's
// effect: whatever dies when, there is exactly one effect of what is done, and none of what is dead.
func TestModelPostgreSQL_EveryEffectHappensExactlyOnce(t *testing.T) { checkPostgreSQL(t, 5) }

// checkPostgreSQL runs the model in one of n of rapid's checks.
func checkPostgreSQL(t *testing.T, n int) {
	t.Parallel()
	server := pgtest.New(t)
	d := &database{t: t, sees: server.Pool(t)}
	for i := range d.pools {
		d.pools[i] = server.Pool(t, withCommitFaults)
	}
	ctx := context.Background()
	if err := pgclaims.Provision(ctx, d.sees); err != nil {
		t.Fatal(err)
	}
	// Nothing keeps an effect from being there twice but the claims.
	if _, err := d.sees.Exec(ctx, `CREATE TABLE effects (worker text, id text, redrive text)`); err != nil {
		t.Fatal(err)
	}
	checks := 0
	workers.CheckModel(t, time.Hour, n, func(t *rapid.T) workers.ModelStore {
		checks++ // the claims of one worker are an empty store to another
		l := &ledger{TB: t, database: d, worker: fmt.Sprintf("model-%d", checks)}
		t.Cleanup(func() { // a check that fails may end within an attempt
			for number := range l.processes {
				l.Died(number)
			}
		})
		return l
	})
}

// database is what all checks share. Each process has a pool of its own, so that nothing is left of it when it dies.
type database struct {
	t     *testing.T
	sees  *pgxpool.Pool // nothing happens to its connections
	pools [2]*pgxpool.Pool
}

// ledger is the database as one check sees it.
type ledger struct {
	rapid.TB
	*database
	worker    string
	processes [2]*pgProcess
}

func (l *ledger) Claims(number int, now func() time.Time) claims.Store {
	p := &pgProcess{Store: pgclaims.New(l.pools[number], l.worker, now), TB: l.TB}
	l.processes[number] = p
	return p
}

func (l *ledger) Effect(ctx context.Context, number int, k claims.Key, fault string) {
	tx, err := pgclaims.Tx(ctx)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO effects (worker, id, redrive) VALUES ($1, $2, $3)`, l.worker, k.WebhookID, k.Redrive); err != nil {
		l.Fatal(err)
	}
	l.processes[number].begun(tx, fault)
}

func (l *ledger) Effects(k claims.Key) (n int) {
	err := l.sees.QueryRow(context.Background(), `SELECT count(*) FROM effects WHERE worker = $1 AND id = $2 AND redrive = $3`,
		l.worker, k.WebhookID, k.Redrive).Scan(&n)
	if err != nil {
		l.Fatal(err)
	}
	return n
}

func (*ledger) Exact() bool { return true }

func (l *ledger) Died(number int) { l.processes[number].died() }

func (*ledger) EffectFaults() []string { return []string{"", "", "", neverArrives, answerLost} }

// Check looks whether every attempt, however it ended, has given its connection back.
func (l *ledger) Check() {
	for _, pool := range l.pools {
		streamtest.Wait(l.t, func() bool { return pool.Stat().AcquiredConns() == 0 }, "all connections to be given back")
	}
}

// pgProcess is what one process has of its worker's claims.
type pgProcess struct {
	*pgclaims.Store
	rapid.TB
	claim claims.Claim // as it was bound to the attempt
	tx    pgx.Tx       // of the attempt that has an effect; nil when that is settled
}

func (p *pgProcess) Bind(ctx context.Context, c claims.Claim) context.Context {
	p.claim, p.tx = c, nil
	return p.Store.Bind(ctx, c)
}

// begun notes the transaction of an attempt, and what is to happen at its commit.
func (p *pgProcess) begun(tx pgx.Tx, fault string) {
	p.tx = tx
	connOf(tx).fault.Store(&fault)
}

func (p *pgProcess) Save(ctx context.Context, c claims.Claim) (claims.Claim, error) {
	tx := p.tx
	if c.Record.State != claims.Running {
		p.tx = nil
	}
	saved, err := p.Store.Save(ctx, c)
	if tx != nil && c.Record.State == claims.Done && err == nil && *connOf(tx).fault.Load() != "" {
		p.Fatalf("a commit succeeded that was to fail: is the commit another message now?")
	}
	return saved, err
}

// died breaks the connection of the process's transaction, as its end does, and gives it back to the pool, which lives
// on. Nothing else of the process arrives.
func (p *pgProcess) died() {
	if p.tx == nil {
		return
	}
	_ = connOf(p.tx).Close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late := p.claim
	late.Record.State = claims.Waiting
	if _, err := p.Store.Save(ended, late); err == nil {
		p.Fatal("a dead process has saved its claim")
	}
	p.tx = nil
}

// The ways of a connection to die at a commit.
const (
	neverArrives = "the commit never arrives"
	answerLost   = "the commit's answer is lost"
)

// faultyConn is a connection to the server that can die at a commit.
type faultyConn struct {
	net.Conn
	fault atomic.Pointer[string]
}

func withCommitFaults(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &faultyConn{Conn: conn}, nil
	}
}

func connOf(tx pgx.Tx) *faultyConn { return tx.Conn().PgConn().Conn().(*faultyConn) }

// commit is the message as it stands on the wire: a query of eleven bytes.
var commit = []byte("Q\x00\x00\x00\x0bcommit\x00")

func (w *faultyConn) Write(b []byte) (int, error) {
	h := w.fault.Load()
	if h == nil || *h == "" || !bytes.Equal(b, commit) {
		return w.Conn.Write(b)
	}
	if *h == neverArrives {
		_ = w.Close()
	}
	n, err := w.Conn.Write(b)
	_ = w.Close()
	w.fault.Store(new(string))
	return n, err
}
