package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// tail follows until the test stops it, and has begun when it returns.
func (r *broker) tail(args ...string) *command {
	r.Helper()
	c := begin(r, "", append([]string{"tail", "--nats-url", r.URL}, args...)...)
	c.err.says(r, "following")
	return c
}

func TestTail_EndsAtTheLimitOfWhatItsFiltersChoose(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	e, _ := examples.Of("connection.connected")
	head, err := codat.Read(e.Body)
	if err != nil {
		t.Fatal(err)
	}
	c := r.tail("--type", "connection.*", "--company", head.Company, "--connection", head.Connection, "--limit", "2", "-o", "id")
	other := r.tail("--company", "another", "--connection", head.Connection, "--limit", "1", "-o", "id")
	for i, typ := range []string{"company.created", "connection.connected", "invoices.write.successful", "connection.connected", "connection.connected"} {
		r.event(typ, fmt.Sprintf("msg_%d", i))
	}
	if got := c.exit(0).out.String(); got != "msg_1\nmsg_3\n" {
		t.Errorf("tail prints %q; want msg_1 and msg_3", got)
	}
	r.store(stream.Stored{ID: "msg_9", Head: codat.Head{Type: "connection.connected", Company: "another", Connection: head.Connection}, Received: time.Now()}, []byte("{}"))
	if got := other.exit(0).out.String(); got != "msg_9\n" {
		t.Errorf("tail of another company prints %q; want msg_9", got)
	}
	contains(t, r.headgate(2, "tail", "-o", "json").err.String(), "use --output jsonl")
}

func TestTail_PrintsNewEvents(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.event("company.created", "msg_before")
	c := r.tail()
	sequence := r.event("connection.connected", "msg_1")
	r.quarantined("msg_2", "not_json", []byte("?"))
	c.out.says(t, "msg_2")
	c.stop()
	c.exit(0)
	got := c.out.lines()
	if len(got) != 2 {
		t.Fatalf("it prints %q; want two lines", got)
	}
	e, _ := examples.Of("connection.connected")
	head, _ := codat.Read(e.Body)
	contains(t, got[0], time.Now().Format("2006-01"), "connection.connected", "\t"+head.Company+"\tmsg_1\t")
	contains(t, got[0], fmt.Sprintf("%d\t", sequence))
	contains(t, got[1], "\t-\t-\tmsg_2\t-\tnot_json")
	if strings.Contains(c.out.String(), "payload") {
		t.Errorf("it prints a payload: %s", &c.out)
	}
}

func TestTail_FollowsFilter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, filter, want string
	}{
		{"a type", "company.created", "msg_1"},
		{"a pattern for one token", "*.write.successful", "msg_3"},
		{"a pattern for the rest", "co.>", ""},
		{"everything of a kind", "connection.>", "msg_2"},
		{"whole subjects", "codat.quarantine", "msg_4"},
	}
	r := newBroker(t)
	commands := make([]*command, len(tests))
	for i, tt := range tests {
		commands[i] = r.tail(tt.filter, "--json")
	}
	all := r.tail("--json")
	r.event("company.created", "msg_1")
	r.event("connection.connected", "msg_2")
	r.event("invoices.write.successful", "msg_3")
	r.quarantined("msg_4", "empty", nil)
	all.out.says(t, "msg_1", "msg_2", "msg_3", "msg_4")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := commands[i]
			c.out.says(t, tt.want)
			c.stop()
			for _, e := range decode[printedEvent](t, c.exit(0).out.lines()) {
				if e.WebhookID != tt.want {
					t.Errorf("tail %s prints %s; want %q only", tt.filter, e.WebhookID, tt.want)
				}
			}
		})
	}
}

func TestTail_WarnsOfUnknownType(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.tail("conection.connected").err.says(t, "unknown type conection.connected")
}

