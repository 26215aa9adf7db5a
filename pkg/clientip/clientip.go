// Package clientip tells the address of the client of a request, also behind proxies.
package clientip

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Networks are ranges of addresses.
type Networks []netip.Prefix

// Parse parses addresses and ranges (CIDR).
func Parse(texts []string) (Networks, error) {
	var all Networks
	for _, text := range texts {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			one, errOne := netip.ParseAddr(text)
			if errOne != nil || one.Zone() != "" {
				return nil, fmt.Errorf("%q is not a network: give an address, or a range like 10.0.0.0/8", text)
			}
			prefix = netip.PrefixFrom(one, one.BitLen())
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%q is an address inside a range: give %s for the range, or the address alone", text, prefix.Masked())
		}
		if prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is an IPv4 address in IPv6 form: give it as IPv4", text)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// Contains reports whether an address is in one of the networks. The zero Addr is in none.
func (n Networks) Contains(a netip.Addr) bool {
	for _, prefix := range n {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// Of returns the address of the client that sent a request. A trusted proxy appends to X-Forwarded-For the address
// that it received the request from: the client is the right-most address that is not a trusted proxy. It returns the zero
// Addr when that text is not an address.
func Of(req *http.Request, proxies Networks) netip.Addr {
	client := Peer(req)
	if !proxies.Contains(client) {
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
			client = parseForwarded(one)
			if !proxies.Contains(client) {
				return client
			}
		}
	}
	return client
}

// Peer returns the address of the other end of the connection.
func Peer(req *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// parseForwarded parses an address as proxies write it: alone, in brackets, or with a port.
func parseForwarded(text string) netip.Addr {
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

// Client returns what limits count as one client: an IPv4 address, or the /64 network of an IPv6 address, which one client has.
func Client(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}
