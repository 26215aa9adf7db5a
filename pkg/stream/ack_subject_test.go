package stream

import "testing"

func TestStoresSubject_KnowsTheStreamOfEachSubject(t *testing.T) {
	t.Parallel()
	for subject, own := range map[string]string{
		"codat.events.company.created":         "CODAT",
		"codat.quarantine":                     "CODAT",
		"codat.redrive.writes.company.created": "CODAT",
		"codat-eu2.events.company.created":     "CODAT_EU2",
		"codat.parked.writes.company.created":  "CODAT_PARKED",
		"codat.dead.writes.company.created":    "CODAT_DEAD",
		"codat.operator":                       "CODAT_OPERATOR",
		"$KV.CODAT_claims_writes.msg_1":        "KV_CODAT_claims_writes",
	} {
		for _, name := range []string{own, "OTHER", "codat", "CODAT_EU1", "KV_CODAT_claims_reads", "CODAT_PARKED_DEAD", ""} {
			if got := storesSubject(name, subject); got != (name == own) {
				t.Errorf("storesSubject(%q, %q) = %t", name, subject, got)
			}
		}
	}
	for _, subject := range []string{"orders", "orders.new", "$KV"} {
		if !storesSubject("ORDERS", subject) {
			t.Errorf("storesSubject(ORDERS, %q) = false; want true for a subject that is no source's", subject)
		}
	}
}
