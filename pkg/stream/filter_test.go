package stream

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCovers(t *testing.T) {
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
		if got := covers(tt.filter, tt.other); got != tt.want {
			t.Errorf("covers(%q, %q) = %t; want %t", tt.filter, tt.other, got, tt.want)
		}
	}
}

func TestOverlap(t *testing.T) {
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
		if got := overlap(tt.a, tt.b); got != tt.want {
			t.Errorf("overlap(%q, %q) = %t; want %t", tt.a, tt.b, got, tt.want)
		}
		if got := overlap(tt.b, tt.a); got != tt.want {
			t.Errorf("overlap(%q, %q) = %t; want %t", tt.b, tt.a, got, tt.want)
		}
	}
}

// matches is what the wildcards mean, said another way.
func matches(filter, subject []string) bool {
	switch {
	case len(filter) == 0 || len(subject) == 0:
		return len(filter) == len(subject)
	case filter[0] == ">":
		return true
	}
	return (filter[0] == "*" || filter[0] == subject[0]) && matches(filter[1:], subject[1:])
}

func TestFiltersAgainstWhatTheyMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		filter := rapid.Custom(func(t *rapid.T) string {
			tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 3).Draw(t, "tokens")
			if rapid.Bool().Draw(t, "open") {
				tokens[len(tokens)-1] = ">"
			}
			return strings.Join(tokens, ".")
		})
		a, b := filter.Draw(t, "a"), filter.Draw(t, "b")

		// "c" stands for every token that no filter names, and four tokens for all that are longer.
		covered, common := true, false
		for _, subject := range subjects(4) {
			inA, inB := matches(strings.Split(a, "."), subject), matches(strings.Split(b, "."), subject)
			covered = covered && (inA || !inB)
			common = common || inA && inB
		}
		if got := covers(a, b); got != covered {
			t.Errorf("covers(%q, %q) = %t; want %t", a, b, got, covered)
		}
		if got := overlap(a, b); got != common {
			t.Errorf("overlap(%q, %q) = %t; want %t", a, b, got, common)
		}
	})
}

func subjects(longest int) [][]string {
	all := [][]string{{}}
	for from := 0; len(all[len(all)-1]) < longest; {
		to := len(all)
		for _, s := range all[from:to] {
			for _, token := range []string{"a", "b", "c"} {
				all = append(all, append(slices.Clone(s), token))
			}
		}
		from = to
	}
	return all[1:]
}

func TestWidest(t *testing.T) {
	got := widest([]string{"b.c", "a.*", "a.b", "b.c", "a.*"})
	if want := []string{"a.*", "b.c"}; !slices.Equal(got, want) {
		t.Errorf("widest() = %q; want %q", got, want)
	}
}
