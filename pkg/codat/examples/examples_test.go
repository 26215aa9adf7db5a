package examples_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
)

func TestEachTypeInTheCatalogHasAnExample(t *testing.T) {
	t.Parallel()
	for _, typ := range codat.Catalog() {
		e, ok := examples.Of(typ.Name)
		if !ok {
			t.Errorf("Of(%s) = no example; want one", typ.Name)
			continue
		}
		if !codat.Known(e.Type) || (!typ.Pattern && e.Type != typ.Name) {
			t.Errorf("Of(%s).Type = %s; want that type", typ.Name, e.Type)
		}
	}
	if _, ok := examples.Of("teapots.write.successful"); ok {
		t.Error("Of(teapots.write.successful) = an example; want none")
	}
	if e, ok := examples.Of("*.write.successful"); !ok || e.Type == "" {
		t.Error("Of(*.write.successful) = no example; want one that fits")
	}
}

func TestEachExampleReadsAsItsType(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, e := range examples.All() {
		h, err := codat.Read(e.Body)
		if h.Type != e.Type {
			t.Errorf("Read(%s).Type = %q; want %q", e.Name, h.Type, e.Type)
		}
		if e.Type == "" && !errors.Is(err, codat.ErrNoType) || e.Type != "" && err != nil {
			t.Errorf("Read(%s) = %v; want an error only where there is no type", e.Name, err)
		}
		if h.EventID != "" && seen[h.EventID] {
			t.Errorf("Read(%s).EventID = %s; want one that no other example has", e.Name, h.EventID)
		}
		seen[h.EventID] = true
	}
}

func TestBodiesAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	e, _ := examples.Of("company.created")
	clear(e.Body)
	if again, _ := examples.Of("company.created"); again.Body[0] != '{' {
		t.Errorf("Of(company.created).Body[0] = %q after a caller cleared its copy; want {", again.Body[0])
	}
}

func TestAllIsSortedAndEachNameStandsOnce(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	var order []string
	for _, e := range examples.All() {
		names[e.Name] = true
		order = append(order, e.Name)
	}
	if want := slices.Sorted(maps.Keys(names)); !slices.Equal(order, want) {
		t.Errorf("All() = %v; want %v", order, want)
	}
}
