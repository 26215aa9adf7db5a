package pgclaims

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// All calls each with every claim of the worker, with its claims.Key.String and its revision, as of one moment: for audits. A
// record that cannot be decoded has the state "unreadable", and one that does not say when its first attempt began, as done, has the
// time at which it was written.
func (c *Store) All(ctx context.Context, each func(key string, revision uint64, r claims.Record) error) error {
	doing := func(err error) error { return fmt.Errorf("reading claims of %s: %w", c.worker, explain(err)) }
	rows, err := c.pool.Query(ctx, `SELECT key, revision, updated, record FROM headgate_claims WHERE worker = $1`, c.worker)
	if err != nil {
		return doing(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var revision int64
		var updated time.Time
		var value []byte
		if err := rows.Scan(&key, &revision, &updated, &value); err != nil {
			return doing(err)
		}
		var r claims.Record
		if json.Unmarshal(value, &r) != nil {
			r = claims.Record{State: "unreadable"}
		}
		if r.First.IsZero() {
			r.First = updated
		}
		if err := each(key, uint64(revision), r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return doing(err)
	}
	return nil
}
