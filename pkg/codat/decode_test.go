package codat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
)

// decoded decodes an example into P, as a handler of a constant's type gets it.
func decoded[P any](t *testing.T, _ codat.Name[P], example string) P {
	t.Helper()
	e, ok := examples.Of(example)
	if !ok {
		t.Fatalf("no example %s", example)
	}
	payload, err := codat.Decode[P](e.Body)
	if err != nil {
		t.Fatalf("Decode(%s): %v", example, err)
	}
	return payload
}

func TestDecode_KeepsEveryDigit(t *testing.T) {
	t.Parallel()
	account := decoded(t, codat.SourceAccountConnected, "bankFeeds.sourceAccount.connected").SourceAccount
	if got, want := account.Balance.String(), "1880.10"; got != want {
		t.Errorf("Balance = %s; want %s", got, want)
	}
	if got, want := account.AccountInfo.AvailableBalance.String(), "1700.00000000000000000001"; got != want {
		t.Errorf("AvailableBalance = %s; want %s", got, want)
	}
	asText := decoded(t, codat.SourceAccountConnected, "trap/numbers-as-text").SourceAccount
	if got, want := asText.Balance.String(), "1880.10"; got != want {
		t.Errorf("Balance of a text = %s; want %s", got, want)
	}
}

func TestDecode_BodyWithoutEnvelope(t *testing.T) {
	t.Parallel()
	got := decoded(t, codat.SourceAccountConnected, "trap/source-account-without-envelope")
	if got.CompanyID != larkspur || got.ConnectionID != bank || got.BankAccount.ID != "till-3" || got.BankAccount.AccountType != "Credit" {
		t.Errorf("Decode = %s, %s, %s, %s; want what stands at the top of the body",
			got.CompanyID, got.ConnectionID, got.BankAccount.ID, got.BankAccount.AccountType)
	}
}

func TestDecode_RulesOfAllVersions(t *testing.T) {
	t.Parallel()
	pascal := decoded(t, codat.PushOperationStatusChanged, "trap/push-operation-in-pascal-case")
	want := codat.PushOperationStatusChangedData{DataType: codat.DataItems, Status: codat.Failed, PushOperationKey: "9a5500e2-0000-4000-8000-000000000004"}
	if diff := cmp.Diff(want, pascal.Data); diff != "" {
		t.Errorf("Data in Pascal case differs (-want +got):\n%s", diff)
	}
	older := decoded(t, codat.PushOperationTimedOut, "trap/push-operation-guid")
	if older.CompanyID != quillfeath || older.Type != "Push Operation Timed Out" || older.Data.Key() != "9a5500e2-0000-4000-8000-000000000005" {
		t.Errorf("older rule = %s, %s, %s; want its company, type and key", older.CompanyID, older.Type, older.Data.Key())
	}
	newer := decoded(t, codat.PushOperationTimedOut, "PushOperationTimedOut")
	if newer.Data.Key() != newer.Data.PushOperationKey {
		t.Errorf("Key() = %s; want the key by its newer name, %s", newer.Data.Key(), newer.Data.PushOperationKey)
	}
	null := decoded(t, codat.DataSyncStatusChangedToError, "trap/data-is-null")
	if diff := cmp.Diff(codat.DataSyncStatusChangedToErrorData{}, null.Data); diff != "" {
		t.Errorf("Data that is null differs (-want +got):\n%s", diff)
	}
}

func TestDecode_NullsAreZero(t *testing.T) {
	t.Parallel()
	null := func(t *testing.T, b []byte) []byte {
		t.Helper()
		nulls := map[string]any{}
		var members map[string]any
		if err := json.Unmarshal(b, &members); err != nil {
			t.Fatal(err)
		}
		for name, value := range members {
			nulls[name] = nil
			if inner, ok := value.(map[string]any); ok && (name == "payload" || name == "Data") {
				all := map[string]any{}
				for n := range inner {
					all[n] = nil
				}
				nulls[name] = all
			}
		}
		out, err := json.Marshal(nulls)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, e := range examples.All() {
		for _, body := range [][]byte{null(t, e.Body), []byte(`{"payload":null}`), []byte(`{"payload":{}}`), []byte(`{}`)} {
			if _, err := typeOf(t, e).Decode(body); err != nil {
				t.Errorf("Decode(%s) with nulls: %v; want none", e.Name, err)
			}
		}
	}
}

func TestDecode_Errors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, body string
		want       error
		says       string
	}{
		{"an id that is a number", `{"payload":{"id":12345678}}`, codat.ErrPayload, "id has the JSON type number"},
		{"a company that is a text", `{"payload":{"referenceCompany":"12345678"}}`, codat.ErrPayload, "referenceCompany has the JSON type string"},
		{"a tag that is a number", `{"payload":{"referenceCompany":{"tags":{"12345678":12345678}}}}`, codat.ErrPayload, "has the JSON type number"},
		{"a payload that is a text", `{"payload":"12345678"}`, codat.ErrPayload, "the payload has the JSON type string"},
		{"no JSON", `12345678x`, codat.ErrUnreadable, "data after"},
		{"no object", `[12345678]`, codat.ErrNotObject, "object"},
		{"nothing", ``, codat.ErrEmpty, "empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := codat.Decode[codat.Write]([]byte(test.body))
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Decode = %v; want %v that says %q", err, test.want, test.says)
			}
			if strings.Contains(err.Error(), "12345678") {
				t.Errorf("Decode = %v; want an error that does not quote the body", err)
			}
			if diff := cmp.Diff(codat.Write{}, got); diff != "" {
				t.Errorf("the payload beside the error differs (-want +got):\n%s", diff)
			}
		})
	}
	_, err := codat.Decode[codat.RateLimit]([]byte(`{"payload":{"dailyQuota":"12345678 a day"}}`))
	if !errors.Is(err, codat.ErrPayload) || strings.Contains(err.Error(), "12345678") {
		t.Errorf("Decode of an invalid number = %v; want ErrPayload without the value", err)
	}
}

