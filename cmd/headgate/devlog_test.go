package main

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
)

func TestDevLog_WritesRequests(t *testing.T) {
	t.Parallel()
	const took, typ, id = 3 * time.Millisecond, "connection.connected", "msg_1"
	tests := []struct {
		name    string
		request process.Request
		want    string
	}{
		{
			"an event that a worker handles",
			process.Request{Outcome: "accepted", Status: 204, Type: typ, ID: id},
			"accepted connection.connected msg_1 204 in 3 ms",
		},
		{
			"an event that no worker handles",
			process.Request{Outcome: "accepted", Status: 204, Type: "company.created", ID: id},
			"accepted company.created msg_1 204 in 3 ms, no worker in this process takes it",
		},
		{
			"a duplicate",
			process.Request{Outcome: "duplicate", Status: 204, Type: typ, ID: id},
			"duplicate connection.connected msg_1 204 in 3 ms, stored before",
		},
		{
			"an unreadable body",
			process.Request{Outcome: "quarantined", Status: 204, ID: id, Quarantine: "not_json"},
			"quarantined - msg_1 204 in 3 ms, not_json: headgate quarantine list",
		},
		{
			"a refusal",
			process.Request{Outcome: "refused", Status: 401, Reason: "no_match"},
			"refused - - 401 in 3 ms, no_match: no key matches (1 key, ba2e5510): another key, or the body was changed after signing",
		},
		{
			"another path",
			process.Request{Outcome: "refused", Status: 404, Reason: "path"},
			"refused - - 404 in 3 ms, path: the webhook is /webhooks/codat",
		},
		{
			"a reason that says enough",
			process.Request{Outcome: "refused", Status: 413, Reason: "body_too_large"},
			"refused - - 413 in 3 ms, body_too_large",
		},
		{
			"control characters in the type",
			process.Request{Outcome: "refused", Status: 401, Type: "\x1b[31mred", Reason: "client_id"},
			`refused \x1b[31mred - 401 in 3 ms, client_id`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out screen
			tt.request.Took = took
			shown := (&devLog{out: &out, handled: []codat.Pattern{typ}, keys: []string{"ba2e5510"}}).RequestEnded(tt.request)
			if got := strings.Join(strings.Fields(out.String()), " "); got != tt.want || !shown {
				t.Errorf("RequestEnded = %t, %q; want %q", shown, got, tt.want)
			}
		})
	}
}

func TestDevLog_WritesDeliveries(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		delivery process.Delivery
		want     string
	}{
		{"done", process.Delivery{Outcome: "done", Attempt: 1}, "handled connection.connected msg_1 by connections, attempt 1 in 3 ms"},
		{
			"failed",
			process.Delivery{Outcome: "retry", Attempt: 2, Cause: "it is closed"},
			"failed connection.connected msg_1 by connections, attempt 2 in 3 ms: it is closed",
		},
		{
			"dead",
			process.Delivery{Outcome: "dead", Attempt: 12, Cause: "it is \x1b[31mclosed"},
			`gave up connection.connected msg_1 by connections, attempt 12 in 3 ms: it is \x1b[31mclosed: headgate dead list`,
		},
		{
			"a redrive",
			process.Delivery{Outcome: "done", Attempt: 1, Redrive: "monday"},
			"handled connection.connected msg_1 by connections, attempt 1 in 3 ms, redrive monday",
		},
		{"an outcome without a word", process.Delivery{Outcome: "lease_lost", Attempt: 1}, "lease_lost connection.connected msg_1 by connections, attempt 1 in 3 ms"},
		{"settled before", process.Delivery{Outcome: "already_settled"}, ""},
		{"taken by another process", process.Delivery{Outcome: "busy"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out screen
			d := tt.delivery
			d.Worker, d.Type, d.ID, d.Took = "connections", "connection.connected", "msg_1", 3*time.Millisecond
			shown := (&devLog{out: &out}).DeliveryEnded(d)
			if got := strings.Join(strings.Fields(out.String()), " "); got != tt.want || shown != (tt.want != "") {
				t.Errorf("DeliveryEnded = %t, %q; want %q", shown, got, tt.want)
			}
		})
	}
}

func TestDevLog_LeavesErrorsToLog(t *testing.T) {
	t.Parallel()
	var out screen
	quiet, talkative := &devLog{out: &out}, &devLog{out: &out, logged: true}
	tests := []struct {
		name  string
		shown bool
		want  bool
	}{
		{"a refusal at a quiet level", quiet.RequestEnded(process.Request{Outcome: "refused"}), true},
		{"an error at a quiet level", quiet.RequestEnded(process.Request{Outcome: "failed", Failed: true}), false},
		{"a request at a talkative level", talkative.RequestEnded(process.Request{Outcome: "accepted"}), false},
		{"a delivery at a quiet level", quiet.DeliveryEnded(process.Delivery{Outcome: "dead"}), true},
		{"a delivery at a talkative level", talkative.DeliveryEnded(process.Delivery{Outcome: "done"}), false},
	}
	for _, tt := range tests {
		if tt.shown != tt.want {
			t.Errorf("%s: shown = %t; want %t", tt.name, tt.shown, tt.want)
		}
	}
}
