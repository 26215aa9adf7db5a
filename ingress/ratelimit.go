package ingress

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/clientip"
)

// maxLimited is the number of addresses that a limiter remembers at least, and half of the number that it remembers at
// most.
const maxLimited = 8192

// A limiter limits how often an address may send requests that are not authenticated. A client whose requests are
// authenticated is never limited. It is safe for concurrent use.
type limiter struct {
	perSecond float64

	mu                sync.Mutex
	current, previous map[netip.Addr]*rate.Limiter // previous is dropped when current is full
}

// newLimiter returns a limiter of that many requests a second; with 0 it limits no address.
func newLimiter(perSecond float64) *limiter {
	return &limiter{perSecond: perSecond, current: map[netip.Addr]*rate.Limiter{}}
}

// limited reports whether an address is over the limit.
func (l *limiter) limited(a netip.Addr, now time.Time) bool {
	if l.perSecond == 0 || !a.IsValid() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.lookup(clientip.Client(a))
	return one != nil && one.TokensAt(now) < 1
}

// record counts a request that was not authenticated.
func (l *limiter) record(a netip.Addr, now time.Time) {
	if l.perSecond == 0 || !a.IsValid() {
		return
	}
	a = clientip.Client(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.lookup(a)
	if one == nil {
		if len(l.current) >= maxLimited {
			l.current, l.previous = map[netip.Addr]*rate.Limiter{}, l.current
		}
		one = rate.NewLimiter(rate.Limit(l.perSecond), max(1, int(l.perSecond)))
		l.current[a] = one
	}
	one.AllowN(now, 1)
}

func (l *limiter) lookup(a netip.Addr) *rate.Limiter {
	if one, ok := l.current[a]; ok {
		return one
	}
	return l.previous[a]
}
