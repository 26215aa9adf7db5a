package ingress

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter_LimitsUnauthenticatedRequests(t *testing.T) {
	t.Parallel()
	now := time.Now()
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	l := newLimiter(3)
	for n := range 3 {
		if l.limited(one, now) {
			t.Fatalf("limited after %d of 3", n)
		}
		l.record(one, now)
	}
	if !l.limited(one, now) || l.limited(other, now) || l.limited(netip.Addr{}, now) {
		t.Error("after 3 of 3 only this address should be limited")
	}
	if l.limited(one, now.Add(time.Second)) {
		t.Error("a second later the address should not be limited")
	}

	// A client may use all addresses of its /64 network.
	l.record(netip.MustParseAddr("2001:db8:0:1::1"), now)
	l.record(netip.MustParseAddr("2001:db8:0:1::2"), now)
	l.record(netip.MustParseAddr("2001:db8:0:1:ffff::3"), now)
	if !l.limited(netip.MustParseAddr("2001:db8:0:1::4"), now) || l.limited(netip.MustParseAddr("2001:db8:0:2::1"), now) {
		t.Error("addresses of one /64 network should be counted together, and those of two apart")
	}

	for n := range 3 * maxLimited {
		l.record(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), now)
	}
	if n := len(l.current) + len(l.previous); n > 2*maxLimited {
		t.Errorf("%d addresses are remembered; want %d at most", n, 2*maxLimited)
	}
	if off := newLimiter(0); off.limited(one, now) {
		t.Error("with 0 no address should be limited")
	}
}
