package ingress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/headgate/headgate/pkg/clientip"
)

// codatAddresses are the addresses from which Codat sends, as its documentation says. They are the same in all regions.
var codatAddresses = clientip.Networks{netip.MustParsePrefix("4.159.114.108/32"), netip.MustParsePrefix("20.117.190.191/32")}

// presets are networks with a name.
var presets = map[string]clientip.Networks{"codat": codatAddresses}

// A clientClass is a group of clients with limits of its own, by the address of the client.
type clientClass int

const (
	classPublic clientClass = iota // every address that is not Codat's
	classCodat                     // Codat's own addresses
	numClasses  = iota
)

// classOf returns the class of a client's address.
func classOf(client netip.Addr) clientClass {
	if codatAddresses.Contains(client) {
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

// parseNetworks parses addresses, ranges (CIDR) and names of presets.
func parseNetworks(texts []string) (clientip.Networks, error) {
	var all clientip.Networks
	for _, text := range texts {
		if preset, ok := presets[strings.TrimSpace(text)]; ok {
			all = append(all, preset...)
			continue
		}
		parsed, err := clientip.Parse([]string{text})
		if err != nil {
			return nil, fmt.Errorf("%w, or give codat for Codat's own addresses", err)
		}
		all = append(all, parsed...)
	}
	return all, nil
}
