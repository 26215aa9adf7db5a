package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// as is the access of tests: every request is this user's.
type as console.User

func (u as) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(console.WithUser(r.Context(), console.User(u))))
	})
}

var operatorUser = as{Name: "ada", View: true, Payload: true, Operate: true}

// newOperating returns a console that acts, for a user.
func newOperating(t *testing.T, js jetstream.JetStream, u as, keys ...signature.Key) *console.Console {
	t.Helper()
	o, err := operator.New(js, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	c, err := console.New(console.Options{
		JS: js, Source: source, Access: u, Log: zaptest.NewLogger(t), Operator: o, Keys: func() []signature.Key { return keys },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// post sends a form.
func send(c http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
	return w
}

// must checks that an answer has a status and texts, and that it is a page.
func must(t *testing.T, name string, w *httptest.ResponseRecorder, status int, texts ...string) string {
	t.Helper()
	body := w.Body.String()
	if w.Code != status {
		t.Fatalf("%s: status %d; want %d:\n%s", name, w.Code, status, body)
	}
	checkHTML(t, name, body)
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("%s lacks %q:\n%s", name, text, body)
		}
	}
	return body
}

// claim stores what became of an event in a worker.
func claim(t *testing.T, js jetstream.JetStream, worker, id string, r claims.Record) {
	t.Helper()
	bucket, err := js.KeyValue(t.Context(), stream.Source(source).ClaimsBucket(worker))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Put(t.Context(), claims.Key{WebhookID: id}.String(), text); err != nil {
		t.Fatal(err)
	}
}

func TestEvents_ListsFiltersAndPages(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	for i := range 60 {
		typ := []string{"invoices.write.successful", "read.completed"}[i%2]
		store(t, server.JS, stream.Stored{ID: fmt.Sprint("msg_", i), Head: codat.Head{Type: typ, Company: "acme", Connection: fmt.Sprint("c", i%3)}}, `{}`)
	}
	claim(t, server.JS, "writes", "msg_58", claims.Record{State: claims.Dead, Sequence: 59, Attempts: 3})
	c := newConsole(t, server.JS)

	body := must(t, "all", get(c, "/events"), 200, `href="/events/60"`, `href="/events/11"`, `href="/events?before=11"`, "writes dead")
	if strings.Contains(body, `href="/events/10"`) {
		t.Error("the first page has 51 events")
	}
	body = must(t, "older", get(c, "/events?before=11"), 200, `href="/events/10"`, `href="/events/1"`, "there are no older ones")
	if strings.Contains(body, `rel="next"`) {
		t.Error("the last page has a link to older events")
	}
	body = must(t, "type", get(c, "/events?type=invoices.*.*&connection=c0"), 200, `href="/events/1"`, `value="invoices.*.*"`)
	if strings.Contains(body, `href="/events/2"`) {
		t.Error("the filter lets other types through")
	}
	body = must(t, "outcome", get(c, "/events?outcome=dead"), 200, `href="/events/59"`, "<option selected>dead")
	if strings.Contains(body, `href="/events/60"`) {
		t.Error("the filter lets other outcomes through")
	}
	must(t, "nothing", get(c, "/events?company=nobody"), 200, "No event matches.", "excludes all of the 60 sequences")
	must(t, "bad", get(c, "/events?since=soon&before=x&outcome=lost&type=a..b"), 400, "The filter cannot be used", "how long ago", "before must be a number", "no outcome is")
}

func TestEvents_SaysWhatToDoWithoutAny(t *testing.T) {
	t.Parallel()
	must(t, "empty", get(newConsole(t, streamtest.New(t).JS), "/events"), 200, "No event is stored yet", "headgate send")
	must(t, "nothing provisioned", get(newConsole(t, streamtest.Empty(t).JS), "/events"), 404, "headgate provision")
}

func TestEvents_RecognisesIDs(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	store(t, server.JS, stream.Stored{ID: "msg_1", Head: codat.Head{Type: "invoices.write.successful", Company: "acme", Connection: "books"}}, `{}`)
	c := newConsole(t, server.JS)
	for id, want := range map[string]string{"msg_1": "/events/1", "%231": "/events/1", "1": "/events/1", "books": "/events?connection=books", "acme": "/companies/acme"} {
		if w := get(c, "/events?id="+id); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
			t.Errorf("id %s leads to %q with %d; want %q", id, w.Header().Get("Location"), w.Code, want)
		}
	}
	must(t, "unknown", get(c, "/events?id=nothing"), 404, "Nothing has this id", "claimed_id")
}

func TestEvent_TellsTheStory(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes, stream.WorkerSpec{Name: "reads", Types: []codat.Pattern{"read.completed"}})
	n := store(t, server.JS, stream.Stored{ID: "msg_1", Timestamp: "1", Signature: "v1,aGVsbG8=", Head: codat.Head{Type: "invoices.write.successful", Company: hostile, Connection: hostile}}, `{"memo":"SECRET"}`)
	claim(t, server.JS, "writes", "msg_1", claims.Record{State: claims.Dead, Sequence: n, Attempts: 3, Cause: "permanent", Last: time.Now(), LastError: hostile})
	bury(t, server.JS, deadletter.Letter{Worker: "writes", Type: "invoices.write.successful", WebhookID: "msg_1", Sequence: n, Attempts: 3, LastError: hostile, LastAttempt: time.Now()})
	c := newOperating(t, server.JS, operatorUser)
	body := must(t, "event", get(c, "/events/1"), 200, "<b>Received</b>", "as #1 on codat.events.invoices.write.successful", "dead after 3 attempts", "dead letter 1", "Not for reads",
		"headgate replay --worker writes --id msg_1", "Show the body", "&lt;script&gt;alert(1)")
	if strings.Contains(body, "SECRET") {
		t.Error("the page has the body")
	}
	must(t, "absent", get(c, "/events/2"), 404, "No event #2")
	must(t, "no number", get(c, "/events/x"), 404, "No such page")
}

