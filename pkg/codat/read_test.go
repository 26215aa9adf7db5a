package codat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
)

// Ids of the examples.
const (
	larkspur   = "c0ffee00-0000-4000-8000-00000000000a"
	quillfeath = "c0ffee00-0000-4000-8000-00000000000b"
	ledger     = "ca5cade0-0000-4000-8000-00000000000a"
	bank       = "ca5cade0-0000-4000-8000-00000000000b"
	shop       = "ca5cade0-0000-4000-8000-00000000000c"
)

func TestRead_FindsIDsOfEachFamily(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 3, 10, 15, 30, 500_000_000, time.UTC)
	for _, test := range []struct {
		example string
		want    codat.Head
	}{
		{"company.created", codat.Head{Type: "company.created", Company: larkspur, Generated: at}},
		{"company.product.added", codat.Head{Type: "company.product.added", Company: quillfeath, Generated: at}},
		{"connection.created", codat.Head{Type: "connection.created", Company: larkspur, Connection: ledger, Connections: []string{ledger}, Platform: "zzac", Generated: at}},
		{"read.completed", codat.Head{Type: "read.completed", Company: larkspur, Connection: ledger, Connections: []string{ledger}, Generated: at}},
		{"heronCredit.read.completed", codat.Head{Type: "heronCredit.read.completed", Company: larkspur, Connection: bank, Connections: []string{bank}, Generated: at}},
		{"bills.write.unsuccessful", codat.Head{Type: "bills.write.unsuccessful", Company: larkspur, Connection: ledger, Connections: []string{ledger}, PushOperation: "9a5500e1-0000-4000-8000-000000000005", Generated: time.Date(2026, 2, 3, 10, 24, 0, 123_450_000, time.UTC)}},
		{"client.rateLimit.reached", codat.Head{Type: "client.rateLimit.reached", Generated: at}},
		{"bankFeeds.sourceAccount.connected", codat.Head{Type: "bankFeeds.sourceAccount.connected", Company: larkspur, Connection: bank, Connections: []string{bank}, Generated: at}},
		{"expenses.sync.unsuccessful", codat.Head{Type: "expenses.sync.unsuccessful", Company: quillfeath, Generated: at}},
		{"reports.creditModel.generate.successful", codat.Head{Type: "reports.creditModel.generate.successful", Company: quillfeath, Generated: at}},
		{"payables.bill.created", codat.Head{Type: "payables.bill.created", Company: quillfeath, Generated: at}},
		{"AccountCategoriesUpdated", codat.Head{Type: "AccountCategoriesUpdated", Company: larkspur, Connection: ledger, Connections: []string{ledger}}},
		{"DataConnectionStatusChanged", codat.Head{Type: "DataConnectionStatusChanged", Company: larkspur, Connection: ledger, Connections: []string{ledger}, Platform: "zzac"}},
		{"PushOperationStatusChanged", codat.Head{Type: "PushOperationStatusChanged", Company: larkspur, Connection: ledger, Connections: []string{ledger}, PushOperation: "9a5500e2-0000-4000-8000-000000000001"}},
		{"ClientRateLimitReset", codat.Head{Type: "ClientRateLimitReset"}},
		{"trap/connection-only-in-data", codat.Head{Type: "DataConnectionStatusChanged", Company: larkspur, Connection: shop, Connections: []string{shop}, Platform: "zzsh"}},
		{"trap/push-operation-guid", codat.Head{Type: "PushOperationTimedOut", Company: quillfeath, PushOperation: "9a5500e2-0000-4000-8000-000000000005"}},
		{"trap/push-operation-in-pascal-case", codat.Head{Type: "PushOperationStatusChanged", Company: larkspur, Connection: ledger, Connections: []string{ledger}, PushOperation: "9a5500e2-0000-4000-8000-000000000004"}},
		{"trap/read-of-several-connections", codat.Head{Type: "read.completed", Company: larkspur, Connections: []string{ledger, bank, shop}, Generated: at}},
		{"trap/dates-without-zone", codat.Head{Type: "invoices.write.successful", Company: larkspur, Connection: ledger, Connections: []string{ledger}, PushOperation: "9a5500e3-0000-4000-8000-000000000003", Generated: time.Date(2026, 2, 3, 10, 15, 30, 765_432_100, time.UTC)}},
		{"trap/source-account-without-id", codat.Head{Type: "bankFeeds.sourceAccount.connected", Company: larkspur, Connection: bank, Connections: []string{bank}, Generated: at}},
	} {
		t.Run(test.example, func(t *testing.T) {
			e, ok := examples.Of(test.example)
			if !ok {
				t.Fatal("no such example")
			}
			got, err := codat.Read(e.Body)
			if err != nil {
				t.Fatalf("Read: %v", err)
			}
			if (got.EventID == "") != (test.example == "trap/source-account-without-id") {
				t.Errorf("EventID = %q; want it wherever the body has one", got.EventID)
			}
			got.EventID = ""
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Read differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRead_OddBodies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, body string
		want       codat.Head
	}{
		{"eventType comes before RuleType, and that before type", `{"type":"a","RuleType":"b","eventType":"c"}`, codat.Head{Type: "c"}},
		{"RuleType comes before type", `{"type":"a","RuleType":"b"}`, codat.Head{Type: "b"}},
		{"a type that is no text is as if absent", `{"eventType":7,"RuleType":null,"Type":"a.b"}`, codat.Head{Type: "a.b"}},
		{"an empty type too", `{"eventType":"","type":"a.b"}`, codat.Head{Type: "a.b"}},
		{"names in any case", `{"EVENTTYPE":"a.b","Id":"1","Payload":{"ReferenceCompany":{"ID":"c"}}}`, codat.Head{Type: "a.b", EventID: "1", Company: "c"}},
		{"names and types with escapes", `{"event\u0054ype":"company.\u0063reated","payload":{"i\u0064":"\u00e9\""}}`, codat.Head{Type: "company.created", Company: `é"`}},
		{"a misspelling with escapes", `{"eventType":"bill\u002ewrite.successful","payload":{"id":"p"}}`, codat.Head{Type: "bills.write.successful", PushOperation: "p"}},
		{"white space wherever it may be", " \t\r\n{ \"type\" :\n\"a.b\" , \"id\"\t: \"1\" }\n", codat.Head{Type: "a.b", EventID: "1"}},
		{"the last of two counts", `{"eventType":"a","eventType":"b"}`, codat.Head{Type: "b"}},
		{"the last of two that is a text", `{"eventType":"a","eventType":null}`, codat.Head{Type: "a"}},
		{"the last of two payloads, as a whole", `{"eventType":"company.created","payload":{"id":"x"},"payload":{}}`, codat.Head{Type: "company.created"}},
		{"a payload that is no object", `{"eventType":"company.created","payload":["id"],"CompanyId":"c"}`, codat.Head{Type: "company.created", Company: "c"}},
		{"ids of other kinds", `{"eventType":"bills.write.successful","id":1,"generatedDate":{},"payload":{"id":[],"connectionId":2,"referenceCompany":"c","connection":7,"dataTypes":{"connectionId":"x"}},"Data":false}`, codat.Head{Type: "bills.write.successful"}},
		{"data types of other kinds", `{"eventType":"a","payload":{"dataTypes":[1,null,"x",[],{},{"connectionId":3},{"connectionId":""},{"connectionId":"b"},{"connectionId":"a"},{"connectionId":"b"}]}}`, codat.Head{Type: "a", Connections: []string{"a", "b"}}},
		{"a company's id is no push operation", `{"eventType":"company.deleted","payload":{"id":"c"}}`, codat.Head{Type: "company.deleted", Company: "c"}},
		{"a push operation is no company", `{"eventType":"bills.write.successful","payload":{"id":"p"}}`, codat.Head{Type: "bills.write.successful", PushOperation: "p"}},
		{"a report is neither", `{"eventType":"reports.creditModel.generate.successful","payload":{"id":"r"}}`, codat.Head{Type: "reports.creditModel.generate.successful"}},
		{"a new type that begins with company", `{"eventType":"company.renamed","payload":{"id":"c"}}`, codat.Head{Type: "company.renamed", Company: "c"}},
		{"a write of a new data type", `{"eventType":"teapots.write.successful","payload":{"id":"p"}}`, codat.Head{Type: "teapots.write.successful", PushOperation: "p"}},
		{"the company of the payload comes first", `{"eventType":"a","CompanyId":"x","payload":{"companyId":"y","referenceCompany":{"id":"z"}}}`, codat.Head{Type: "a", Company: "z"}},
		{"the connection comes before the connection id", `{"eventType":"a","DataConnectionId":"w","payload":{"connectionId":"x","connection":{"id":"y"},"dataTypes":[{"connectionId":"z"}]}}`, codat.Head{Type: "a", Connection: "y", Connections: []string{"y"}}},
		{"an unknown rule keeps its sentence", `{"RuleType":"Something New Happened"}`, codat.Head{Type: "Something New Happened"}},
		{"a dotted type is no sentence", `{"eventType":"sync.completed"}`, codat.Head{Type: "sync.completed"}},
		{"a type that no subject can hold", `{"eventType":"a b.*.>"}`, codat.Head{Type: "a b.*.>"}},
		{"bytes that are not UTF-8", "{\"eventType\":\"a.b\",\"id\":\"x\xff\xfey\"}", codat.Head{Type: "a.b", EventID: "x\ufffd\ufffdy"}},
		{"half a surrogate pair", `{"eventType":"a.b","id":"\ud800"}`, codat.Head{Type: "a.b", EventID: "\ufffd"}},
		{"a number of any size", `{"eventType":"a.b","n":1e999999,"m":` + strings.Repeat("9", 5000) + `}`, codat.Head{Type: "a.b"}},
		{"a name of any length", `{"` + strings.Repeat("eventType", 500) + `":"x","eventType":"a.b"}`, codat.Head{Type: "a.b"}},
		{"nesting that is deep", `{"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `,"eventType":"a.b"}`, codat.Head{Type: "a.b"}},
		{"brackets and quotes inside texts", `{"x":{"y":"}]\\\"{["},"eventType":"a.b"}`, codat.Head{Type: "a.b"}},
		{"a date that is impossible", `{"eventType":"a.b","generatedDate":"2026-02-03T23:59:99Z"}`, codat.Head{Type: "a.b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := codat.Read([]byte(test.body))
			if err != nil {
				t.Fatalf("Read: %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Read differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRead_NamesLegacyRules(t *testing.T) {
	t.Parallel()
	for want, sentences := range map[codat.Name[any]][]string{
		"AccountCategoriesUpdated":     {"Account Categories Updated", "Account categories updated", "account-categories-updated"},
		"DataConnectionStatusChanged":  {"DataConnectionStatusChanged", "Company data connection status changed"},
		"NewCompanySynchronized":       {"New company synchronized", "New company synchronised"},
		"DataSyncCompleted":            {"Data sync completed"},
		"DatasetDataChanged":           {"Dataset data changed"},
		"DataSyncStatusChangedToError": {"Data Sync Status Changed To Error", "Dataset status has changed to an error state"},
		"PushOperationStatusChanged":   {"Push Operation Status Changed()", "Push Operation Status Changed", "Push operation status has changed", "PushOperationStatusChanged"},
		"PushOperationTimedOut":        {"Push Operation Timed Out", "Push operation has timed out"},
		"SyncConnectionDeleted":        {"Sync Connection Deleted"},
		"SyncStarted":                  {"Sync Started", "Expense sync started"},
		"SyncCompleted":                {"Sync Completed", "Sync Complete", "Expenses sync completed"},
		"SyncFailed":                   {"Sync Failed", "Expenses sync failed"},
		"ClientRateLimitReached":       {"Rate Limit Reached", "Client rate limit reached", "Client rate limit exceeded"},
		"ClientRateLimitReset":         {"Rate Limit Reset", "Client rate limit reset"},
	} {
		for _, sentence := range sentences {
			for _, member := range []string{"RuleType", "Type", "type", "eventType"} {
				body := fmt.Sprintf(`{%q:%q}`, member, sentence)
				if got, err := codat.Read([]byte(body)); got.Type != string(want) || err != nil {
					t.Errorf("Read(%s) = %q, %v; want %s", body, got.Type, err, want)
				}
			}
		}
	}
}

func TestRead_AcceptsMisspellingsOfDocumentation(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"bill.write.successful":                                 "bills.write.successful",
		"bill.write.unsuccessful":                               "bills.write.unsuccessful",
		"connection.conneected":                                 "connection.connected",
		"report.categorizedBankStatement.generate.successful":   "reports.categorizedBankStatement.generate.successful",
		"report.categorizedBankStatement.generate.unsuccessful": "reports.categorizedBankStatement.generate.unsuccessful",
		"report.creditModel.generate.successful":                "reports.creditModel.generate.successful",
		"report.creditModel.generate.unsuccessful":              "reports.creditModel.generate.unsuccessful",
		"report.spendAnalysis.generate.successful":              "reports.spendAnalysis.generate.successful",
		"report.spendAnalysis.generate.unsuccessful":            "reports.spendAnalysis.generate.unsuccessful",
	} {
		if got, err := codat.Read([]byte(`{"eventType":"` + from + `"}`)); got.Type != want || err != nil {
			t.Errorf("Read(%s).Type = %q, %v; want %s", from, got.Type, err, want)
		}
	}
}

func TestRead_Errors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, body string
		want       error
	}{
		{"nothing", "", codat.ErrEmpty},
		{"white space", " \r\n\t", codat.ErrEmpty},
		{"text", "secret", codat.ErrNotJSON},
		{"an object that is cut", `{"eventType":"secret`, codat.ErrNotJSON},
		{"a byte order mark", "\ufeff" + `{"eventType":"secret"}`, codat.ErrNotJSON},
		{"a comment", `/* secret */ {"eventType":"a.b"}`, codat.ErrNotJSON},
		{"a form", "eventType=secret", codat.ErrNotJSON},
		{"nesting without end", strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), codat.ErrNotJSON},
		{"nesting without end inside an object", `{"x":` + strings.Repeat(`{"x":`, 100_000), codat.ErrNotJSON},
		{"a zero byte behind", "{\"eventType\":\"a.b\"}\x00", codat.ErrTrailing},
		{"a second object behind", `{"eventType":"secret"}{}`, codat.ErrTrailing},
		{"a brace too many", `{"eventType":"secret"}}`, codat.ErrTrailing},
		{"an array", `[{"eventType":"secret"}]`, codat.ErrNotObject},
		{"a text", `"secret"`, codat.ErrNotObject},
		{"a number", `12345678`, codat.ErrNotObject},
		{"null", `null`, codat.ErrNotObject},
		{"an object without members", `{}`, codat.ErrNoType},
		{"a ping", `{"success":true}`, codat.ErrNoType},
		{"types that are no texts", `{"eventType":1,"RuleType":["secret"],"type":{}}`, codat.ErrNoType},
		{"a type inside the payload", `{"payload":{"eventType":"secret"}}`, codat.ErrNoType},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := codat.Read([]byte(test.body))
			if !errors.Is(err, test.want) || !errors.Is(err, codat.ErrUnreadable) {
				t.Errorf("Read = %v; want %v, which is ErrUnreadable", err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("Read = %v; want an error that does not quote the body", err)
			}
		})
	}
}