func TestTail_ResumesBehindWhatItPrinted(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	args := []string{"connection.*", "--durable", filepath.Join(t.TempDir(), "place"), "--json"}
	c := r.tail(args...)
	r.event("connection.created", "msg_1")
	c.out.says(t, "msg_1")
	c.stop()
	c.exit(0)

	r.event("connection.connected", "msg_while_shut")
	r.event("company.created", "msg_other")
	c = r.tail(args...)
	r.event("connection.deleted", "msg_2")
	c.out.says(t, "msg_2")
	c.stop()
	var ids []string
	for _, e := range decode[printedEvent](t, c.exit(0).out.lines()) {
		ids = append(ids, e.WebhookID)
	}
	if got := strings.Join(ids, " "); got != "msg_while_shut msg_2" {
		t.Errorf("the second tail prints %s; want what came since the first", got)
	}
}

// A tail that has caught up says so once, with what it printed or forwarded, also when nothing of what came matches.
func TestTail_SaysThatItHasCaughtUp(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	w := newWebhook(t, 204)
	file := filepath.Join(t.TempDir(), "place")
	args := []string{"connection.*", "--durable", file, "--forward-to", w.URL, "--secret", secret}
	c := r.tail(args...)
	c.stop()
	contains(t, c.exit(0).err.String(), "following")
	if strings.Contains(c.err.String(), "caught up") {
		t.Errorf("it says what it has not done: %s", &c.err)
	}

	e, _ := examples.Of("connection.connected")
	head, _ := codat.Read(e.Body)
	for n, ago := range []time.Duration{9*time.Hour + time.Minute, time.Hour} {
		r.store(stream.Stored{ID: fmt.Sprintf("msg_%d", n), Head: head, Received: time.Now().Add(-ago)}, e.Body)
	}
	r.event("company.created", "msg_other")
	c = r.tail(args...)
	c.err.says(t, "caught up 2 events of the last 9 h\n")
	r.event("connection.created", "msg_new")
	streamtest.Wait(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.ids) == 3
	}, "what is stored later is forwarded too")
	c.stop()
	c.exit(0)
	if got := strings.Join(w.ids, " "); got != "msg_0 msg_1 msg_new" || strings.Count(c.err.String(), "caught up") != 1 {
		t.Errorf("it forwards %s, and says %s", got, &c.err)
	}

	other := filepath.Join(t.TempDir(), "other")
	c = r.tail("connection.*", "--durable", other)
	c.stop()
	c.exit(0)
	r.event("company.created", "msg_other_2")
	c = r.tail("connection.*", "--durable", other)
	c.err.says(t, "caught up no events\n")
	for d, want := range map[time.Duration]string{5 * time.Second: "1 event of the last 5 s", 2 * time.Minute: "1 event of the last 2 min", 75 * time.Hour: "1 event of the last 3 days"} {
		if got := caughtUp(1, d); got != want {
			t.Errorf("caughtUp(1, %s) = %q; want %q", d, got, want)
		}
	}
}

