package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

func TestQuarantineList_PrintsMessages(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	if c := r.headgate(0, "quarantine", "list"); c.out.String() != "" {
		t.Errorf("an empty quarantine is %q", c.out.String())
	}
	r.quarantined("msg_1", "not_json", []byte("not json"))
	r.event("company.created", "msg_2")
	sequence := r.quarantined("msg_3", "no_type", []byte(`{"payload":{"companyId":"c-1"}}`))
	c := r.headgate(0, "quarantine", "list")
	got := c.out.lines()
	if len(got) != 2 {
		t.Fatalf("it prints %q; want two lines", got)
	}
	contains(t, got[0], "1\t", "\tnot_json\tmsg_1\t-\t8")
	contains(t, got[1], fmt.Sprint(sequence), "\tno_type\tmsg_3\tc-1\t31")
	contains(t, c.err.String(), "2 messages")
	for args, want := range map[string]string{
		"--cause no_type": "msg_3", "--company c-1": "msg_3", "--connection k-1": "", "--id msg_1": "msg_1", "--until 2h": "", "--since 2h --limit 1": "msg_1",
	} {
		c := r.headgate(0, append([]string{"quarantine", "list", "--json"}, strings.Fields(args)...)...)
		var ids []string
		for _, e := range decode[printedEvent](t, c.out.lines()) {
			ids = append(ids, e.WebhookID)
		}
		if strings.Join(ids, " ") != want {
			t.Errorf("quarantine list %s = %q; want %q", args, ids, want)
		}
	}
	events := decode[printedEvent](t, r.headgate(0, "quarantine", "list", "--json").out.lines())
	if len(events) != 2 || events[1].Sequence != sequence || events[1].Reason != "no_type" || events[1].Company != "c-1" || events[1].Bytes != 31 {
		t.Errorf("for programs it prints %+v", events)
	}
}

func TestQuarantineShow_PrintsPayloadOnRequest(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.quarantined("msg_1", "not_json", []byte("not \x1b json"))
	r.event("company.created", "msg_2")
	c := r.headgate(0, "quarantine", "show", "1")
	contains(t, c.out.String(), "not_json", "msg_1", "application/json", "10 bytes")
	for _, word := range []string{"v1,x", "not \\x1b json"} {
		if strings.Contains(c.out.String(), word) {
			t.Errorf("it prints %q, which was not requested", word)
		}
	}
	contains(t, r.headgate(0, "quarantine", "show", "1", "--payload").out.String(), `not \x1b json`, "webhook-signature: v1,x")
	shown := decode[printedEvent](t, r.headgate(0, "quarantine", "show", "1", "--json", "--payload").out.lines())[0]
	if string(shown.Encoded) != "not \x1b json" || shown.WebhookID != "msg_1" {
		t.Errorf("for programs it prints %+v", shown)
	}
	for _, number := range []string{"2", "9"} {
		contains(t, r.headgate(1, "quarantine", "show", number).err.String(), "not in the quarantine", "headgate quarantine list")
	}
}

// What is released is what the ingress would have stored, had it known the type.
func TestQuarantineRelease_StoresEventOnce(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	const text = `{"generatedDate":"2026-01-02T03:04:05Z","payload":{"companyId":"c-1","connectionId":"k-1"}}`
	number := r.quarantined("msg_1", "no_type", []byte(text))
	was := r.message(source.Stream(), number)

	c := r.headgate(0, "quarantine", "release", fmt.Sprint(number), "--type", "connection.connected")
	contains(t, c.out.String(), "released 1 as connection.connected, sequence 2")
	if c.err.String() != "" {
		t.Errorf("it warns: %s", &c.err)
	}
	got := r.message(source.Stream(), 2)
	if got.Subject != "codat.events.connection.connected" || string(got.Data) != text {
		t.Errorf("released %s: %s", got.Subject, got.Data)
	}
	wantHeaders(t, got.Header, map[string]string{
		jetstream.MsgIDHeader:         "release:msg_1:1",
		stream.HeaderWebhookID:        "msg_1",
		stream.HeaderWebhookTimestamp: "1700000000",
		stream.HeaderWebhookSignature: "v1,x",
		"ce-specversion":              "1.0",
		"ce-id":                       "msg_1",
		"ce-source":                   "/headgate/codat",
		"ce-type":                     "connection.connected",
		"ce-time":                     "2026-01-02T03:04:05Z",
		"ce-subject":                  "c-1",
		"ce-connectionid":             "k-1",
		"ce-receivedtime":             was.Header.Get("ce-receivedtime"),
		stream.HeaderContentType:      "application/json",
		stream.HeaderTraceParent:      was.Header.Get(stream.HeaderTraceParent),
		stream.HeaderQuarantineReason: "",
	})
	if d := r.records(); len(d) != 2 || d[1].Command != "quarantine release" || d[1].Given != 1 || d[1].Chosen["type"] != "connection.connected" {
		t.Errorf("the records are %+v", d)
	}

	// A second release stores nothing and says so.
	c = r.headgate(1, "quarantine", "release", fmt.Sprint(number), "--type", "company.created")
	contains(t, c.err.String(), "released before, as sequence 2")
	if st, err := r.JS.Stream(t.Context(), source.Stream()); err != nil || st.CachedInfo().State.LastSeq != 2 {
		t.Errorf("the stream ends at %d, %v; want 2", st.CachedInfo().State.LastSeq, err)
	}
}

func TestQuarantineRelease_AcceptsUnreadableBody(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.quarantined("msg_1", "not_json", []byte("not json"))
	c := r.headgate(0, "quarantine", "release", "1", "--type", "brandnew.type", "--unknown-type", "--json")
	want := operator.Released{Number: 1, WebhookID: "msg_1", Type: "brandnew.type", Sequence: 2}
	if got := decode[operator.Released](t, c.out.lines()); len(got) != 1 || got[0] != want {
		t.Errorf("it prints %s; want %+v", &c.out, want)
	}
	r.quarantined("msg_2", "not_json", []byte("not json"))
	c = r.headgate(0, "quarantine", "release", "3", "--type", "company.created")
	contains(t, c.err.String(), "a worker that takes it will make a dead letter of it")
	contains(t, r.headgate(1, "quarantine", "release", "2", "--type", "company.created").err.String(), "not in the quarantine")
}

// An id that cannot be an event's is in the quarantine under another, by which its release is known too.
func TestQuarantineRelease_AcceptsUnusualID(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.store(stream.Stored{ID: "msg.1", MsgID: "sha256-00ff", Quarantine: "bad_id", Received: time.Now()}, []byte("{}"))
	r.headgate(0, "quarantine", "release", "1", "--type", "company.created")
	wantHeaders(t, r.message(source.Stream(), 2).Header, map[string]string{
		jetstream.MsgIDHeader:  "release:sha256-00ff:1",
		stream.HeaderWebhookID: "msg.1",
	})
}