func TestRead_WithoutTypeReturnsTheRest(t *testing.T) {
	t.Parallel()
	got, err := codat.Read([]byte(`{"companyId":"c","connectionId":"x","id":"1","DataConnectionId":"d"}`))
	want := codat.Head{EventID: "1", Company: "c", Connection: "d", Connections: []string{"d"}}
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, codat.ErrNoType) {
		t.Errorf("Read = %v; want ErrNoType and (-want +got):\n%s", err, diff)
	}
}

func TestRead_DoesNotKeepBody(t *testing.T) {
	t.Parallel()
	e, _ := examples.Of("trap/read-of-several-connections")
	want, _ := codat.Read(e.Body)
	got, _ := codat.Read(e.Body)
	clear(e.Body)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a head changed with its body (-before +after):\n%s", diff)
	}
}

func TestRead_Allocations(t *testing.T) {
	e, _ := examples.Of("invoices.write.successful")
	got := testing.AllocsPerRun(100, func() {
		if _, err := codat.Read(e.Body); err != nil {
			t.Fatal(err)
		}
	})
	// The texts of event, company, connection, push operation and date, and the slice of
	// connections; the race detector adds to them.
	if want := 8.0; got > want {
		t.Errorf("Read takes %v allocations; want %v at most", got, want)
	}
}

