// Package pgclaims keeps a worker's claims in PostgreSQL, beside what its handlers write: a handler that writes through
// Tx commits its effect and the claim's done in one transaction, so that the effect happens exactly once, also when a
// process or a server dies. For a handler that does not call Tx it gives the same guarantees as claims in a KV bucket.
//
// Provision creates the table once. The pool is the caller's and must be large enough: every running handler may hold one
// connection for its transaction. workers.Run refuses a pool that is smaller than the worker's Concurrency and a quarter
// (parked events have slots of their own) plus four for the claims, because handlers would wait for each other.
//
// Through PgBouncer in transaction mode, or another pooler that gives each transaction any of its connections, the pool needs
// default_query_exec_mode=exec in its URL: pgx prepares statements otherwise, which are then on another connection.
package pgclaims

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// tries bounds how often one Take or Save starts again because another process wrote in between.
	tries = 5
	// statementTimeout bounds one statement on the claim's own row: a dead connection that was not closed would otherwise
	// use up the whole lease.
	statementTimeout = 5 * time.Second
	// spareConns is the number of connections for the claims, in addition to one for each handler.
	spareConns = 4
)

//go:embed schema.sql
var schema string

// Provision creates the table headgate_claims in the first schema of the pool's search path, and changes nothing when the
// table exists. Processes may call it at the same time. It returns stream.ErrDrift when the server answers a commit
// before it is durable.
func Provision(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var durable string
		if err := tx.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&durable); err != nil {
			return err
		}
		if durable == "off" {
			return fmt.Errorf("%w: synchronous_commit is off, so a crash of the server would lose effects of events that are acknowledged: set it to on for this role", stream.ErrDrift)
		}
		// Two CREATE TABLE IF NOT EXISTS at once can fail.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('headgate_claims'))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating the table headgate_claims: %w", err)
	}
	return nil
}

// Store keeps the claims of one worker. It implements claims.Store, claims.Binder and claims.CapacityChecker.
type Store struct {
	pool   *pgxpool.Pool
	worker string
	now    func() time.Time
}

// New returns the claims of the worker of that name. now is the clock of the leases; nil means time.Now.
func New(pool *pgxpool.Pool, worker string, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{pool, worker, now}
}

// CheckCapacity implements claims.CapacityChecker: it refuses a pool in which handlers would wait for each other.
func (c *Store) CheckCapacity(handlers int) error {
	have, need := c.pool.Config().MaxConns, handlers+spareConns
	if int(have) >= need {
		return nil
	}
	return fmt.Errorf("the connection pool of worker %s has %d connections and needs %d, one for each of %d handlers (parked events have slots of their own) and %d for claims: set pool_max_conns=%d in the database's URL, or lower --concurrency",
		c.worker, have, need, handlers, spareConns, need)
}

// errRevision means that the row is not at the expected revision.
var errRevision = errors.New("another process wrote the claim in between")

// Take implements claims.Store.
func (c *Store) Take(ctx context.Context, key claims.Key, t claims.TakeRequest) (claims.Claim, error) {
	var err error
	for range tries {
		var claim claims.Claim
		if claim, err = c.take(ctx, key, t); err == nil {
			claim.Session = &session{pool: c.pool, lease: t.Lease}
			return claim, nil
		}
		// After any other error, try again: if only the answer was lost, the record has this Take's owner.
		if errors.Is(err, claims.ErrSettled) || errors.As(err, new(*claims.BusyError)) || ctx.Err() != nil {
			break
		}
	}
	return claims.Claim{}, fmt.Errorf("claim %s: %w", key, err)
}

func (c *Store) take(ctx context.Context, key claims.Key, t claims.TakeRequest) (claims.Claim, error) {
	first := t.First(c.now())
	first.Source = t.Source // sources may share the table
	claim, err := c.insert(ctx, claims.Claim{Key: key, Record: first})
	if !errors.Is(err, errRevision) {
		return claim, err
	}
	claim, _, err = c.read(ctx, c.pool, key, "")
	if err != nil {
		return claim, err
	}
	if claim.Record.Owner == t.Owner {
		claim.Record = t.Again(claim.Record, c.now())
	} else if claim.Record, err = t.Next(claim.Record, c.now()); err != nil {
		return claim, err
	}
	claim.Record.Source = cmp.Or(claim.Record.Source, t.Source) // an early version kept none
	return c.update(ctx, c.pool, claim)
}

