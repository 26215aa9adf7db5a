package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/stream"
)

// tail follows until the test stops it, and has begun when it returns.
func (r *rig) tail(args ...string) *command {
	r.Helper()
	c := begin(r, "", append([]string{"tail", "--nats-url", r.URL}, args...)...)
	c.err.says(r, "following")
	return c
}

func TestTailPrintsEventsAsTheyCome(t *testing.T) {
	r := newRig(t)
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
	contains(t, got[0], time.Now().Format("2006-01"), "connection.connected", "company "+head.Company, "msg_1", fmt.Sprintf("#%d", sequence))
	contains(t, got[1], "quarantine: not_json", "company -")
	if strings.Contains(c.out.String(), "payload") {
		t.Errorf("it prints a payload: %s", &c.out)
	}
}

func TestTailFollowsWhatItIsAskedFor(t *testing.T) {
	tests := []struct {
		name, filter, want string
	}{
		{"a type", "company.created", "msg_1"},
		{"a pattern for one word", "*.write.successful", "msg_3"},
		{"a pattern for the rest", "co.>", ""},
		{"everything of a kind", "connection.>", "msg_2"},
		{"whole subjects", "codat.quarantine", "msg_4"},
	}
	r := newRig(t)
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
			for _, e := range decode[event](t, c.exit(0).out.lines()) {
				if e.WebhookID != tt.want {
					t.Errorf("tail %s prints %s; want %q only", tt.filter, e.WebhookID, tt.want)
				}
			}
		})
	}
}

func TestTailSuggestsATypeThatIsKnown(t *testing.T) {
	r := newRig(t)
	r.tail("conection.connected").err.says(t, "did you mean connection.connected?")
}

func TestTailDurableGoesOnWhereItEnded(t *testing.T) {
	r := newRig(t)
	args := []string{"connection.*", "--durable", "laptop", "--json"}
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
	for _, e := range decode[event](t, c.exit(0).out.lines()) {
		ids = append(ids, e.WebhookID)
	}
	if got := strings.Join(ids, " "); got != "msg_while_shut msg_2" {
		t.Errorf("the second tail prints %s; want what came since the first", got)
	}
	if _, err := r.JS.Consumer(t.Context(), source.Stream(), stream.TailPrefix+"laptop"); err != nil {
		t.Errorf("the consumer tail-laptop: %v", err)
	}
}

func TestTailWithPayloads(t *testing.T) {
	r := newRig(t)
	people, programs := r.tail("--payload"), r.tail("--payload", "--json")
	r.event("company.created", "msg_1")
	r.quarantined("msg_2", "not_json", []byte("\x1b[31mred"))
	people.out.says(t, `"eventType": "company.created"`, `\x1b[31mred`)
	programs.out.says(t, "msg_2")
	programs.stop()
	got := decode[event](t, programs.exit(0).out.lines())
	e, _ := examples.Of("company.created")
	if typ, err := codat.Read(got[0].Body); err != nil || typ.Type != "company.created" || got[0].Bytes != len(e.Body) {
		t.Errorf("the first body is %s", got[0].Body)
	}
	if got[1].Body != nil || string(got[1].Encoded) != "\x1b[31mred" {
		t.Errorf("the second body is %q, encoded %q; want it encoded", got[1].Body, got[1].Encoded)
	}
}

func TestTailGivesATerminalNothingThatItWouldObey(t *testing.T) {
	r := newRig(t)
	c := r.tail()
	r.store(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "company.created", Company: "\x1b]0;title\a"}}, []byte("{}"))
	c.out.says(t, "msg_1")
	if strings.ContainsAny(c.out.String(), "\x1b\a") {
		t.Errorf("it prints %q", c.out.String())
	}
	contains(t, c.out.String(), `\x1b]0;title\a`)
}

func TestTailOutlivesABroker(t *testing.T) {
	r := newRig(t)
	live, durable := r.tail(), r.tail("--durable", "laptop")
	r.event("company.created", "msg_1")
	live.out.says(t, "msg_1")
	durable.out.says(t, "msg_1")
	r.Restart()
	r.event("company.created", "msg_2")
	live.out.says(t, "msg_2")
	durable.out.says(t, "msg_2")
}
