package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// ofCompany stores n events of a company.
func (r *broker) ofCompany(company string, n int) {
	r.Helper()
	for i := range n {
		id := "msg_" + strings.Repeat("x", i+1) + company[:1]
		r.store(stream.Stored{ID: id, Timestamp: "1", Signature: "v1,x", Head: codat.Head{Type: "company.created", Company: company}}, []byte("{}"))
	}
}

func TestErase_PreviewsErasesAndFindsNothingMore(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.ofCompany("acme-1", 3)
	r.ofCompany("other", 2)
	c := r.headgate(0, "erase", "acme-1", "--dry-run")
	contains(t, c.out.String(), "dry run: it would erase 3 messages: 3 CODAT")
	c = r.headgate(2, "erase", "acme-1")
	contains(t, c.err.String(), "found: 3 messages: 3 CODAT", "nothing was erased: add --yes, because the input is no terminal")
	c = r.headgate(0, "erase", "acme-1", "--yes")
	contains(t, c.out.String(), "erased 3 of 3, and the last search found nothing")
	contains(t, c.err.String(), "backups and snapshots")
	c = r.headgate(0, "erase", "acme-1", "--yes")
	contains(t, c.out.String(), "nothing is stored of this company")

	var result operator.EraseResult
	c = r.headgate(0, "erase", "other", "--yes", "--json")
	if err := json.Unmarshal([]byte(c.out.String()), &result); err != nil || result.Erased != 2 || !result.Verified {
		t.Errorf("it prints %s; want 2 erased", &c.out)
	}
	said := r.messages(source.OperatorStream(), source.OperatorSubject())
	if len(said) != 4 {
		t.Errorf("there are %d records; want two of each erasure that had something to erase", len(said))
	}
	for _, m := range said {
		if strings.Contains(string(m.Data), "acme") || strings.Contains(string(m.Data), "other") {
			t.Errorf("a record names the company: %s", m.Data)
		}
	}
}

// An erasure that is interrupted says what it has done, and the same command goes on.
func TestErase_GoesOnAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.ofCompany("acme", 40)
	c := begin(t, "", "erase", "acme", "--yes", "--rate", "2", "--nats-url", r.URL)
	streamtest.Wait(t, func() bool { return len(r.messages(source.OperatorStream(), source.OperatorSubject())) > 0 }, "it has begun")
	c.stop()
	c.exit(130)
	contains(t, c.out.String(), "of 40\n")
	contains(t, c.err.String(), "the same command goes on where this one has ended")
	contains(t, r.headgate(0, "erase", "acme", "--yes").out.String(), "the last search found nothing")
}

func TestErase_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"erase":                    "the id of a company must have 1 to 512 bytes",
		"erase c --rate 0":         "--rate must be at least 0.001",
		"erase c --rate NaN":       "--rate must be at least 0.001",
		"erase c --source CODAT_X": "--source",
	} {
		contains(t, headgate(t, 2, strings.Fields(args)...).err.String(), says)
	}
	contains(t, headgate(t, 2, "erase", " ").err.String(), "the id of a company must have 1 to 512 bytes")
}
