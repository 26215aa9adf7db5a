package process_test

import (
	"testing"

	"github.com/headgate/headgate/pkg/process"
)

func TestByteSize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want process.ByteSize
		show string
	}{
		{"0", 0, "0B"},
		{"1000", 1000, "1000B"},
		{"512k", 512 << 10, "512KiB"},
		{"64KiB", 64 << 10, "64KiB"},
		{"1MiB", 1 << 20, "1MiB"},
		{"1 MiB", 1 << 20, "1MiB"},
		{"1mib", 1 << 20, "1MiB"},
		{"1MB", 1 << 20, "1MiB"},
		{"1.5MiB", 3 << 19, "1.5MiB"},
		{"10GiB", 10 << 30, "10GiB"},
	}
	for _, tt := range tests {
		var b process.ByteSize
		if err := b.UnmarshalText([]byte(tt.text)); err != nil || b != tt.want || b.String() != tt.show {
			t.Errorf("UnmarshalText(%q) = %d (%v), %v; want %d (%s)", tt.text, b, b, err, tt.want, tt.show)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1MX", "lots", "1 2", "99999999999999999999"} {
		var b process.ByteSize
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) = %d; want an error", text, b)
		}
	}
}
