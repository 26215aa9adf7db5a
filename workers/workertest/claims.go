package workertest

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// memoryClaims keeps claims in memory. It passes claimstest.
type memoryClaims struct {
	*store
	now func() time.Time
}

type store struct {
	waits func(claims.Key, time.Duration) // is called with every wait

	mu       sync.Mutex
	kept     map[claims.Key]claims.Claim
	revision uint64
}

func newClaims(waits func(claims.Key, time.Duration)) memoryClaims {
	return memoryClaims{&store{waits: waits, kept: map[claims.Key]claims.Claim{}}, time.Now}
}

func (c memoryClaims) Take(ctx context.Context, key claims.Key, t claims.TakeRequest) (claims.Claim, error) {
	if err := ctx.Err(); err != nil {
		return claims.Claim{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := t.First(c.now())
	if kept, ok := c.kept[key]; ok {
		var err error
		if kept.Record.Owner == t.Owner {
			next = t.Again(kept.Record, c.now())
		} else if next, err = t.Next(kept.Record, c.now()); err != nil {
			return claims.Claim{}, err
		}
	}
	return c.keep(claims.Claim{Key: key, Record: next}), nil
}

func (c memoryClaims) Save(ctx context.Context, claim claims.Claim) (claims.Claim, error) {
	if err := ctx.Err(); err != nil {
		return claim, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept[claim.Key].Record.Owner != claim.Record.Owner {
		return claim, claims.ErrLost
	}
	if s := claim.Record.State; s == claims.Waiting || s == claims.Parked {
		c.waits(claim.Key, claim.Record.Next.Sub(c.now()))
	}
	return c.keep(claim), nil
}

func (c memoryClaims) Get(_ context.Context, key claims.Key) (claims.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, ok := c.kept[key]
	if !ok {
		return claims.Record{}, claims.ErrNoClaim
	}
	return kept.Record, nil
}

func (c memoryClaims) keep(claim claims.Claim) claims.Claim {
	c.revision++
	claim.Revision = c.revision
	c.kept[claim.Key] = claim
	return claim
}
