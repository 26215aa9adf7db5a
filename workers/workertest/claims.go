package workertest

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/headgate/workers"
)

// claims are in memory. They pass claimstest like those that last.
type claims struct {
	*store
	now func() time.Time
}

type store struct {
	waits func(workers.Key, time.Duration) // is told of every wait

	mu       sync.Mutex
	kept     map[workers.Key]workers.Claim
	revision uint64
}

func newClaims(waits func(workers.Key, time.Duration)) claims {
	return claims{&store{waits: waits, kept: map[workers.Key]workers.Claim{}}, time.Now}
}

func (c claims) Take(ctx context.Context, key workers.Key, t workers.Taking) (workers.Claim, error) {
	if err := ctx.Err(); err != nil {
		return workers.Claim{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := t.Fresh(c.now())
	if kept, ok := c.kept[key]; ok {
		var err error
		if next, err = t.Over(kept.Record, c.now()); err != nil {
			return workers.Claim{}, err
		}
	}
	return c.keep(workers.Claim{Key: key, Record: next}), nil
}

func (c claims) Save(ctx context.Context, claim workers.Claim) (workers.Claim, error) {
	if err := ctx.Err(); err != nil {
		return claim, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept[claim.Key].Record.Owner != claim.Record.Owner {
		return claim, workers.ErrLost
	}
	if s := claim.Record.State; s == workers.Waiting || s == workers.Parked {
		c.waits(claim.Key, claim.Record.Next.Sub(c.now()))
	}
	return c.keep(claim), nil
}

func (c claims) Look(_ context.Context, key workers.Key) (workers.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, ok := c.kept[key]
	if !ok {
		return workers.Record{}, workers.ErrNoClaim
	}
	return kept.Record, nil
}

func (c claims) keep(claim workers.Claim) workers.Claim {
	c.revision++
	claim.Revision = c.revision
	c.kept[claim.Key] = claim
	return claim
}