func TestTail_BeginsWithTheFirstEventOfAnotherStream(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	file := filepath.Join(t.TempDir(), "place")
	if err := os.WriteFile(file, []byte(`{"stream_created":"2020-01-01T00:00:00Z","sequence":1000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.event("company.created", "msg_first")
	c := r.tail("--durable", file)
	c.out.says(t, "msg_first")
}

func TestTail_ContinuesInAStreamThatWasMadeAgain(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	for i := range 3 {
		r.event("company.created", fmt.Sprintf("msg_old_%d", i))
	}
	c := r.tail("--resume", filepath.Join(t.TempDir(), "place")) // the name before --durable
	r.event("company.created", "msg_old_3")
	c.out.says(t, "msg_old_3")
	if err := r.JS.DeleteStream(t.Context(), source.Stream()); err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, r.JS, stream.Layout{Source: source})
	r.event("company.created", "msg_new_1")
	c.out.says(t, "msg_new_1")
	c.err.says(t, "was deleted and made again")
	r.event("company.created", "msg_new_2")
	c.out.says(t, "msg_new_2")
}

func TestTail_RefusesAFileOfAnother(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	file := filepath.Join(t.TempDir(), "place")
	for _, notes := range []string{"my notes", `{"my": "notes"}`} {
		if err := os.WriteFile(file, []byte(notes), 0o600); err != nil {
			t.Fatal(err)
		}
		c := begin(r, "", "tail", "--nats-url", r.URL, "--durable", file)
		c.err.says(t, "was not written by headgate tail: choose another file")
		c.exit(1)
		if text, err := os.ReadFile(file); err != nil || string(text) != notes {
			t.Errorf("the file holds %q, %v; want it untouched", text, err)
		}
	}
}

// A stream that is restored from a backup keeps its time of creation, and may end before the position.
func TestTail_BeginsWithTheFirstEventOfAStreamThatEndsBeforeThePosition(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	file := filepath.Join(t.TempDir(), "place")
	r.event("company.created", "msg_first")
	st, err := r.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	position := tailPosition{Created: st.CachedInfo().Created, Sequence: 1000, file: file}
	if err := position.save(); err != nil {
		t.Fatal(err)
	}
	c := r.tail("--durable", file)
	c.out.says(t, "msg_first")
}

func TestTail_PrintsPayloadOnRequest(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	people, programs := r.tail("--payload"), r.tail("--payload", "--json")
	r.event("company.created", "msg_1")
	r.quarantined("msg_2", "not_json", []byte("\x1b[31mred"))
	people.out.says(t, `"eventType": "company.created"`, `\x1b[31mred`)
	programs.out.says(t, "msg_2")
	programs.stop()
	got := decode[printedEvent](t, programs.exit(0).out.lines())
	e, _ := examples.Of("company.created")
	if typ, err := codat.Read(got[0].Body); err != nil || typ.Type != "company.created" || got[0].Bytes != len(e.Body) {
		t.Errorf("the first body is %s", got[0].Body)
	}
	if got[1].Body != nil || string(got[1].Encoded) != "\x1b[31mred" {
		t.Errorf("the second body is %q, encoded %q; want it encoded", got[1].Body, got[1].Encoded)
	}
}

func TestTail_EscapesControlCharacters(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	lines, people, programs := r.tail(), r.tail("--payload"), r.tail("--payload", "--json")
	const name = "\u009b31m\x7f\u202ered"
	body := `{"name":"` + name + `"}`
	r.store(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "company.created", Company: "\x1b]0;title\a"}}, []byte(body))
	for _, c := range []*command{lines, people, programs} {
		c.out.says(t, "msg_1")
		c.stop()
		c.exit(0)
		if strings.ContainsAny(c.out.String(), "\x1b\a\u009b\x7f\u202e") {
			t.Errorf("it prints %q", c.out.String())
		}
	}
	contains(t, lines.out.String(), `\x1b]0;title\a`)
	contains(t, people.out.String(), `"name": "\u009b31m\u007f\u202ered"`)
	if got := decode[printedEvent](t, programs.out.lines()); string(got[0].Body) == body {
		t.Errorf("the body is printed as %s; want it escaped", got[0].Body)
	} else if v := decode[struct{ Name string }](t, []string{string(got[0].Body)}); v[0].Name != name {
		t.Errorf("the body has the name %q; want %q", v[0].Name, name)
	}
}

// A laptop gets the events of another installation: signed with its own key, and again until its service takes them.
func TestTail_ForwardsEachEventUntilItIsTaken(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	verifier, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	var posts atomic.Int32
	taken := make(chan string, 9)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verifier.Verify(body, r.Header); err != nil {
			t.Errorf("the signature: %v", err)
		}
		switch id := r.Header.Get("webhook-id"); {
		case posts.Add(1) == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case id == "msg_2":
			w.WriteHeader(http.StatusTeapot)
			fallthrough
		default:
			head, _ := codat.Read(body)
			taken <- id + " " + head.Type
		}
	}))
	defer receiver.Close()
	r := newBroker(t)
	c := r.tail("--forward-to", receiver.URL, "--secret-file", key)
	r.event("company.created", "msg_1")
	r.event("connection.connected", "msg_2")
	r.event("connection.deleted", "msg_3")
	for _, want := range []string{"msg_1 company.created", "msg_2 connection.connected", "msg_3 connection.deleted"} {
		select {
		case got := <-taken:
			if got != want {
				t.Errorf("the receiver took %s; want %s", got, want)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("the receiver did not get %s", want)
		}
	}
	c.err.says(t, "msg_1 is not forwarded yet: answered 503", "msg_2 is refused with 418: this is not a response of the ingress: check --forward-to")
	c.stop()
	c.exit(0)
	contains(t, headgate(t, 2, "tail", "--forward-to", "localhost:8080").err.String(), "--forward-to must be an http or https URL")
}
