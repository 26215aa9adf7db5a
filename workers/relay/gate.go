package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxHold is the longest pause that an event waits for in its slot. It is shorter than the grace period of a stop.
	maxHold = 10 * time.Second
	// maxPause bounds the pause that an endpoint can ask for: it may be ready before.
	maxPause = time.Hour
)

// gate delays requests to the route's rate, and holds them while the endpoint has asked for a pause.
type gate struct {
	limiter *rate.Limiter

	mu    sync.Mutex
	until time.Time
}

// newGate returns a gate for so many requests a second, 0 for any number.
func newGate(perSecond float64) *gate {
	limit := rate.Inf
	if perSecond > 0 {
		limit = rate.Limit(perSecond)
	}
	return &gate{limiter: rate.NewLimiter(limit, 1)}
}

// pause holds all requests for d, at most maxPause. A longer pause stays.
func (g *gate) pause(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(min(d, maxPause)); until.After(g.until) {
		g.until = until
	}
}

func (g *gate) pausedUntil() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until
}

// pausedError is the error of a request that was not made, because the endpoint has asked for a pause.
type pausedError struct{ until time.Time }

func (e *pausedError) Error() string {
	return fmt.Sprintf("not sent: the endpoint has asked for a pause (Retry-After) until %s", e.until.UTC().Format(time.RFC3339))
}

// enter returns nil when a request may be made. It waits for a pause of up to maxHold.
func (g *gate) enter(ctx context.Context) error {
	for {
		until := g.pausedUntil()
		wait := time.Until(until)
		switch {
		case wait <= 0:
			if err := g.limiter.Wait(ctx); err != nil {
				return fmt.Errorf("not sent: %w", err)
			}
			if !g.pausedUntil().After(time.Now()) {
				return nil
			}
		case wait > maxHold:
			return &pausedError{until}
		default:
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return fmt.Errorf("not sent: %w", ctx.Err())
			}
		}
	}
}