// Save implements claims.Store. A Running record is a renewal and does not touch the handler's transaction. Done is written in
// the transaction and commits it. Any other state rolls it back first. After ErrNotCommitted the transaction has ended.
func (c *Store) Save(ctx context.Context, claim claims.Claim) (claims.Claim, error) {
	s, _ := claim.Session.(*session)
	if s == nil || claim.Record.State == claims.Running {
		return c.save(ctx, c.pool, claim)
	}
	tx, begun := s.end()
	switch {
	case begun && claim.Record.State == claims.Done:
		// Never on the pool: done without the effect would lose the event.
		return c.commit(ctx, tx, claim)
	case tx != nil:
		rollback(tx)
	}
	return c.save(ctx, c.pool, claim)
}

// commit writes the record in the handler's transaction and commits both. tx is nil when an earlier commit gave no answer:
// then commit only reads whether it succeeded.
//
// Read committed is enough. The UPDATE takes the row's lock and reads the revision that is committed then. If no other
// process has taken the claim over, one that tries to waits until this transaction has ended and finds done. If another
// process has, the revision differs, no row is updated, and nothing of this transaction is committed.
func (c *Store) commit(ctx context.Context, tx pgx.Tx, claim claims.Claim) (claims.Claim, error) {
	cause := errors.New("the commit gave no answer")
	if tx != nil {
		defer rollback(tx) // does nothing after the commit, and releases the connection in any case
		saved, err := c.save(ctx, tx, claim)
		switch {
		case errors.Is(err, claims.ErrLost):
			return claim, err
		case err != nil: // the commit was not sent
			return claim, fmt.Errorf("claim %s: %w: %w", claim.Key, claims.ErrNotCommitted, err)
		}
		if err = tx.Commit(ctx); err == nil {
			return saved, nil
		}
		cause = err
		rollback(tx)
	}
	// The server may still be committing, on a connection that was lost. It holds the row's lock until the commit has
	// ended, so that a read with this lock sees how it ended.
	switch stored, saved, err := c.readBack(ctx, c.pool, claim, "FOR UPDATE"); {
	case errors.Is(err, claims.ErrLost):
		return claim, err
	case err != nil:
		return claim, fmt.Errorf("claim %s: %w, and its result cannot be read: %w", claim.Key, cause, err)
	case saved:
		return stored, nil
	}
	return claim, fmt.Errorf("claim %s: %w: %w", claim.Key, claims.ErrNotCommitted, cause)
}

// save writes the record if the claim is still held.
func (c *Store) save(ctx context.Context, q querier, claim claims.Claim) (claims.Claim, error) {
	for range tries {
		saved, err := c.update(ctx, q, claim)
		if err == nil {
			return saved, nil
		}
		if !errors.Is(err, errRevision) {
			return claim, fmt.Errorf("claim %s: %w", claim.Key, err)
		}
		switch stored, saved, err := c.readBack(ctx, q, claim, ""); {
		case errors.Is(err, claims.ErrLost):
			return claim, err
		case err != nil:
			return claim, fmt.Errorf("claim %s: %w", claim.Key, err)
		case saved:
			return stored, nil
		default:
			claim.Revision = stored.Revision // an earlier write of this claim arrived, and only its answer was lost
		}
	}
	return claim, fmt.Errorf("claim %s: %w", claim.Key, errRevision)
}

// readBack reads what is stored of a claim that could not be written, or whose write was not answered. It reports whether
// the record was saved, and returns ErrLost when another process holds the claim. Otherwise stored has the newest revision.
func (c *Store) readBack(ctx context.Context, q querier, claim claims.Claim, lock string) (stored claims.Claim, saved bool, err error) {
	stored, value, err := c.read(ctx, q, claim.Key, lock)
	switch {
	case errors.Is(err, claims.ErrNoClaim), err == nil && stored.Record.Owner != claim.Record.Owner:
		return stored, false, claims.ErrLost
	case err != nil:
		return stored, false, err
	}
	stored.Session = claim.Session
	want, err := json.Marshal(claim.Record)
	return stored, bytes.Equal(value, want), err
}

// Get implements claims.Store.
func (c *Store) Get(ctx context.Context, key claims.Key) (claims.Record, error) {
	claim, _, err := c.read(ctx, c.pool, key, "")
	return claim.Record, err
}

