// Package pgclaims keeps a worker's claims in PostgreSQL, beside what its handlers write: a handler that writes through
// Tx commits its effect and its claim's `done` in one transaction, so that the effect happens exactly once, whatever
// dies when. A handler that does not call Tx gets what claims in a KV bucket give.
//
// The table is made once, by Provision. The pool stays the caller's, and must be large enough: every handler that runs
// may hold one connection for its transaction, so a pool smaller than the worker's Concurrency and a quarter (parked
// events have slots of their own) plus four for the claims themselves would make handlers wait for each other, and
// workers.Run refuses it.
package pgclaims

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

const (
	// tries bounds how often one Take or Save begins again because somebody else wrote in between.
	tries = 5
	// patience bounds one statement on the claim's own row: a connection that is dead without having said so would
	// take the whole lease.
	patience = 5 * time.Second
	// spare is how many of the pool's connections are for the claims, beside one for each handler.
	spare = 4
)

//go:embed schema.sql
var schema string

// Provision makes the table headgate_claims in the first schema of the pool's search path, and changes nothing when it
// is there. Processes may call it at the same time. It is refused (stream.ErrRefused) where a commit is answered before it
// is durable.
func Provision(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var durable string
		if err := tx.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&durable); err != nil {
			return err
		}
		if durable == "off" {
			return fmt.Errorf("%w: synchronous_commit is off, and a crash of the server would lose effects whose events are gone: set it to on for this role", stream.ErrRefused)
		}
		// Two CREATE TABLE IF NOT EXISTS at once can fail.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('headgate_claims'))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("provisioning the table headgate_claims: %w", err)
	}
	return nil
}

// Claims are one worker's. They implement workers.Claims, workers.Binder and workers.Sized.
type Claims struct {
	pool   *pgxpool.Pool
	worker string
	now    func() time.Time
}

// New keeps the claims of the worker of that name. now is the clock of the leases; nil is time.Now.
func New(pool *pgxpool.Pool, worker string, now func() time.Time) *Claims {
	if now == nil {
		now = time.Now
	}
	return &Claims{pool, worker, now}
}

// Fits implements workers.Sized: it refuses a pool in which handlers would wait for each other.
func (c *Claims) Fits(handlers int) error {
	have, need := c.pool.Config().MaxConns, handlers+spare
	if int(have) >= need {
		return nil
	}
	return fmt.Errorf("the pool of %s has %d connections, and needs %d: one for each of %d handlers (parked events have slots of their own), and %d for claims; put pool_max_conns=%d in the database's URL, or set --concurrency lower",
		c.worker, have, need, handlers, spare, need)
}

// errMoved means that the row is not at the revision that was expected.
var errMoved = errors.New("somebody wrote the claim in between")

// Take implements workers.Claims.
func (c *Claims) Take(ctx context.Context, key workers.Key, t workers.Taking) (workers.Claim, error) {
	var err error
	for range tries {
		var claim workers.Claim
		if claim, err = c.take(ctx, key, t); err == nil {
			claim.Session = &session{pool: c.pool, lease: t.Lease}
			return claim, nil
		}
		// Any other error is tried again: when only the answer was lost, the claim is found to be ours.
		if errors.Is(err, workers.ErrSettled) || errors.As(err, new(*workers.BusyError)) || ctx.Err() != nil {
			break
		}
	}
	return workers.Claim{}, fmt.Errorf("claim %s: %w", key, err)
}

func (c *Claims) take(ctx context.Context, key workers.Key, t workers.Taking) (workers.Claim, error) {
	claim, err := c.insert(ctx, workers.Claim{Key: key, Record: t.Fresh(c.now())})
	if !errors.Is(err, errMoved) {
		return claim, err
	}
	claim, _, err = c.read(ctx, c.pool, key, "")
	if err != nil {
		return claim, err
	}
	if claim.Record.Owner == t.Owner {
		return claim, nil
	}
	if claim.Record, err = t.Over(claim.Record, c.now()); err != nil {
		return claim, err
	}
	return c.update(ctx, c.pool, claim)
}