func TestDecode_TakesLastPayload(t *testing.T) {
	t.Parallel()
	got, err := codat.Decode[codat.Write]([]byte(`{"payload":{"id":"a","connectionId":"b"},"PAYLOAD":{"id":"c"}}`))
	if err != nil || got.ID != "c" || got.ConnectionID != "" {
		t.Errorf("Decode = %q, %q, %v; want the last payload as a whole", got.ID, got.ConnectionID, err)
	}
}

func TestDecode_UnknownValuesAndMembers(t *testing.T) {
	t.Parallel()
	got, err := codat.Decode[codat.ReadResult]([]byte(`{"payload":{"new":1,"dataTypes":[{"dataType":"teapots","status":"Brewing","new":{}}]}}`))
	if err != nil || len(got.DataTypes) != 1 || got.DataTypes[0].DataType != "teapots" || got.DataTypes[0].Status != "Brewing" {
		t.Errorf("Decode = %+v, %v; want the unknown values", got, err)
	}
}

func TestTime_DecodesAndEncodes(t *testing.T) {
	t.Parallel()
	second := time.Date(2026, 2, 3, 10, 15, 30, 0, time.UTC)
	for _, test := range []struct {
		name, json string
		want       time.Time
	}{
		{"whole seconds", `"2026-02-03T10:15:30Z"`, second},
		{"one digit", `"2026-02-03T10:15:30.5Z"`, second.Add(500 * time.Millisecond)},
		{"seven digits", `"2026-02-03T10:15:30.1234567Z"`, second.Add(123_456_700)},
		{"more than nine digits", `"2026-02-03T10:15:30.123456789123Z"`, second.Add(123_456_789)},
		{"no zone is UTC", `"2026-02-03T10:15:30"`, second},
		{"no zone and seven digits", `"2026-02-03T10:15:30.1234567"`, second.Add(123_456_700)},
		{"another zone", `"2026-02-03T12:15:30+02:00"`, second},
		{"a zone without a colon", `"2026-02-03T12:15:30+0200"`, second},
		{"a blank for the T", `"2026-02-03 10:15:30"`, second},
		{"a day", `"2026-02-03"`, time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC)},
		{"an escape", `"2026-02-03T10:15:30\u005a"`, second},
		{"an impossible second", `"2026-02-03T23:59:99Z"`, time.Time{}},
		{"an impossible day", `"2026-02-31T10:15:30Z"`, time.Time{}},
		{"words", `"soon"`, time.Time{}},
		{"a number", `1770113730`, time.Time{}},
		{"an object", `{"at":"2026-02-03"}`, time.Time{}},
		{"nothing", `""`, time.Time{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got codat.Time
			if err := json.Unmarshal([]byte(test.json), &got); err != nil {
				t.Fatalf("Unmarshal: %v", err)
			}
			if !got.Equal(test.want) || got.Raw != test.json {
				t.Errorf("Unmarshal = %v, raw %s; want %v, %s", got.Time, got.Raw, test.want, test.json)
			}
			if got.Location() != time.UTC {
				t.Errorf("Location() = %v; want UTC", got.Location())
			}
			if b, err := json.Marshal(got); err != nil || string(b) != test.json {
				t.Errorf("Marshal = %s, %v; want %s", b, err, test.json)
			}
		})
	}
	t.Run("null is the zero time, over a former date too", func(t *testing.T) {
		got := codat.Time{Time: second, Raw: "x"}
		if err := json.Unmarshal([]byte("null"), &got); err != nil || got != (codat.Time{}) {
			t.Errorf("Unmarshal(null) = %v, %v; want zero", got, err)
		}
		if b, err := json.Marshal(got); err != nil || string(b) != "null" {
			t.Errorf("Marshal = %s, %v; want null", b, err)
		}
	})
	t.Run("a time that did not come from JSON", func(t *testing.T) {
		if b, err := json.Marshal(codat.Time{Time: second}); err != nil || string(b) != `"2026-02-03T10:15:30Z"` {
			t.Errorf("Marshal = %s, %v; want RFC 3339", b, err)
		}
	})
}

