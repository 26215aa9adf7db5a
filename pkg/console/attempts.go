package console

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	maxAttempts   = 8192 // clients, and names, that are remembered at least, and half of those at most
	clientBurst   = 5    // log-ins that a client can fail at once
	clientRefill  = 12 * time.Second
	nameBurst     = 10 // log-ins that can fail under a name before a client that has failed is refused
	nameRefill    = 30 * time.Second
	compareWindow = 5 * time.Second // how long a log-in waits for others that are compared
)

// attempts limits the log-ins that fail: those of a client, and those under a name. A name over its limit refuses only clients that
// have failed themselves, so that nobody is locked out by the failures of another. It is safe for concurrent use.
type attempts struct {
	mu      sync.Mutex
	clients recent[netip.Addr]
	names   recent[string]
	slots   chan struct{} // for comparisons, which take a core for a quarter of a second
}

func newAttempts(atOnce int) *attempts {
	return &attempts{
		clients: recent[netip.Addr]{burst: clientBurst, refill: clientRefill},
		names:   recent[string]{burst: nameBurst, refill: nameRefill},
		slots:   make(chan struct{}, atOnce),
	}
}

// begin reports whether a client may try to log in under a name. It counts the log-in as failed until succeeded is called, so that many
// at once are no way around the limits. Call done after the comparison.
func (a *attempts) begin(client netip.Addr, name string, now time.Time) (done func(), ok bool) {
	if !a.count(client, name, now) {
		return nil, false
	}
	wait := time.NewTimer(compareWindow)
	defer wait.Stop()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, true
	case <-wait.C:
		return nil, false
	}
}

// count counts a failure, unless one of the limits is reached.
func (a *attempts) count(client netip.Addr, name string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	byClient, byName := a.clients.of(client), a.names.of(name)
	failed := byClient.TokensAt(now) < clientBurst
	if byClient.TokensAt(now) < 1 || byName.TokensAt(now) < 1 && failed {
		return false
	}
	byClient.AllowN(now, 1)
	byName.AllowN(now, 1)
	return true
}

// succeeded takes back the failure that begin has counted for the client. The name keeps it: a log-in of its user does not give the
// others more tries.
func (a *attempts) succeeded(client netip.Addr, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients.of(client).AllowN(now, -1)
}

// recent has a limiter for each of the keys that were used last.
type recent[K comparable] struct {
	burst             int
	refill            time.Duration
	current, previous map[K]*rate.Limiter // previous is dropped when current is full
}

// of returns the limiter of a key.
func (r *recent[K]) of(key K) *rate.Limiter {
	if one, ok := r.current[key]; ok {
		return one
	}
	one, ok := r.previous[key]
	if !ok {
		one = rate.NewLimiter(rate.Every(r.refill), r.burst)
	}
	if r.current == nil || len(r.current) >= maxAttempts {
		r.current, r.previous = map[K]*rate.Limiter{}, r.current
	}
	r.current[key] = one
	return one
}
