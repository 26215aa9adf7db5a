package doctor

import (
	"errors"
	"strings"
	"testing"
)

// What was not examined is not said to be well.
func TestChecks_SayWhatTheyCouldNotExamine(t *testing.T) {
	t.Parallel()
	f := &facts{Options: Options{Source: "codat"}, denied: []string{"$JS.API.INFO"}, unsaid: 2}
	of := len(f.permissions())
	if got := f.permitted(); got.status != Warn || !strings.Contains(got.measured, "; the server said nothing of 2 in time") || strings.HasPrefix(got.measured, "0 ") {
		t.Errorf("of %d subjects, one denied and two without an answer, permitted = %+v", of, got)
	}
	in := newInstallation(t)
	in.until(func(f *facts) { f.instances, f.missing[instances] = nil, errors.New("an entry cannot be read") }, func(r *Report) (problems []string) {
		for _, one := range r.Results {
			if one.Code == "HG-WRK-001" && (strings.Contains(one.Measured, "0 processes") || !strings.Contains(one.Measured, "cannot be read")) {
				problems = append(problems, one.Measured)
			}
		}
		return problems
	})
}

func TestExamine_ComparesNothingOfASourceThatDoesNotExist(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.Source, in.Layout.Source = "other", "other"
	r, err := Examine(t.Context(), in.Options)
	if err != nil {
		t.Fatal(err)
	}
	if got := statuses(r); got["HG-STR-001"] != Fail || got["HG-STR-002"] != Skipped {
		t.Errorf("HG-STR-001 is %s and HG-STR-002 %s; want fail and skipped: %+v", got["HG-STR-001"], got["HG-STR-002"], r.Results)
	}
}