func TestDatasetStatus_Values(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status       codat.DatasetStatus
		isErr, final bool
	}{
		{codat.DatasetInitial, false, false},
		{codat.DatasetQueued, false, false},
		{codat.DatasetFetching, false, false},
		{codat.DatasetMapQueued, false, false},
		{codat.DatasetMapping, false, false},
		{codat.DatasetProcessingQueued, false, false},
		{codat.DatasetProcessing, false, false},
		{codat.DatasetValidationQueued, false, false},
		{codat.DatasetValidating, false, false},
		{codat.DatasetComplete, false, true},
		{codat.DatasetCancelled, false, true},
		{codat.DatasetNotSupported, false, true},
		{codat.DatasetFetchError, true, true},
		{codat.DatasetMapError, true, true},
		{codat.DatasetInternalError, true, true},
		{codat.DatasetProcessingError, true, true},
		{codat.DatasetValidationError, true, true},
		{codat.DatasetAuthError, true, true},
		{codat.DatasetRateLimitError, true, true},
		{codat.DatasetPermissionsError, true, true},
		{codat.DatasetPrerequisiteNotMet, true, true},
		{"Brewing", false, false},
		{"", false, false},
	} {
		if test.status.IsError() != test.isErr || test.status.IsFinal() != test.final {
			t.Errorf("%q: IsError, IsFinal = %v, %v; want %v, %v", test.status,
				test.status.IsError(), test.status.IsFinal(), test.isErr, test.final)
		}
	}
}

func TestPushStatus_Settled(t *testing.T) {
	t.Parallel()
	for status, want := range map[codat.PushStatus]bool{
		codat.Pending: false, codat.TimedOut: false, codat.Failed: true, codat.Success: true, "": false, "Brewing": false,
	} {
		if got := status.IsSettled(); got != want {
			t.Errorf("%q.IsSettled() = %v; want %v", status, got, want)
		}
	}
}

func TestReadResult_AuthErrorsNameEachConnectionOnce(t *testing.T) {
	t.Parallel()
	got := decoded(t, codat.ReadCompleted, "trap/read-of-several-connections").AuthErrors()
	if diff := cmp.Diff([]string{shop}, got); diff != "" {
		t.Errorf("AuthErrors() differs (-want +got):\n%s", diff)
	}
	if got := decoded(t, codat.ReadCompleted, "read.completed").AuthErrors(); got != nil {
		t.Errorf("AuthErrors() = %v of a read without any; want none", got)
	}
}

func TestWrite_HasPushOperationKey(t *testing.T) {
	t.Parallel()
	w := decoded(t, codat.InvoicesWriteSuccessful, "invoices.write.successful")
	h, err := codat.Read(mustBody(t, "invoices.write.successful"))
	if err != nil || w.PushOperationKey() == "" || w.PushOperationKey() != h.PushOperation {
		t.Errorf("PushOperationKey() = %q, Read says %q, %v; want the same", w.PushOperationKey(), h.PushOperation, err)
	}
}

func mustBody(t *testing.T, example string) []byte {
	t.Helper()
	e, ok := examples.Of(example)
	if !ok {
		t.Fatalf("no example %s", example)
	}
	return e.Body
}

func FuzzDecode(f *testing.F) {
	for _, e := range examples.All() {
		f.Add(e.Body)
	}
	for _, body := range []string{"", "{}", `{"payload":null}`, `{"payload":1}`, `{"payload":{"referenceCompany":{"tags":{"a":null}}}}`, `{"Data":[]}`, `{"payload":{"dailyQuota":1e999}}`} {
		f.Add([]byte(body))
	}
	catalog := codat.Catalog()
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		for _, typ := range catalog {
			payload, err := typ.Decode(body)
			if err != nil {
				if !errors.Is(err, codat.ErrUnreadable) && !errors.Is(err, codat.ErrPayload) {
					t.Fatalf("Decode(%s) = %v; want ErrUnreadable or ErrPayload", typ.Name, err)
				}
				continue
			}
			// What was decoded can be written, and is the same when it is decoded again.
			once, err := json.Marshal(payload)
			if err != nil {
				t.Fatalf("Marshal(%s): %v", typ.Name, err)
			}
			again, err := typ.Decode([]byte(`{"payload":` + string(once) + `}`))
			if err != nil {
				t.Fatalf("Decode(%s) of what Decode gave: %v", typ.Name, err)
			}
			if twice, err := json.Marshal(again); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("Decode(%s) again = %s, %v; want %s", typ.Name, twice, err, once)
			}
		}
		if !bytes.Equal(body, before) {
			t.Fatal("Decode changed the body")
		}
	})
}
