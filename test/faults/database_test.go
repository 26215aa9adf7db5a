//go:build faults

package faults

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
)

// A database is a PostgreSQL server with the counter's claims and effects.
type database struct {
	*pgtest.Server
	t    testing.TB
	b    *broker
	pool *pgxpool.Pool // the test's own
}

// newDatabase starts a server. Only the claims prevent a second effect: the table has no constraint.
func newDatabase(b *broker) *database {
	b.t.Helper()
	d := &database{Server: pgtest.New(b.t), t: b.t, b: b}
	d.pool = d.Pool(b.t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := pgclaims.Provision(ctx, d.pool); err != nil {
		b.t.Fatal(err)
	}
	if _, err := d.pool.Exec(ctx, `CREATE TABLE effects (outcome text, id text, attempt int, pid int)`); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// through returns the database for a client with a link of its own, which is cut together with its other links.
func (d *database) through(client string) string {
	d.t.Helper()
	direct, err := pgx.ParseConfig(d.DSN)
	if err != nil {
		d.t.Fatal(err)
	}
	near := d.b.link(client, "postgres", "unix", filepath.Join(direct.Host, fmt.Sprintf(".s.PGSQL.%d", direct.Port)))
	host, port, err := net.SplitHostPort(near)
	if err != nil {
		d.t.Fatal(err)
	}
	// A connection for each handler, and four for the claims.
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable pool_max_conns=%d", host, port, direct.User, direct.Database, slots+4)
}

func (d *database) claims() *pgclaims.Store { return pgclaims.New(d.pool, "counter", nil) }

// effects returns the committed effects.
func (d *database) effects() []effect {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rows, err := d.pool.Query(ctx, `SELECT outcome, id, attempt, pid FROM effects`)
	if err != nil {
		d.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.outcome, &e.id, &e.attempt, &e.pid)
		return e, err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// endSessions ends the sessions of all workers and returns their number.
func (d *database) endSessions() (ended int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.pool.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&ended); err != nil {
		d.t.Fatal(err)
	}
	return ended
}