// Save implements workers.Claims. A Running record, which is a renewal, lets the handler's transaction be; Done is
// written in it and commits it; any other undoes it first. After ErrUndone the transaction is gone.
func (c *Claims) Save(ctx context.Context, claim workers.Claim) (workers.Claim, error) {
	s, _ := claim.Session.(*session)
	if s == nil || claim.Record.State == workers.Running {
		return c.save(ctx, c.pool, claim)
	}
	tx, begun := s.end()
	switch {
	case begun && claim.Record.State == workers.Done:
		// Never on the pool: `done` without the effect would lose the event.
		return c.commit(ctx, tx, claim)
	case tx != nil:
		rollback(tx)
	}
	return c.save(ctx, c.pool, claim)
}

// commit writes the record in the handler's transaction and commits both. tx is nil when an earlier commit gave no
// answer: then it is only asked what became of it.
//
// Read committed is enough. The UPDATE takes the row's lock and looks at the revision that is committed then: either
// nobody has taken the claim over, and whoever tries to waits until this transaction has ended and finds `done`; or
// somebody has, the revision is another, no row is updated, and nothing of this transaction is committed.
func (c *Claims) commit(ctx context.Context, tx pgx.Tx, claim workers.Claim) (workers.Claim, error) {
	cause := errors.New("the commit gave no answer")
	if tx != nil {
		defer rollback(tx) // which does nothing after the commit, and gives the connection back in any case
		saved, err := c.save(ctx, tx, claim)
		switch {
		case errors.Is(err, workers.ErrLost):
			return claim, err
		case err != nil: // the commit was never sent
			return claim, fmt.Errorf("claim %s: %w: %w", claim.Key, workers.ErrUndone, err)
		}
		if err = tx.Commit(ctx); err == nil {
			return saved, nil
		}
		cause = err
		rollback(tx)
	}
	// The server may be committing still, on a connection that is lost to us. It holds the row's lock until it has
	// ended, so that what is read behind this lock is how it ended.
	switch stored, saved, err := c.found(ctx, c.pool, claim, "FOR UPDATE"); {
	case errors.Is(err, workers.ErrLost):
		return claim, err
	case err != nil:
		return claim, fmt.Errorf("claim %s: %w, and how it ended cannot be asked: %w", claim.Key, cause, err)
	case saved:
		return stored, nil
	}
	return claim, fmt.Errorf("claim %s: %w: %w", claim.Key, workers.ErrUndone, cause)
}

// save writes the record if the claim is still held.
func (c *Claims) save(ctx context.Context, q querier, claim workers.Claim) (workers.Claim, error) {
	for range tries {
		saved, err := c.update(ctx, q, claim)
		if err == nil {
			return saved, nil
		}
		if !errors.Is(err, errMoved) {
			return claim, fmt.Errorf("claim %s: %w", claim.Key, err)
		}
		switch stored, saved, err := c.found(ctx, q, claim, ""); {
		case errors.Is(err, workers.ErrLost):
			return claim, err
		case err != nil:
			return claim, fmt.Errorf("claim %s: %w", claim.Key, err)
		case saved:
			return stored, nil
		default:
			claim.Revision = stored.Revision // an earlier write of ours arrived, and only its answer was lost
		}
	}
	return claim, fmt.Errorf("claim %s: %w", claim.Key, errMoved)
}

// found looks at what is stored of a claim that could not be written, or whose writing gave no answer: whether it was
// saved all the same, or ErrLost when it is not held any more. Otherwise stored has the newest revision.
func (c *Claims) found(ctx context.Context, q querier, claim workers.Claim, lock string) (stored workers.Claim, saved bool, err error) {
	stored, value, err := c.read(ctx, q, claim.Key, lock)
	switch {
	case errors.Is(err, workers.ErrNoClaim), err == nil && stored.Record.Owner != claim.Record.Owner:
		return stored, false, workers.ErrLost
	case err != nil:
		return stored, false, err
	}
	stored.Session = claim.Session
	want, err := json.Marshal(claim.Record)
	return stored, bytes.Equal(value, want), err
}

