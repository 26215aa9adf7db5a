package process

import (
	"slices"
	"testing"
)

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	known := []string{"HEADGATE_LISTEN", "HEADGATE_SECRET", "NATS_URL"}
	tests := []struct {
		name    string
		entry   string
		unknown bool
	}{
		{"a variable of this program", "HEADGATE_LISTEN=:8080", false},
		{"a variable of a later version", "HEADGATE_LATER=1", true},
		{"a variable of other software", "PATH=/bin", false},
		{"a name with the same beginning", "HEADGATEKEEPER=1", false},
		{"a misspelt variable", "HEADGATE_LISTN=:8080", true},
		{"small letters", "HEADGATE_listen=:8080", true},
		{"host of a Service called headgate", "HEADGATE_SERVICE_HOST=10.0.0.1", false},
		{"port of a Service called headgate", "HEADGATE_SERVICE_PORT=80", false},
		{"named port of a Service", "HEADGATE_INGRESS_SERVICE_PORT_HTTP=80", false},
		{"port of a Service as an address", "HEADGATE_INGRESS_PORT=tcp://10.0.0.1:80", false},
		{"port without an address", "HEADGATE_INGRESS_PORT=8080", true},
		{"port with a protocol", "HEADGATE_INGRESS_PORT_80_TCP=tcp://10.0.0.1:80", false},
		{"address of a port with a protocol", "HEADGATE_INGRESS_PORT_80_TCP_ADDR=10.0.0.1", false},
		{"host without SERVICE", "HEADGATE_HOST=10.0.0.1", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := unknownVariables([]string{tt.entry}, known); (len(got) == 1) != tt.unknown {
				t.Errorf("unknownVariables(%s) = %q; want it unknown: %v", tt.entry, got, tt.unknown)
			}
		})
	}
	if got := unknownVariables([]string{"HEADGATE_B=1", "HEADGATE_A=1"}, known); !slices.Equal(got, []string{"HEADGATE_A", "HEADGATE_B"}) {
		t.Errorf("unknownVariables = %q; want both, sorted", got)
	}
}
