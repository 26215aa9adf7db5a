package stream

import (
	"slices"
	"testing"
)

func TestWidest_DropsCoveredFilters(t *testing.T) {
	t.Parallel()
	got := widest([]string{"b.c", "a.*", "a.b", "b.c", "a.*"})
	if want := []string{"a.*", "b.c"}; !slices.Equal(got, want) {
		t.Errorf("widest() = %q; want %q", got, want)
	}
}