// Look implements workers.Claims.
func (c *Claims) Look(ctx context.Context, key workers.Key) (workers.Record, error) {
	claim, _, err := c.read(ctx, c.pool, key, "")
	return claim.Record, err
}

// shortest is the shortest time after which claims may be forgotten: an event comes again for as long as its stream
// keeps it, and then waits for its attempts.
const shortest = stream.DefaultMaxAge + workers.MaxPause

// Forget deletes the worker's claims that nobody has written for longer than age, and says how many. The worker's owner
// calls it, once a day or so. An event that comes again after its claim was forgotten runs again, so age must be longer
// than the stream keeps events and than a parked event waits. It refuses less than what that is by default, 23 days; give
// more when the stream keeps its events for longer than 16.
func (c *Claims) Forget(ctx context.Context, age time.Duration) (int64, error) {
	if age < shortest {
		return 0, fmt.Errorf("forgetting claims after %s: give %s or more: a stream keeps its events for %s unless it was told otherwise, and these wait up to %s for their next attempt",
			age, shortest, stream.DefaultMaxAge, workers.MaxPause)
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

// insert writes the claim's first record; errMoved means that there is one.
func (c *Claims) insert(ctx context.Context, claim workers.Claim) (workers.Claim, error) {
	return c.write(ctx, c.pool, claim, `INSERT INTO headgate_claims (worker, key, updated, record) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING RETURNING revision`)
}

// update is the compare-and-set; errMoved means that the revision is not the newest.
func (c *Claims) update(ctx context.Context, q querier, claim workers.Claim) (workers.Claim, error) {
	return c.write(ctx, q, claim, `UPDATE headgate_claims SET revision = DEFAULT, updated = $3, record = $4
		WHERE worker = $1 AND key = $2 AND revision = $5 RETURNING revision`, int64(claim.Revision))
}

func (c *Claims) write(ctx context.Context, q querier, claim workers.Claim, sql string, more ...any) (workers.Claim, error) {
	value, err := json.Marshal(claim.Record)
	if err != nil {
		return claim, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var revision int64
	err = q.QueryRow(ctx, sql, append([]any{c.worker, claim.Key.String(), c.now(), value}, more...)...).Scan(&revision)
	if errors.Is(err, pgx.ErrNoRows) {
		return claim, errMoved
	}
	if err != nil {
		return claim, explain(err)
	}
	claim.Revision = uint64(revision)
	return claim, nil
}

// read returns the claim as it is stored, and its record as it was written.
func (c *Claims) read(ctx context.Context, q querier, key workers.Key, lock string) (workers.Claim, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var revision int64
	var value []byte
	err := q.QueryRow(ctx, `SELECT revision, record FROM headgate_claims WHERE worker = $1 AND key = $2 `+lock,
		c.worker, key.String()).Scan(&revision, &value)
	if errors.Is(err, pgx.ErrNoRows) {
		return workers.Claim{}, nil, workers.ErrNoClaim
	}
	if err != nil {
		return workers.Claim{}, nil, explain(err)
	}
	claim := workers.Claim{Key: key, Revision: uint64(revision)}
	if err := json.Unmarshal(value, &claim.Record); err != nil {
		return workers.Claim{}, nil, fmt.Errorf("record of claim %s: %w", key, err)
	}
	return claim, value, nil
}

// explain adds the cure to an error that has one.
func explain(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42P01" { // undefined_table
		return fmt.Errorf("the table headgate_claims is not in the pool's search path: call pgclaims.Provision once: %w", err)
	}
	return err
}