func TestEvent_BodyNeedsTheRightAndIsRecorded(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	store(t, server.JS, stream.Stored{ID: "msg_1", Signature: "v1,SIGNED", Head: codat.Head{Type: "invoices.write.successful"}}, `{"memo":"SECRET `+"\u202e"+`<script>"}`)
	viewer := newOperating(t, server.JS, as{Name: "eve", View: true})
	body := must(t, "viewer", get(viewer, "/events/1"), 200, "needs the right")
	refused := must(t, "viewer posts", send(viewer, "/events/1/body"), 403, "needs the right payload")
	if strings.Contains(body+refused, "SECRET") || strings.Contains(body+refused, "SIGNED") {
		t.Error("a viewer sees the body, or the signature")
	}
	c := newOperating(t, server.JS, operatorUser)
	must(t, "body", send(c, "/events/1/body"), 200, "SECRET", `\u202e`, "&lt;script&gt;", "Exact bytes", "Shown to you, and recorded")
	m, err := server.JS.Stream(t.Context(), stream.Source(source).OperatorStream())
	if err != nil {
		t.Fatal(err)
	}
	record, err := m.GetLastMsgForSubject(context.Background(), stream.Source(source).OperatorSubject())
	if err != nil {
		t.Fatal(err)
	}
	var e operator.Entry
	if err := json.Unmarshal(record.Data, &e); err != nil || e.User != "ada" || e.Command != "console show body" || fmt.Sprint(e.Chosen["event"]) != "1" {
		t.Errorf("record %s, %v", record.Data, err)
	}
}

func TestEvent_ProvesAgain(t *testing.T) {
	t.Parallel()
	key, err := signature.ParseKey("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	server := streamtest.New(t, writes)
	at := time.Now().Add(-time.Hour)
	signed := stream.Stored{ID: "msg_1", Timestamp: fmt.Sprint(at.Unix()), Signature: key.Sign("msg_1", at, []byte(`{"a":1}`)), Head: codat.Head{Type: "invoices.write.successful"}}
	store(t, server.JS, signed, `{"a":1}`)
	signed.ID, signed.MsgID = "msg_2", "msg_2"
	store(t, server.JS, signed, `{"a":2}`)
	c := newOperating(t, server.JS, as{Name: "eve", View: true}, key)
	must(t, "true", send(c, "/events/1/proof"), 200, "The stored bytes are what was signed", key.Fingerprint())
	if body := must(t, "false", send(c, "/events/2/proof"), 200); strings.Contains(body, "are what was signed") {
		t.Error("another body is proven")
	}
}
