package examples_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
)

// A redacted body is read as one of the same type, and has none of the ids, names and numbers of the other.
func TestRedact_KeepsTypeAndStructure(t *testing.T) {
	t.Parallel()
	tell := regexp.MustCompile(`[0-9a-f]{8}-0000-4000-8000-|Larkspur|Heron|codat\.example|crm-77|bakeries|1880\.|1700\.|"9900|till|/4110|A write of`)
	for _, e := range examples.All() {
		redacted, err := examples.Redact(e.Body)
		if err != nil {
			t.Errorf("Redact(%s) = %v", e.Name, err)
			continue
		}
		before, err := codat.Read(e.Body)
		after, afterErr := codat.Read(redacted)
		if after.Type != before.Type || (err == nil) != (afterErr == nil) || !after.Generated.Equal(before.Generated) {
			t.Errorf("Redact(%s) is read as %+v, %v; want type %q", e.Name, after, afterErr, before.Type)
		}
		if (after.Company == "") != (before.Company == "") || len(after.Connections) != len(before.Connections) || (after.PushOperation == "") != (before.PushOperation == "") {
			t.Errorf("Redact(%s) has ids %+v; want as many as %+v", e.Name, after, before)
		}
		if after.Company != "" && (after.Company == before.Company || after.EventID != "" && after.EventID == before.EventID) {
			t.Errorf("Redact(%s) keeps an id: %+v", e.Name, after)
		}
		if found := tell.Find(redacted); found != nil {
			t.Errorf("Redact(%s) has %q:\n%s", e.Name, found, redacted)
		}
		if paths(t, redacted) != paths(t, e.Body) {
			t.Errorf("Redact(%s) has another structure:\n%s", e.Name, redacted)
		}
	}
}

// What tells of a company can be in the name of a member and where a word is expected.
func TestRedact_ReplacesIDsAndFiguresInNamesAndWords(t *testing.T) {
	t.Parallel()
	const id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
	redacted, err := examples.Redact([]byte(`{"eventType":"x.y","companyId":"` + id + `","payload":{"` + id + `":{"x":1},"of-` + id + `":2,"4111111111111111":3,"a4111111111111111":4,
		"currency":"4111111111111111","accountType":"Bank-4111111111111111","status":"4111111111111111","statusCode":4111111111111111,"dailyQuota":4111111111111111}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{id, "4111"} {
		if strings.Contains(string(redacted), gone) {
			t.Errorf("Redact keeps %q: %s", gone, redacted)
		}
	}
	var got struct {
		CompanyID string
		Payload   map[string]any
	}
	if err := json.Unmarshal(redacted, &got); err != nil || got.Payload[got.CompanyID] == nil {
		t.Errorf("Redact = %s, %v; want the member of the company under the new id", redacted, err)
	}
}

// A platform passes on what people have written, also where Codat documents values.
func TestRedact_KeepsOnlyValuesThatCodatDocuments(t *testing.T) {
	t.Parallel()
	redacted, err := examples.Redact([]byte(`{"eventType":"x.y","payload":{"type":"Larkspur","eventType":"Larkspur.write.successful","ruleType":"Larkspur","status":"Larkspur","newStatus":"Larkspur",
		"accountType":"Larkspur","dataType":"Larkspur","sourceType":"Larkspur","currency":"Larkspur","platformKey":"Larkspur","integrationKey":"Larkspur",
		"a":{"type":"Create","status":"Linked","newStatus":"FetchError","accountType":"savings","dataType":"invoices","sourceType":"Accounting","currency":"GBP","platformKey":"gbol"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(redacted), "Larkspur") {
		t.Errorf("Redact keeps what people wrote: %s", redacted)
	}
	if kept := `"a":{"type":"Create","status":"Linked","newStatus":"FetchError","accountType":"savings","dataType":"invoices","sourceType":"Accounting","currency":"GBP","platformKey":"gbol"}`; !strings.Contains(string(redacted), kept) {
		t.Errorf("Redact = %s; want in it %s", redacted, kept)
	}
}

// paths returns a body with each text and number of another one in place of its own.
func paths(t *testing.T, body []byte) string {
	t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`("(?:[^"\\]|\\.)*"|-?[0-9][-+.eE0-9]*)([,}\]])`).ReplaceAllString(compact.String(), "0$2")
}

func TestRedact_ReplacesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	const same = "12345678-1234-4234-8234-123456789abc"
	redacted, err := examples.Redact([]byte(`{"eventType":"x.y","id":"` + same + `","a":{"companyId":"` + same + `","status":"` + same + `","iban":"DE02 1203",
		"Müller GmbH":"x","n":12.50,"dailyQuota":42000,"at":"2026-01-02T03:04:05.5Z","list":["Larkspur",true,null,7],"ruleId":"00000000-0000-0000-0000-000000000000",
		"note":"\u001b[31mred","status":"\u001b[31mred","empty":"","url":"ftp://larkspur.example/x","text":"of ` + same + `"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		EventType, ID string
		A             map[string]any
	}
	if err := json.Unmarshal(redacted, &got); err != nil {
		t.Fatal(err)
	}
	if got.EventType != "x.y" || got.ID == same || len(got.ID) != len(same) || got.A["companyId"] != got.ID || got.A["dailyQuota"] != 42000.0 ||
		got.A["at"] != "2026-01-02T03:04:05.5Z" || got.A["empty"] != "" || got.A["ruleId"] != "00000000-0000-0000-0000-000000000000" || got.A["n"] != 0.0 {
		t.Errorf("Redact = %s", redacted)
	}
	for _, gone := range []string{same, "DE02", "Müller", "12.5", "Larkspur", "larkspur", "31m", ":7", ",7"} {
		if strings.Contains(string(redacted), gone) {
			t.Errorf("Redact keeps %q: %s", gone, redacted)
		}
	}
	for _, body := range []string{"", "{", `{"a":1}x`, `{"a"}`, "no"} {
		if _, err := examples.Redact([]byte(body)); err == nil {
			t.Errorf("Redact(%q) = nil; want an error", body)
		}
	}
}
