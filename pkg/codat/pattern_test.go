package codat_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
)

func TestPattern_Covers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter, other string
		want          bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.b", "a.b.c", false},
		{"a.b.c", "a.b", false},
		{"*.b", "a.b", true},
		{"*.b", "*.b", true},
		{"a.b", "*.b", false},
		{"*", "a.b", false},
		{"*.*", "a.b", true},
		{">", "a.b", true},
		{">", ">", true},
		{"a.>", "a.b.c", true},
		{"a.>", "a.>", true},
		{"a.>", "a", false},
		{"a.>", "a.*", true},
		{"a.*", "a.>", false},
		{"*.>", "a.>", true},
		{"a.>", "*.>", false},
		{"a.*.c", "a.b.c", true},
		{"a.*.c", "a.b.d", false},
		{"codat.events.*.write.successful", "codat.events.invoices.write.successful", true},
		{"codat.events.invoices.write.successful", "codat.events.*.write.successful", false},
	} {
		if got := codat.Pattern(tt.filter).Covers(codat.Pattern(tt.other)); got != tt.want {
			t.Errorf("%q.Covers(%q) = %t; want %t", tt.filter, tt.other, got, tt.want)
		}
	}
}

func TestPattern_Overlaps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.*", "*.b", true},
		{"a.*.c", "a.b.*", true},
		{"a.*.c", "a.b.d", false},
		{"a.>", "*.b", true},
		{"a.>", "b.>", false},
		{"a.>", "a", false},
		{"a.b", "a.b.c", false},
	} {
		if got := codat.Pattern(tt.a).Overlaps(codat.Pattern(tt.b)); got != tt.want {
			t.Errorf("%q.Overlaps(%q) = %t; want %t", tt.a, tt.b, got, tt.want)
		}
		if got := codat.Pattern(tt.b).Overlaps(codat.Pattern(tt.a)); got != tt.want {
			t.Errorf("%q.Overlaps(%q) = %t; want %t", tt.b, tt.a, got, tt.want)
		}
	}
}

// The server decides which subjects a filter matches and which filters may be on one consumer: patterns agree with it.
func TestPattern_AgreesWithTheServer(t *testing.T) {
	t.Parallel()
	token := rapid.SampledFrom([]string{"a", "b", "ab", "*"})
	pattern := rapid.Custom(func(t *rapid.T) string {
		tokens := rapid.SliceOfN(token, 1, 5).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "open") {
			tokens[len(tokens)-1] = ">"
		}
		return strings.Join(tokens, ".")
	})
	literal := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab"}), 1, 5).Draw(t, "tokens"), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		p, q, typ := pattern.Draw(t, "p"), pattern.Draw(t, "q"), literal.Draw(t, "type")
		if err := codat.Pattern(p).Validate(); err != nil {
			t.Fatalf("%q.Validate() = %v", p, err)
		}
		if got, want := codat.Pattern(p).Match(typ), server.SubjectMatchesFilter(typ, p); got != want {
			t.Errorf("%q.Match(%q) = %t; want %t, as the server says", p, typ, got, want)
		}
		if got, want := codat.Pattern(p).Covers(codat.Pattern(q)), server.SubjectMatchesFilter(q, p); got != want {
			t.Errorf("%q.Covers(%q) = %t; want %t, as the server says", p, q, got, want)
		}
		if got, want := codat.Pattern(p).Overlaps(codat.Pattern(q)), server.SubjectsCollide(p, q); got != want {
			t.Errorf("%q.Overlaps(%q) = %t; want %t, as the server says", p, q, got, want)
		}
	})
}

func TestPattern_ValidatesWhatTheServerTakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*>.]{0,8}`).Draw(t, "pattern")
		// The server takes a token such as "a*" for a literal one; no type has it.
		want := server.IsValidSubject(p) && !regexp.MustCompile(`[^.][*>]|[*>][^.]`).MatchString(p)
		if err := codat.Pattern(p).Validate(); (err == nil) != want || err != nil && !errors.Is(err, codat.ErrBadType) {
			t.Errorf("%q.Validate() = %v; want it valid: %t", p, err, want)
		}
	})
}
