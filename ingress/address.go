package ingress

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// codatAddresses are those from which Codat says that it sends. It has no others by region.
var codatAddresses = networks{netip.MustParsePrefix("4.159.114.108/32"), netip.MustParsePrefix("20.117.190.191/32")}

// presets are networks that have a name.
var presets = map[string]networks{"codat": codatAddresses}

// networks are ranges of addresses.
type networks []netip.Prefix

// parseNetworks reads addresses, ranges of them (CIDR), and names of presets.
func parseNetworks(texts []string) (networks, error) {
	var all networks
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if preset, ok := presets[text]; ok {
			all = append(all, preset...)
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			one, errOne := netip.ParseAddr(text)
			if errOne != nil || one.Zone() != "" {
				return nil, fmt.Errorf("%q is no network: give an address, a range as 10.0.0.0/8, or codat for Codat's own", text)
			}
			prefix = netip.PrefixFrom(one, one.BitLen())
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%q is an address within a range: give %s for the range, or the address alone", text, prefix.Masked())
		}
		if prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is IPv4 in the form of IPv6: give it as IPv4", text)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// contain reports whether an address is in one of the networks; the zero Addr is in none.
func (n networks) contain(a netip.Addr) bool {
	for _, prefix := range n {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// clientOf is the address of who sent a request. A proxy that is named is believed, and only what it says itself: of
// the addresses in X-Forwarded-For, each added at the right by who passed the request on, the right-most that is not
// a named proxy's own. It is the zero Addr when that is not an address.
func clientOf(req *http.Request, proxies networks) netip.Addr {
	client := peerOf(req)
	if !proxies.contain(client) {
		return client
	}
	lines := req.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for rest != "" {
			var one string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, one = rest[:comma], rest[comma+1:]
			} else {
				rest, one = "", rest
			}
			if one = strings.TrimSpace(one); one == "" {
				continue
			}
			client = parseClient(one)
			if !proxies.contain(client) {
				return client
			}
		}
	}
	return client
}

// peerOf is the address of who made the connection.
func peerOf(req *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// parseClient reads an address as proxies write it: alone, in brackets, or with a port.
func parseClient(text string) netip.Addr {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return a.Unmap().WithZone("")
	}
	host, _, err := net.SplitHostPort(text)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// maxLimited is how many addresses a limiter remembers at least, and half of how many at most.
const maxLimited = 8192

// A limiter limits how often an address may send what does not prove. Who only sends what proves is never limited.
type limiter struct {
	perSecond float64

	mu       sync.Mutex
	now, old map[netip.Addr]*rate.Limiter // old ones are forgotten when there are too many new ones
}

// newLimiter makes a limiter; one for 0 a second limits nobody.
func newLimiter(perSecond float64) *limiter {
	return &limiter{perSecond: perSecond, now: map[netip.Addr]*rate.Limiter{}}
}

// spent reports whether an address has to wait.
func (l *limiter) spent(a netip.Addr, at time.Time) bool {
	if l.perSecond == 0 || !a.IsValid() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.find(network(a))
	return one != nil && one.TokensAt(at) < 1
}

// spend counts a request that did not prove.
func (l *limiter) spend(a netip.Addr, at time.Time) {
	if l.perSecond == 0 || !a.IsValid() {
		return
	}
	a = network(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.find(a)
	if one == nil {
		if len(l.now) >= maxLimited {
			l.now, l.old = map[netip.Addr]*rate.Limiter{}, l.now
		}
		one = rate.NewLimiter(rate.Limit(l.perSecond), max(1, int(l.perSecond)))
		l.now[a] = one
	}
	one.AllowN(at, 1)
}

func (l *limiter) find(a netip.Addr) *rate.Limiter {
	if one, ok := l.now[a]; ok {
		return one
	}
	return l.old[a]
}

// network is what one client has for itself: an address of IPv4, the first half of one of IPv6.
func network(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}
