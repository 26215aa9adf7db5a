package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/stream"
)

// What is set is set, and the rest of the body keeps its bytes, with every digit.
func TestSend_SetsMembers(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	c := headgate(t, 0, "send", "bankFeeds.sourceAccount.connected", "--to", w.URL, "--secret", secret,
		"--set", "payload.sourceAccount.accountName=a, \"b\" = \x1b", "--set", "payload.sourceAccount.seats=12345678901234567890.10", "--set", "payload.list.1.x=null", "--set", "payload.sourceAccount.currency=\"1\"")
	contains(t, c.out.String(), "204  bankFeeds.sourceAccount.connected")
	var got struct {
		Payload struct {
			SourceAccount map[string]json.RawMessage
			List          []any
		}
	}
	if err := json.Unmarshal([]byte(w.bodies[0]), &got); err != nil {
		t.Fatal(err)
	}
	account := got.Payload.SourceAccount
	if string(account["accountName"]) != `"a, \"b\" = \u001b"` || string(account["seats"]) != "12345678901234567890.10" || len(got.Payload.List) != 2 || string(account["currency"]) != `"1"` {
		t.Errorf("it sends %s", w.bodies[0])
	}
	contains(t, w.bodies[0], `"availableBalance": 1700.00000000000000000001`)

	c = headgate(t, 0, "send", "company.created", "--to", w.URL, "--secret", secret, "--set", "eventType=company.deleted")
	contains(t, c.out.String(), "204  company.deleted")
	for args, says := range map[string]string{
		"company.created --set x":            "--set must be PATH=VALUE",
		"company.created --set =x":           "--set must be PATH=VALUE",
		"company.created --set a.*.b=1":      "names of members",
		"company.created --set a.99999999=1": "an index must be at most",
		"--all --set a=1":                    "change one body",
		"--all-types --edit":                 "change one body",
		"--file - --edit":                    "needs standard input",
		"company.created --rate=-1":          "--rate must be greater than 0",
		"company.created --retry-after 0s":   "--retry-after must be greater than 0s",
		"company.created --forge --retry":    "leave out",
		"company.created --from-event msg_1": "give one of",
		"company.created --forge --rate 1":   "leave out",
	} {
		contains(t, headgate(t, 2, append(strings.Fields("send --to "+w.URL+" --secret "+secret), strings.Fields(args)...)...).err.String(), says)
	}
	contains(t, begin(t, "not JSON", "send", "--file", "-", "--set", "a=1", "--to", w.URL, "--secret", secret).exit(2).err.String(), "the body is not JSON")
}

// The company's id is another one wherever it is; an example without a company is refused, and with --all sent as it is.
func TestSend_PutsAnotherCompanyIntoTheBody(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	const company = `c "\1`
	headgate(t, 0, "send", "--all", "--company", company, "--to", w.URL, "--secret", secret)
	for i, e := range examples.All() {
		before, _ := codat.Read(e.Body)
		after, _ := codat.Read([]byte(w.bodies[i]))
		switch {
		case before.Company == "" && w.bodies[i] != string(e.Body):
			t.Errorf("%s has no company, and is changed: %s", e.Name, w.bodies[i])
		case before.Company != "" && (after.Company != company || strings.Contains(w.bodies[i], before.Company)):
			t.Errorf("%s has company %q: %s", e.Name, after.Company, w.bodies[i])
		}
	}
	contains(t, headgate(t, 2, "send", "client.rateLimit.reached", "--company", "x", "--to", w.URL, "--secret", secret).err.String(), "the body has no company")
}

// The editor has the body in a file that only the user can read, and what it leaves is sent.
func TestSend_EditsTheBody(t *testing.T) {
	w := newWebhook(t, 204)
	seen := filepath.Join(t.TempDir(), "seen")
	t.Setenv("EDITOR", "false")
	t.Setenv("VISUAL", `f() { stat -c %a "$1" > `+seen+`; sed -i s/Larkspur/Finch/ "$1"; }; f`)
	headgate(t, 0, "send", "company.created", "--edit", "--company", "c-9", "--to", w.URL, "--secret", secret)
	if len(w.bodies) != 1 || !strings.Contains(w.bodies[0], "Finch Bakery") || !strings.Contains(w.bodies[0], `"c-9"`) {
		t.Errorf("it sends %q", w.bodies)
	}
	if mode, err := os.ReadFile(seen); err != nil || strings.TrimSpace(string(mode)) != "600" {
		t.Errorf("the file has mode %s, %v; want 600", mode, err)
	}
	t.Setenv("VISUAL", "")
	contains(t, headgate(t, 2, "send", "company.created", "--edit", "--to", w.URL, "--secret", secret).err.String(), `the editor "false" has failed`, "nothing was sent")
	t.Setenv("EDITOR", `sed -i 's/^{/?/'`)
	c := headgate(t, 0, "send", "company.created", "--edit", "--to", w.URL, "--secret", secret)
	contains(t, c.err.String(), "is not JSON", "quarantine")
	if len(w.bodies) != 2 || !strings.HasPrefix(w.bodies[1], "?") {
		t.Errorf("it sends %q", w.bodies)
	}
}

