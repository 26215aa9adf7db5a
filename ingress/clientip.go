package ingress

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// codatAddresses are the addresses from which Codat sends, as its documentation says. They are the same in all regions.
var codatAddresses = networks{netip.MustParsePrefix("4.159.114.108/32"), netip.MustParsePrefix("20.117.190.191/32")}

// presets are networks with a name.
var presets = map[string]networks{"codat": codatAddresses}

// A clientClass is a group of clients with limits of its own, by the address of the client.
type clientClass int

const (
	classPublic clientClass = iota // every address that is not Codat's
	classCodat                     // Codat's own addresses
	numClasses  = iota
)

// classOf returns the class of a client's address.
func classOf(client netip.Addr) clientClass {
	if codatAddresses.contains(client) {
		return classCodat
	}
	return classPublic
}

// String returns the name of the class, as metrics have it.
func (c clientClass) String() string {
	if c == classCodat {
		return "codat"
	}
	return "public"
}

// networks are ranges of addresses.
type networks []netip.Prefix

// parseNetworks parses addresses, ranges (CIDR) and names of presets.
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
				return nil, fmt.Errorf("%q is not a network: give an address, a range like 10.0.0.0/8, or codat for Codat's own addresses", text)
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

// contains reports whether an address is in one of the networks. The zero Addr is in none.
func (n networks) contains(a netip.Addr) bool {
	for _, prefix := range n {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// clientIP returns the address of the client that sent a request. A trusted proxy appends to X-Forwarded-For the address
// that it received the request from: the client is the right-most address that is not a trusted proxy. It returns the zero
// Addr when that text is not an address.
func clientIP(req *http.Request, proxies networks) netip.Addr {
	client := peerIP(req)
	if !proxies.contains(client) {
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
			if !proxies.contains(client) {
				return client
			}
		}
	}
	return client
}

// peerIP returns the address of the other end of the connection.
func peerIP(req *http.Request) netip.Addr {
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