// minForgetAge is the shortest time after which claims may be deleted: an event can be delivered again for as long as its
// stream keeps it, and may then wait for its next attempt.
const minForgetAge = stream.DefaultMaxAge + claims.MaxPause

// Forget deletes the worker's claims that were written more than age ago, and returns their number. Call it about once a day.
// An event that is delivered again after its claim was deleted runs again, so age must be longer than the stream keeps
// events plus the longest wait of a parked event. Forget refuses an age below the default of both, 23 days. Use a longer
// one when the stream keeps its events for more than 16 days.
func (c *Store) Forget(ctx context.Context, age time.Duration) (int64, error) {
	if age < minForgetAge {
		return 0, fmt.Errorf("the age of the claims to forget must be at least %[2]s (got %[1]s): a stream keeps events for %[3]s by default, and an event waits up to %[4]s for its next attempt",
			age, minForgetAge, stream.DefaultMaxAge, claims.MaxPause)
	}
	tag, err := c.pool.Exec(ctx, `DELETE FROM headgate_claims WHERE worker = $1 AND updated < $2`, c.worker, c.now().Add(-age))
	if err != nil {
		return 0, fmt.Errorf("forgetting claims of %s: %w", c.worker, explain(err))
	}
	return tag.RowsAffected(), nil
}

// querier is the pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// insert writes the first record of a claim. It returns errRevision when a record exists.
func (c *Store) insert(ctx context.Context, claim claims.Claim) (claims.Claim, error) {
	return c.write(ctx, c.pool, claim, `INSERT INTO headgate_claims (worker, key, updated, record) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING RETURNING revision`)
}

// update is the compare-and-set. It returns errRevision when the revision is not the newest.
func (c *Store) update(ctx context.Context, q querier, claim claims.Claim) (claims.Claim, error) {
	return c.write(ctx, q, claim, `UPDATE headgate_claims SET revision = DEFAULT, updated = $3, record = $4
		WHERE worker = $1 AND key = $2 AND revision = $5 RETURNING revision`, int64(claim.Revision))
}

func (c *Store) write(ctx context.Context, q querier, claim claims.Claim, sql string, more ...any) (claims.Claim, error) {
	value, err := json.Marshal(claim.Record)
	if err != nil {
		return claim, err
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var revision int64
	err = q.QueryRow(ctx, sql, append([]any{c.worker, claim.Key.String(), c.now(), string(value)}, more...)...).Scan(&revision)
	if errors.Is(err, pgx.ErrNoRows) {
		return claim, errRevision
	}
	if err != nil {
		return claim, explain(err)
	}
	claim.Revision = uint64(revision)
	return claim, nil
}

// read returns the claim as it is stored, and its record as it was written.
func (c *Store) read(ctx context.Context, q querier, key claims.Key, lock string) (claims.Claim, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var revision int64
	var value []byte
	err := q.QueryRow(ctx, `SELECT revision, record FROM headgate_claims WHERE worker = $1 AND key = $2 `+lock,
		c.worker, key.String()).Scan(&revision, &value)
	if errors.Is(err, pgx.ErrNoRows) {
		return claims.Claim{}, nil, claims.ErrNoClaim
	}
	if err != nil {
		return claims.Claim{}, nil, explain(err)
	}
	claim := claims.Claim{Key: key, Revision: uint64(revision)}
	if err := json.Unmarshal(value, &claim.Record); err != nil {
		return claims.Claim{}, nil, fmt.Errorf("record of claim %s: %w", key, err)
	}
	return claim, value, nil
}

// explain adds the cure to an error with a known cause. An error that is no answer of the server is ErrUnanswered.
func explain(err error) error {
	var refused *pgconn.PgError
	switch {
	case !errors.As(err, &refused):
		return fmt.Errorf("%w: %w", claims.ErrUnanswered, err)
	case refused.Code == "26000", refused.Code == "42P05": // invalid_sql_statement_name, duplicate_prepared_statement
		return fmt.Errorf("a pooler between this process and PostgreSQL gives each transaction another connection, on which the statement is not prepared: add default_query_exec_mode=exec to the database's URL: %w", err)
	case refused.Code == "42P01": // undefined_table
		return fmt.Errorf("the table headgate_claims is not in the pool's search path: call pgclaims.Provision once: %w", err)
	}
	return err
}
