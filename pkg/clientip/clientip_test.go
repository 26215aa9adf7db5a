package clientip

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestOf(t *testing.T) {
	t.Parallel()
	proxies, err := Parse([]string{"10.0.0.0/8", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	const codat = "4.159.114.108"
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string // "" for none
	}{
		{"no proxy", codat + ":4711", nil, codat},
		{"who connects is believed before what it says", "6.6.6.6:4711", []string{codat}, "6.6.6.6"},
		{"a named proxy is believed", "10.0.0.1:4711", []string{codat}, codat},
		{"of what others put before it, nothing is", "10.0.0.1:4711", []string{codat + ", 6.6.6.6"}, "6.6.6.6"},
		{"on a line of its own neither", "10.0.0.1:4711", []string{codat, "6.6.6.6"}, "6.6.6.6"},
		{"several named proxies", "10.0.0.1:4711", []string{"6.6.6.6, " + codat + ", 10.9.9.9,10.8.8.8"}, codat},
		{"several lines", "10.0.0.1:4711", []string{codat, "10.9.9.9"}, codat},
		{"with a port", "10.0.0.1:4711", []string{codat + ":5000"}, codat},
		{"version 6", "[fd00::1]:4711", []string{"2001:db8::1"}, "2001:db8::1"},
		{"version 6 in brackets", "[fd00::1]:4711", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"version 6 with a port", "[fd00::1]:4711", []string{"[2001:db8::1]:5000"}, "2001:db8::1"},
		{"version 4 in the form of 6", "[::ffff:10.0.0.1]:4711", []string{"::ffff:" + codat}, codat},
		{"a proxy that says nothing is the client", "10.0.0.1:4711", nil, "10.0.0.1"},
		{"empty entries are passed over", "10.0.0.1:4711", []string{codat + ", ,"}, codat},
		{"an invalid address", "10.0.0.1:4711", []string{codat + ", unknown"}, ""},
		{"nor is what has a zone one of ours", "10.0.0.1:4711", []string{"fe80::1%eth0"}, "fe80::1"},
		{"a peer without an address", "@", []string{codat}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Of(&http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}, proxies)
			if text := got.String(); got.IsValid() && text != tt.want || !got.IsValid() && tt.want != "" {
				t.Errorf("Of = %v; want %q", got, tt.want)
			}
		})
	}
}

func FuzzOf(f *testing.F) {
	f.Add("10.0.0.1:1", "4.159.114.108, 10.2.2.2", "6.6.6.6")
	f.Add("10.0.0.1:1", "[::1]:1,,:,", "::ffff:1.2.3.4%x")
	proxies := Networks{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, peer, one, other string) {
		req := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {one, other}}}
		if direct := Peer(req); !proxies.Contains(direct) && Of(req, proxies) != direct {
			t.Errorf("X-Forwarded-For of an untrusted peer was used: %q %q %q", peer, one, other)
		}
	})
}
