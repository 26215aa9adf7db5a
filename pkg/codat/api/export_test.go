package api

import (
	"context"
	"time"
)

var (
	ParseError = parseError
	RetryDelay = retryAfter
	NewGate    = func(limit int) *gate { return &gate{limit: limit, now: time.Now, lanes: map[string]*lane{}} }
)

// Pause pauses a company, or the client.
func (g *gate) Pause(company string, d time.Duration) { g.pause(company, d) }

// Lanes is how many lanes the gate keeps.
func (g *gate) Lanes() int { return len(g.lanes) }

// Enter enters the gate.
func (g *gate) Enter(ctx context.Context, company string) (func(), error) {
	return g.enter(ctx, company)
}

// Until is when the pause of a company ends.
func (g *gate) Until(company string) time.Time { return g.pausedUntil(company) }
