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

	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/pgclaims"
	"github.com/headgate/headgate/workers/pgclaims/pgtest"
)

// The model of TestModelEveryEventAndRedriveHasOneEnd with claims in PostgreSQL, whose `done` commits with the handler's
// effect: whatever dies when, there is exactly one effect of what is done, and none of what is dead.
func TestModelWithPostgreSQLEveryEffectHappensExactlyOnce(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	d := &database{t: t, sees: server.Pool(t)}
	for i := range d.pools {
		d.pools[i] = server.Pool(t, hurtable)
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
	workers.CheckModel(t, time.Hour, func(t *rapid.T) workers.ModelStore {
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

func (l *ledger) Claims(number int, now func() time.Time) workers.Claims {
	p := &pgProcess{Claims: pgclaims.New(l.pools[number], l.worker, now), TB: l.TB}
	l.processes[number] = p
	return p
}

func (l *ledger) Effect(ctx context.Context, number int, k workers.Key, hurt string) {
	tx, err := pgclaims.Tx(ctx)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO effects (worker, id, redrive) VALUES ($1, $2, $3)`, l.worker, k.WebhookID, k.Redrive); err != nil {
		l.Fatal(err)
	}
	l.processes[number].begun(tx, hurt)
}

func (l *ledger) Effects(k workers.Key) (n int) {
	err := l.sees.QueryRow(context.Background(), `SELECT count(*) FROM effects WHERE worker = $1 AND id = $2 AND redrive = $3`,
		l.worker, k.WebhookID, k.Redrive).Scan(&n)
	if err != nil {
		l.Fatal(err)
	}
	return n
}

func (*ledger) Exact() bool { return true }

func (l *ledger) Died(number int) { l.processes[number].died() }

func (*ledger) Hurts() []string { return []string{"", "", "", neverArrives, answerLost} }

// Check looks whether every attempt, however it ended, has given its connection back.
func (l *ledger) Check() {
	for _, pool := range l.pools {
		streamtest.Wait(l.t, func() bool { return pool.Stat().AcquiredConns() == 0 }, "all connections to be given back")
	}
}

// pgProcess is what one process has of its worker's claims.
type pgProcess struct {
	*pgclaims.Claims
	rapid.TB
	claim workers.Claim // as it was bound to the attempt
	tx    pgx.Tx        // of the attempt that has an effect; nil when that is settled
}

func (p *pgProcess) Bind(ctx context.Context, c workers.Claim) context.Context {
	p.claim, p.tx = c, nil
	return p.Claims.Bind(ctx, c)
}

// begun notes the transaction of an attempt, and what is to happen at its commit.
func (p *pgProcess) begun(tx pgx.Tx, hurt string) {
	p.tx = tx
	wireOf(tx).hurt.Store(&hurt)
}

func (p *pgProcess) Save(ctx context.Context, c workers.Claim) (workers.Claim, error) {
	tx := p.tx
	if c.Record.State != workers.Running {
		p.tx = nil
	}
	saved, err := p.Claims.Save(ctx, c)
	if tx != nil && c.Record.State == workers.Done && err == nil && *wireOf(tx).hurt.Load() != "" {
		p.Fatalf("a commit succeeded that was to be hurt: is it another message on the wire?")
	}
	return saved, err
}

// died breaks the connection of the process's transaction, as its end does, and gives it back to the pool, which lives
// on. Nothing else of the process arrives.
func (p *pgProcess) died() {
	if p.tx == nil {
		return
	}
	_ = wireOf(p.tx).Close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late := p.claim
	late.Record.State = workers.Waiting
	if _, err := p.Claims.Save(ended, late); err == nil {
		p.Fatal("a dead process has saved its claim")
	}
	p.tx = nil
}

// The ways of a connection to die at a commit.
const (
	neverArrives = "the commit never arrives"
	answerLost   = "the commit's answer is lost"
)

// wire is a connection to the server that can die at a commit.
type wire struct {
	net.Conn
	hurt atomic.Pointer[string]
}

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

func wireOf(tx pgx.Tx) *wire { return tx.Conn().PgConn().Conn().(*wire) }

// commit is the message as it stands on the wire: a query of eleven bytes.
var commit = []byte("Q\x00\x00\x00\x0bcommit\x00")

func (w *wire) Write(b []byte) (int, error) {
	h := w.hurt.Load()
	if h == nil || *h == "" || !bytes.Equal(b, commit) {
		return w.Conn.Write(b)
	}
	if *h == neverArrives {
		_ = w.Close()
	}
	n, err := w.Conn.Write(b)
	_ = w.Close()
	w.hurt.Store(new(string))
	return n, err
}
