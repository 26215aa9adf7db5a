package relay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// notPublic are the ranges of IPv4, and those within 2000::/3, that are not of the public internet (IANA's registries of
// special-purpose addresses), or that lead elsewhere: to 6to4 and Teredo, which carry an IPv4 address. No address of IPv6 outside
// of 2000::/3 is public: loopback, link-local, unique local (fc00::/7), multicast, NAT64 (64:ff9b::/96), IPv4-compatible.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's metadata
	netip.MustParsePrefix("169.254.0.0/16"),   // also the metadata of most clouds
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), // also Oracle's metadata
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("2001::/23"), // also Teredo
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"),
}

// global is where the public addresses of IPv6 are.
var global = netip.MustParsePrefix("2000::/3")

// public reports whether an address is of the public internet.
func public(a netip.Addr) bool {
	if a.Is6() && !global.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addressError is the error of a connection that was refused for its address.
type addressError struct {
	address netip.Addr
	reason  string
}

func (e *addressError) Error() string {
	return fmt.Sprintf("%s is not connected to: %s", e.address, e.reason)
}

// checkAddress returns an error for an address to which the route may not connect. It is asked for each address after the name
// was resolved, right before the connection, so that a name that resolves to another address later is no way around it.
func (r Route) checkAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address: %w", address, err)
	}
	a := at.Addr().Unmap().WithZone("")
	allowed := slices.ContainsFunc(r.AllowPrivate, func(p prefix) bool { return netip.Prefix(p).Contains(a) })
	switch {
	case allowed:
		return nil
	case !public(a):
		return &addressError{a, "it is not a public address: list its range in allow_private if the endpoint is meant to be there"}
	case r.URL.Scheme == "http":
		return &addressError{a, "events go unencrypted to addresses in allow_private only: write https in url"}
	}
	return nil
}

// control is the hook of a net.Dialer.
func (r Route) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	return r.checkAddress(address)
}
