package main

import (
	"testing"

	"github.com/headgate/headgate/pkg/audit"
)

func TestScrub_FindsDamagedDeadLetter(t *testing.T) {
	t.Parallel()
	r := newBrokerWithHandledEvents(t)
	c := r.headgate(0, "scrub")
	contains(t, c.out.String(), "CODAT: 4 messages read on ", "KV_CODAT_claims_bookkeeper: 3 messages read on ", "CODAT_DEAD: 1 message read on ")

	r.Damage(source.DeadStream(), "dead_1")
	c = r.headgate(1, "scrub", "--settle", settle)
	contains(t, c.out.String(), "EXCEPTION ", "CODAT_DEAD: unreadable: ", "CODAT_DEAD: 0 messages read on ")
	contains(t, c.err.String(), "headgate: 1 exception")

	found := 0
	for _, s := range decode[audit.Scrubbed](t, r.headgate(1, "scrub", "--settle", settle, "--json").out.lines()) {
		found += len(s.Exceptions)
	}
	if found != 1 {
		t.Errorf("scrub --json prints %d exceptions; want 1", found)
	}
	contains(t, r.headgate(2, "scrub", "--every=-1s").err.String(), "--every must be greater than 0s")
}