func FuzzRead(f *testing.F) {
	for _, e := range examples.All() {
		f.Add(e.Body)
	}
	for _, body := range []string{
		"", "null", "[]", "{}", "{}{}", `{"type":"a"}x`, "\ufeff{}", "\x00", `{"":""}`, `{"eventType":""}`,
		`{"eventType":"\ud800\u0000"}`, "{\"eventType\":\"\xff\"}", `{"a":"\\","type":"\\\""}`,
		`{"type":"a","type":1,"TYPE":"b"}`, `{"type":"a","payload":{"dataTypes":[{"connectionId":"y"},{"connectionId":"x"},{"connectionId":"y"}]}}`,
		`{ "type" : [ ] , "RuleType" : "Rate Limit Reset" , "Data" : { "platformKey" : "x" } } `, `{"n":-1.5e+7,"type":"a"}`,
		strings.Repeat(`{"payload":`, 50), strings.Repeat("[", 11_000),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		h, err := codat.Read(body)
		if !bytes.Equal(body, before) {
			t.Fatal("Read changed the body")
		}
		if err != nil {
			if !errors.Is(err, codat.ErrUnreadable) {
				t.Fatalf("Read = %v; want an ErrUnreadable", err)
			}
			var object map[string]json.RawMessage
			if readable := json.Unmarshal(body, &object) == nil && object != nil; readable != errors.Is(err, codat.ErrNoType) {
				t.Fatalf("Read = %v of a body that encoding/json reads as an object: %v", err, readable)
			}
		}
		if (err == nil) == (h.Type == "") {
			t.Fatalf("Read = type %q, %v; want a type or an error", h.Type, err)
		}
		if !slices.IsSorted(h.Connections) || len(slices.Compact(slices.Clone(h.Connections))) != len(h.Connections) {
			t.Fatalf("Connections = %q; want each once and in order", h.Connections)
		}
		if one := len(h.Connections) == 1; one != (h.Connection != "") || one && h.Connections[0] != h.Connection {
			t.Fatalf("Connection = %q of %q; want the only one", h.Connection, h.Connections)
		}
		for _, s := range append([]string{h.Type, h.EventID, h.Company, h.PushOperation, h.Platform}, h.Connections...) {
			if !utf8.ValidString(s) {
				t.Fatalf("a head holds %q; want UTF-8", s)
			}
		}
		if !h.Generated.IsZero() && h.Generated.Location() != time.UTC {
			t.Fatalf("Generated = %v; want UTC", h.Generated)
		}
		// The same JSON in other white space has the same head.
		for _, indent := range []string{"", "\t"} {
			var other bytes.Buffer
			if json.Indent(&other, body, "", indent) != nil {
				continue
			}
			again, _ := codat.Read(other.Bytes())
			if diff := cmp.Diff(h, again); diff != "" {
				t.Fatalf("the head differs with the white space (-got +indented):\n%s", diff)
			}
		}
	})
}
