package api

import (
	"context"
	"sync"
	"time"
)

const (
	// maxPause bounds a pause: after it a call asks Codat again, because a quota can be raised before it is renewed.
	maxPause = 15 * time.Minute
	// maxIdleLanes is how many lanes are kept before those that are not needed are removed.
	maxIdleLanes = 1024
)

// A gate bounds the calls that are made at once for each company, and makes none while Codat asks to wait.
type gate struct {
	limit int
	now   func() time.Time

	mu    sync.Mutex
	until time.Time // no call is made before
	lanes map[string]*lane
}

// A lane is the part of a gate for one company.
type lane struct {
	slots chan struct{}
	users int       // that have or wait for a slot
	until time.Time // no call of the company is made before
}

// enter waits for a slot of the company and returns the function that frees it. It returns a pausedError when no call may be
// made, at once or when the slot is free, and the error of ctx when it ends first. Calls that concern no company wait for none.
func (g *gate) enter(ctx context.Context, company string) (leave func(), err error) {
	leave = func() {}
	if err := g.paused(company); err != nil {
		return nil, err
	}
	if company != "" {
		l := g.join(company)
		select {
		case l.slots <- struct{}{}:
			leave = func() { <-l.slots; g.part(company, l) }
		case <-ctx.Done():
			g.part(company, l)
			return nil, ctx.Err()
		}
	}
	if err := g.paused(company); err != nil { // since it waits
		leave()
		return nil, err
	}
	return leave, nil
}

// paused returns a pausedError when no call of the company may be made now.
func (g *gate) paused(company string) error {
	if left := g.pausedUntil(company).Sub(g.now()); left > 0 {
		return &pausedError{left: left}
	}
	return nil
}

// join returns the lane of a company, which stays at least until part.
func (g *gate) join(company string) *lane {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lane(company)
	l.users++
	return l
}

func (g *gate) part(company string, l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.users--
	if l.users == 0 && !g.now().Before(l.until) {
		delete(g.lanes, company)
	}
}

// lane returns the lane of a company, and makes it. The caller holds the mutex.
func (g *gate) lane(company string) *lane {
	l := g.lanes[company]
	if l != nil {
		return l
	}
	if len(g.lanes) >= maxIdleLanes {
		for name, l := range g.lanes {
			if l.users == 0 && !g.now().Before(l.until) {
				delete(g.lanes, name)
			}
		}
	}
	l = &lane{slots: make(chan struct{}, g.limit)}
	g.lanes[company] = l
	return l
}

// pause makes no call for d, of the company or, with "", of the client. It shortens no pause.
func (g *gate) pause(company string, d time.Duration) {
	if d <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	until := &g.until
	if company != "" {
		until = &g.lane(company).until
	}
	if end := g.now().Add(min(d, maxPause)); end.After(*until) {
		*until = end
	}
}

// pausedUntil returns the later of the pauses of the client and of the company.
func (g *gate) pausedUntil(company string) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.lanes[company]; l != nil && l.until.After(g.until) {
		return l.until
	}
	return g.until
}
