package main

import (
	"testing"
	"time"
)

func TestPrintable_EscapesControlCharacters(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"nothing", "", "-"},
		{"plain text", "ledger is closed", "ledger is closed"},
		{"letters of the world", "Müller & Söhne 株式会社", "Müller & Söhne 株式会社"},
		{"quotes and backslashes as they are", `"a\b"`, `"a\b"`},
		{"what a terminal obeys", "\x1b[2J\r\n", `\x1b[2J\r\n`},
		{"what turns text around", "a\u202eb", `a\u202eb`},
		{"what is no text", "\xff", `\xff`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := printable(tt.text); got != tt.want {
				t.Errorf("clean(%q) = %q; want %q", tt.text, got, tt.want)
			}
		})
	}
}

func TestCut_KeepsWidth(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"Söhne": "Söhne", "Müller": "Müll…"} {
		if got := cut(text, 5); got != want {
			t.Errorf("cut = %q; want %q", got, want)
		}
	}
}

func TestFormatDuration_UsesReadableUnits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		d    time.Duration
		want string
	}{
		{400 * time.Microsecond, "0.4 ms"},
		{3900 * time.Microsecond, "3 ms"},
		{1500 * time.Millisecond, "1.5 s"},
	}
	for _, tt := range tests {
		if got := formatDuration(tt.d); got != tt.want {
			t.Errorf("took(%v) = %q; want %q", tt.d, got, tt.want)
		}
	}
}

func TestTimeFlag_ReadsTimesAndDurations(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       time.Time // zero for an error
		about      bool      // measured from now
	}{
		{"a time with its zone", "2026-01-31T15:04:05Z", time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC), false},
		{"a time on the clock here", "2026-01-31 15:04", time.Date(2026, 1, 31, 15, 4, 0, 0, time.Local), false},
		{"a day", "2026-01-31", time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local), false},
		{"some time ago", "90m", time.Now().Add(-90 * time.Minute), true},
		{"some days ago", "3d", time.Now().Add(-72 * time.Hour), true},
		{"the future", "-1h", time.Time{}, false},
		{"a word", "yesterday", time.Time{}, false},
		{"nothing", "", time.Time{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m timeFlag
			err := m.UnmarshalText([]byte(tt.text))
			if tt.want.IsZero() {
				if err == nil {
					t.Errorf("%q is %v; want an error", tt.text, m)
				}
				return
			}
			off := m.Sub(tt.want).Abs()
			if err != nil || off > 0 && !tt.about || off > time.Minute {
				t.Errorf("%q is %v, %v; want %v", tt.text, m, err, tt.want)
			}
		})
	}
}
