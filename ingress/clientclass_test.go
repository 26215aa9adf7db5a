package ingress

import (
	"fmt"
	"testing"
)

func TestParseNetworks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want string // "" for an error
	}{
		{"10.0.0.0/8", "[10.0.0.0/8]"},
		{" 192.0.2.7 ", "[192.0.2.7/32]"},
		{"2001:db8::/32", "[2001:db8::/32]"},
		{"::1", "[::1/128]"},
		{"codat", "[4.159.114.108/32 20.117.190.191/32]"},
		{"0.0.0.0/0", "[0.0.0.0/0]"},
		{"10.0.0.1/8", ""},
		{"::ffff:10.0.0.1", ""},
		{"fe80::1%eth0", ""},
		{"example.com", ""},
		{"svix", ""},
		{"", ""},
	}
	for _, tt := range tests {
		got, err := parseNetworks([]string{tt.text})
		if (err != nil) != (tt.want == "") || err == nil && fmt.Sprint(got) != tt.want {
			t.Errorf("parseNetworks(%q) = %v, %v; want %s", tt.text, got, err, tt.want)
		}
	}
}