// An event that is not accepted is sent again after the pauses, under its id.
func TestSend_RetriesWhatIsNotAccepted(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int32
	var ids [3]string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := attempts.Add(1)
		ids[n-1] = r.Header.Get(stream.HeaderWebhookID)
		switch n {
		case 1:
			w.WriteHeader(503)
		case 2:
			panic(http.ErrAbortHandler) // no response
		}
	}))
	defer server.Close()
	c := headgate(t, 0, "send", "company.created", "--retry-after", "1ms,1ms,1h", "--to", server.URL, "--secret", secret)
	if ids[0] == "" || ids[1] != ids[0] || ids[2] != ids[0] {
		t.Errorf("the ids are %q; want one", ids)
	}
	contains(t, c.err.String(), "attempt 1 of 4 failed; the next is in 1ms, at 20", "no response", "attempt 2 of 4 failed")
	contains(t, c.out.String(), "503  company.created", "200  company.created")

	refused := newWebhook(t, 503)
	c = headgate(t, 1, "send", "company.created", "--retry-after", "1ms", "--to", refused.URL, "--secret", secret)
	contains(t, c.err.String(), "1 of 1 events were not accepted")
	if len(c.out.lines()) != 2 {
		t.Errorf("it prints %q; want two attempts", c.out.lines())
	}

	waits := begin(t, "", "send", "company.created", "--retry", "--to", refused.URL, "--secret", secret)
	waits.err.says(t, "attempt 1 of 8 failed; the next is in 5s")
	waits.stop()
	waits.exit(130)
}

func TestSend_KeepsToTheRate(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	began := time.Now()
	headgate(t, 0, "send", "company.created", "--count", "4", "--rate", "20", "--to", w.URL, "--secret", secret)
	if took := time.Since(began); len(w.ids) != 4 || took < 150*time.Millisecond {
		t.Errorf("%d events in %s; want 4 in 150 ms at least", len(w.ids), took)
	}
}

// A stored event is a fixture: of its type, with other ids and without what it tells of a company.
func TestSend_SendsAStoredEventRedacted(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	w := newWebhook(t, 204)
	r.event("invoices.write.successful", "msg_1")
	r.quarantined("msg_2", "not_json", []byte("?"))
	send := func(want int, args ...string) *command {
		return r.headgate(want, append([]string{"send", "--to", w.URL, "--secret", secret, "--from-event"}, args...)...)
	}
	c := send(0, "msg_1", "--company", "c-7")
	contains(t, c.err.String(), "event 1 of type invoices.write.successful, redacted: its ids are new")
	contains(t, c.out.String(), "204  invoices.write.successful")
	send(0, "#1")
	e, _ := examples.Of("invoices.write.successful")
	was, _ := codat.Read(e.Body)
	for i, body := range w.bodies {
		head, err := codat.Read([]byte(body))
		if err != nil || head.Type != was.Type || head.EventID == was.EventID || head.PushOperation == was.PushOperation || head.PushOperation == "" {
			t.Errorf("it sends %+v, %v", head, err)
		}
		if (head.Company == "c-7") != (i == 0) || strings.Contains(body, "Larkspur") || strings.Contains(body, was.Company) || w.ids[i] == "msg_1" {
			t.Errorf("it sends %s under %s", body, w.ids[i])
		}
	}
	contains(t, send(1, "msg_2").err.String(), "the body is not JSON, and cannot be redacted")
	contains(t, send(1, "msg_\x1b").err.String(), `"msg_\x1b"`)
	contains(t, send(1, "99").err.String(), "no message 99 in CODAT")
	if len(w.bodies) != 2 {
		t.Errorf("it sends %q", w.bodies[2:])
	}
}
