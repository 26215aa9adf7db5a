package plan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/plan"
)

const account = `{"name":"account","kind":"create","dataType":"chartOfAccounts","body":{"name":"Travel"}}`

// text is the JSON of a plan with these steps.
func text(steps ...string) string {
	return `{"id":"expense-1","company":"c-1","connection":"k-1","steps":[` + strings.Join(steps, ",") + `]}`
}

func TestParse_RefusesWhatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf(`{"name":"s%d","kind":"create","dataType":"customers","body":{}}`, i)
	}
	cost := func(body string) string {
		return `{"name":"cost","kind":"create","dataType":"directCosts","body":` + body + `}`
	}
	tests := []struct{ name, text, want string }{
		{"nothing", " ", "it is empty"},
		{"not JSON", "{\n\"id\": nope}", "line 2: invalid character"},
		{"cut off", `{"id":`, "cut off"},
		{"two plans", text(account) + text(account), "more after the JSON object"},
		{"a list", `[]`, "line 1: the plan: want an object, not array"},
		{"an unknown member", `{"id":"a","compny":"b"}`, `unknown field "compny"`},
		{"another type", "{\"id\":\"a\",\n\"steps\":[{\"name\":7}]}", "line 2: steps.name: want a string, not number"},
		{"steps by name", `{"steps":{}}`, "steps: want an array, not object"},
		{"a file that is a number", `{"steps":[{"file":{"content":1}}]}`, "steps.file.content: want a string in base64, not number"},
		{"a timeout in words", `{"steps":[{"timeoutMinutes":"5"}]}`, "steps.timeoutMinutes: want a whole number, not string"},
		{"an unknown member of a step", `{"steps":[{"name":"a"},{"boddy":{}}]}`, `steps[1]: json: unknown field "boddy"`},
		{"a file that is not base64", `{"steps":[{"file":{"content":"?"}}]}`, "steps[0]: illegal base64"},
		{"no step", text(), "steps: the plan has none"},
		{"10,000 steps", text(many...), "it has 10000, and at most 100 are possible: submit several plans"},
		{"an id with a dot", strings.Replace(text(account), "expense-1", "a.b", 1), "id: it has characters other than"},
		{"no company", strings.Replace(text(account), "c-1", "", 1), "company: it is empty"},
		{"a name twice", text(account, account), `steps[1]: name: steps[0] is "account" too`},
		{"a name with a brace", text(strings.Replace(account, `"account"`, `"a}"`, 1)), "steps[0]: name: it has characters other than"},
		{"an unknown kind", text(strings.Replace(account, "create", "upsert", 1)), `step "account": kind: there is no "upsert": use create, update, delete or attachment`},
		{"a data type that cannot be written", text(strings.Replace(account, "chartOfAccounts", "taxRates", 1)), `step "account": dataType: Codat documents no create of "taxRates": it documents that of bankAccounts,`},
		{"a data type that cannot be changed so", text(`{"name":"a","kind":"delete","dataType":"customers","record":"1"}`), `dataType: Codat documents no delete of "customers"`},
		{"no body", text(`{"name":"a","kind":"create","dataType":"customers"}`), `step "a": body: it is missing`},
		{"a body that is no object", text(`{"name":"a","kind":"create","dataType":"customers","body":[1]}`), "body: it is not a JSON object"},
		{"a body of a delete", text(`{"name":"a","kind":"delete","dataType":"bills","record":"1","body":{}}`), `body: a step of kind "delete" has none`},
		{"an update without a record", text(`{"name":"a","kind":"update","dataType":"customers","body":{}}`), "record: it is missing"},
		{"a create with a record", text(`{"name":"a","kind":"create","dataType":"customers","body":{},"record":"1"}`), `record: a step of kind "create" has none`},
		{"a record that is a path", text(`{"name":"a","kind":"delete","dataType":"bills","record":".."}`), `record: it is ".."`},
		{"an attachment without a file", text(`{"name":"a","kind":"attachment","dataType":"bills","record":"1"}`), "file: it is missing"},
		{"a file without a type", text(`{"name":"a","kind":"attachment","dataType":"bills","record":"1","file":{"name":"x","content":"eA=="}}`), "contentType are missing"},
		{"after an unknown step", text(`{"name":"a","kind":"create","dataType":"customers","body":{},"after":["b"]}`), `step "a": after[0]: the plan has no step "b"`},
		{"after itself", text(`{"name":"a","kind":"create","dataType":"customers","body":{},"after":["a"]}`), "it waits for itself"},
		{"a reference to an unknown step", text(account, cost(`{"lineItems":[{"accountRef":{"id":"${steps.acount.record.id}"}}]}`)), `step "cost": body.lineItems[0].accountRef.id: the plan has no step "acount"`},
		{"a reference to itself", text(cost(`{"a":"${steps.cost.record.id}"}`)), `body.a: it waits for itself`},
		{"a reference to what a step does not have", text(account, cost(`{"a":"${steps.account.attachment.id}"}`)), `body.a: step "account", of kind "create", has no attachment.id`},
		{"a reference to a deleted record", text(`{"name":"gone","kind":"delete","dataType":"bills","record":"1"}`, cost(`{"a":"${steps.gone.record.id}"}`)), `step "gone", of kind "delete", has no record.id`},
		{"no reference", text(cost(`{"a":"${account.id}"}`)), "${account.id} is no reference"},
		{"an open reference", text(cost(`{"a":"${steps.account"}`)), "a reference has no } at its end"},
		{"an escaped reference to nothing", text(cost(`{"a":"\u0024{steps.b.record.id}"}`)), `the plan has no step "b"`},
		{"a cycle", text(
			`{"name":"a","kind":"create","dataType":"customers","body":{},"after":["b"]}`,
			`{"name":"b","kind":"create","dataType":"customers","body":{"n":"${steps.c.record.id}"}}`,
			`{"name":"c","kind":"create","dataType":"customers","body":{},"after":["a"]}`,
		), "steps wait for each other: a → b → c → a"},
		{"a body over the limit", text(account, cost(`{"a":"`+strings.Repeat("x", plan.MaxBytes)+`"}`)), `at most 524288 are possible: step "cost" has the most`},
	}
	for _, tt := range tests {
		_, err := plan.Parse([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Parse() = %.300v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestParse_ListsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := plan.Parse([]byte(`{"id":"","company":"c","connection":"k","steps":[{"name":"a","kind":"create","dataType":"nope"},{"name":"b","kind":"delete","dataType":"bills"}]}`))
	for _, want := range []string{"id: it is empty", `step "a": dataType`, `step "a": body`, `step "b": record`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse() = %v; want %q too", err, want)
		}
	}
}

// references replaces what a step before it made, in strings only, and leaves every other byte as it is.
func TestRecord_Resolved(t *testing.T) {
	t.Parallel()
	body := `{"id":"${steps.account.record.id}", "n":12345678901234567890.10, "in":["to ${steps.account.record.id}!","$${steps.account.record.id}","$5","a\u0024{steps.account.record.id}b","\"quoted\" \u00e9"], "${steps.account.record.id}":null}`
	p, err := plan.Parse([]byte(text(account, `{"name":"cost","kind":"create","dataType":"directCosts","body":`+body+`}`,
		`{"name":"receipt","kind":"attachment","dataType":"directCosts","record":"${steps.cost.record.id}","file":{"name":"r.pdf","contentType":"application/pdf","content":"eA=="}}`)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.NewRecord(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolved(1); err == nil || !strings.Contains(err.Error(), "${steps.account.record.id} has no value") {
		t.Errorf("Resolved(1) before the account is made = %v", err)
	}
	r.Steps[0].Record, r.Steps[1].Record = `4"2`, "77"
	cost, err := r.Resolved(1)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"4\"2", "n":12345678901234567890.10, "in":["to 4\"2!","${steps.account.record.id}","$5","a4\"2b","\"quoted\" \u00e9"], "${steps.account.record.id}":null}`
	if diff := cmp.Diff(want, string(cost.Body)); diff != "" {
		t.Errorf("the body (-want +got):\n%s", diff)
	}
	receipt, err := r.Resolved(2)
	if err != nil || receipt.Record != "77" {
		t.Errorf("Resolved(2) = %q, %v; want the cost's record", receipt.Record, err)
	}
	if got := [][]int{p.Before(0), p.Before(1), p.Before(2)}; !cmp.Equal(got, [][]int{nil, {0}, {1}}) {
		t.Errorf("Before = %v", got)
	}
	if name, what := r.NeededBy("cost"); name != "receipt" || what != "record" {
		t.Errorf("NeededBy(cost) = %q, %q", name, what)
	}
}

// The hash does not depend on white space, and does on the content.
func TestPlan_Hash(t *testing.T) {
	t.Parallel()
	hash := func(text string) string {
		p, err := plan.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		h, err := p.Hash()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	one := hash(text(account))
	if other := hash(strings.ReplaceAll(text(account), ",", " ,\n ")); other != one {
		t.Error("white space changes the hash")
	}
	if other := hash(strings.Replace(text(account), "Travel", "travel", 1)); other == one {
		t.Error("another body has the same hash")
	}
}

// No input makes Parse panic, and a plan that it accepts has steps that resolve once the steps before them are done.
func FuzzParse(f *testing.F) {
	f.Add(text(account))
	f.Add(text(account, `{"name":"b","kind":"update","dataType":"customers","record":"${steps.account.record.id}","body":{"a":"$${","b":["\\\"${steps.account.record.id}"]}}`))
	f.Add(`{"id":"a","steps":[{"name":"a","body":{"a":"${`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := plan.Parse([]byte(text))
		if err != nil {
			return
		}
		r, err := plan.NewRecord(p, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Steps {
			r.Steps[i].Record, r.Steps[i].Attachment = `re"cord`, "attachment"
		}
		for i := range r.Steps {
			s, err := r.Resolved(i)
			// Of a member that the body has twice, only the last is checked.
			if err != nil && !strings.Contains(err.Error(), "no value") && !strings.Contains(err.Error(), "reference") {
				t.Fatal(err)
			}
			if err == nil && len(s.Body) > 0 && !json.Valid(s.Body) {
				t.Fatalf("the body %q is not JSON", s.Body)
			}
		}
	})
}

func TestReply_KeepsTheKindOfAnError(t *testing.T) {
	t.Parallel()
	for _, err := range []error{plan.ErrConflict, plan.ErrNotFound, plan.ErrRefused} {
		wrapped := fmt.Errorf("%w: more", err)
		if r := plan.ReplyError(wrapped); r.Code == "" || r.Error != wrapped.Error() {
			t.Errorf("ReplyError(%v) = %+v", wrapped, r)
		}
	}
	if r := plan.ReplyError(errors.New("other")); r.Code != "" || r.Error != "other" {
		t.Errorf("ReplyError(other) = %+v", r)
	}
}
