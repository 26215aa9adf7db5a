package ingress_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/stream"
)

// The table of docs/design.md, with a real listener and a real server. Each row is one request, and is stored as the row says
// or not at all.
func TestHandler_RespondsWithTheStatusOfTheTable(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	g, server := start(t, ours)

	good := event("invoices.write.successful")
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	method := func(name string) func(*http.Request) { return func(r *http.Request) { r.Method = name } }
	signedAt := func(when time.Time, id, body string) func(*http.Request) {
		return func(r *http.Request) { sign(r.Header, ours, id, when, body) }
	}
	chunked := func(r *http.Request) { r.ContentLength = -1 }
	by := func(k testKey, id, body string, changes ...func(*http.Request)) *http.Request {
		req := post(g.url, k, id, body)
		for _, change := range changes {
			change(req)
		}
		return req
	}
	gzipped := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}(good)
	large := `{"eventType":"company.created","padding":"` + strings.Repeat("x", maxBody-44) + `"}`
	oddID := "msg.with/dots"
	now := time.Now()
	digest := sha256.Sum256(fmt.Appendf(nil, "%s.%d.%s", oddID, now.Unix(), good))

	const none = "" // stored nowhere
	tests := []struct {
		name       string
		req        *http.Request
		status     int
		outcome    string
		why        string // reason of a refusal or of the quarantine
		subject    string
		msgID      string
		typeHeader string
	}{
		{"stored now", by(ours, "msg_1", good), 204, "accepted", "", "codat.events.invoices.write.successful", "msg_1", "invoices.write.successful"},
		{"stored before", by(ours, "msg_1", good), 204, "duplicate", "", none, "", ""},
		{"stored before, with another body", by(ours, "msg_1", event("company.created")), 204, "duplicate", "", none, "", ""},
		{"by PUT", by(ours, "msg_2", good, method("PUT")), 204, "accepted", "", "codat.events.invoices.write.successful", "msg_2", "invoices.write.successful"},
		{"in chunks", by(ours, "msg_3", good, chunked), 204, "accepted", "", "codat.events.invoices.write.successful", "msg_3", "invoices.write.successful"},
		{"with a query", by(ours, "msg_4", good, func(r *http.Request) { r.URL.RawQuery = "a=b" }), 204, "accepted", "", "codat.events.invoices.write.successful", "msg_4", "invoices.write.successful"},
		{"a legacy rule", by(ours, "msg_5", `{"RuleType":"Push Operation Status Changed()","CompanyId":"c-1"}`), 204, "accepted", "", "codat.events.PushOperationStatusChanged", "msg_5", "PushOperationStatusChanged"},
		{"an unknown type", by(ours, "msg_6", event("moon.landed")), 204, "accepted", "", "codat.events.moon.landed", "msg_6", "moon.landed"},
		{"as large as is allowed", by(ours, "msg_7", large), 204, "accepted", "", "codat.events.company.created", "msg_7", "company.created"},
		{"as large as is allowed, in chunks", by(ours, "msg_8", large, chunked), 204, "accepted", "", "codat.events.company.created", "msg_8", "company.created"},
		{"another content type", by(ours, "msg_9", good, header("Content-Type", "text/plain")), 204, "accepted", "", "codat.events.invoices.write.successful", "msg_9", "invoices.write.successful"},

		{"not JSON", by(ours, "msg_q1", "hello"), 204, "quarantined", "not_json", "codat.quarantine", "msg_q1", ""},
		{"not JSON, again", by(ours, "msg_q1", "hello"), 204, "duplicate", "not_json", none, "", ""},
		{"empty", by(ours, "msg_q2", ""), 204, "quarantined", "empty", "codat.quarantine", "msg_q2", ""},
		{"empty, in chunks", by(ours, "msg_q3", "", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("")), -1
		}), 204, "quarantined", "empty", "codat.quarantine", "msg_q3", ""},
		{"not an object", by(ours, "msg_q4", "[1]"), 204, "quarantined", "not_an_object", "codat.quarantine", "msg_q4", ""},
		{"something after the object", by(ours, "msg_q5", good+"x"), 204, "quarantined", "trailing_bytes", "codat.quarantine", "msg_q5", ""},
		{"no type", by(ours, "msg_q6", `{"success":true}`), 204, "quarantined", "no_type", "codat.quarantine", "msg_q6", ""},
		{"a type with a space", by(ours, "msg_q7", event("invoices write")), 204, "quarantined", "bad_type", "codat.quarantine", "msg_q7", ""},
		{"a type with a wildcard", by(ours, "msg_q8", event("invoices.>")), 204, "quarantined", "bad_type", "codat.quarantine", "msg_q8", ""},
		{"a type with an empty part", by(ours, "msg_q9", event("invoices..write")), 204, "quarantined", "bad_type", "codat.quarantine", "msg_q9", ""},
		{"a type that is too long", by(ours, "msg_q10", event(strings.Repeat("x", 201))), 204, "quarantined", "bad_type", "codat.quarantine", "msg_q10", ""},
		{"encoded", by(ours, "msg_q11", gzipped, header("Content-Encoding", "gzip")), 204, "quarantined", "content_encoding", "codat.quarantine", "msg_q11", ""},
		{"said to be encoded, and readable", by(ours, "msg_q12", good, header("Content-Encoding", "br")), 204, "quarantined", "content_encoding", "codat.quarantine", "msg_q12", ""},
		{"an id with dots", by(ours, oddID, good, signedAt(now, oddID, good)), 204, "quarantined", "bad_id", "codat.quarantine", "sha256-" + hex.EncodeToString(digest[:]), "invoices.write.successful"},
		{"an id with dots, again", by(ours, oddID, good, signedAt(now, oddID, good)), 204, "duplicate", "bad_id", none, "", ""},
		{"an id that is too long", by(ours, strings.Repeat("i", 129), good), 204, "quarantined", "bad_id", "codat.quarantine", "", "invoices.write.successful"},
		{"an id as long as can be", by(ours, strings.Repeat("i", 128), good), 204, "accepted", "", "codat.events.invoices.write.successful", strings.Repeat("i", 128), "invoices.write.successful"},

		{"no signature", by(ours, "msg_r1", good, func(r *http.Request) { r.Header.Del("webhook-signature") }), 401, "refused", "unsigned", none, "", ""},
		{"no headers at all", by(ours, "msg_r2", good, func(r *http.Request) { r.Header = http.Header{} }), 401, "refused", "unsigned", none, "", ""},
		{"an invalid signature", by(ours, "msg_r3", good, header("webhook-signature", "v1,hello")), 401, "refused", "malformed", none, "", ""},
		{"an invalid timestamp", by(ours, "msg_r4", good, header("webhook-timestamp", "soon")), 401, "refused", "malformed", none, "", ""},
		{"an unknown key", by(theirs, "msg_r5", good), 401, "refused", "no_match", none, "", ""},
		{"another body", by(ours, "msg_r6", good, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(strings.Replace(good, "c-1", "c-2", 1)))
		}), 401, "refused", "no_match", none, "", ""},
		{"another id", by(ours, "msg_r7", good, header("webhook-id", "msg_forged")), 401, "refused", "no_match", none, "", ""},
		{"too old", by(ours, "msg_r8", good, signedAt(time.Now().Add(-time.Hour), "msg_r8", good)), 401, "refused", "too_old", none, "", ""},
		{"too new", by(ours, "msg_r9", good, signedAt(time.Now().Add(time.Hour), "msg_r9", good)), 401, "refused", "too_new", none, "", ""},

		{"another path", by(ours, "msg_p1", good, func(r *http.Request) { r.URL.Path = "/webhooks" }), 404, "refused", "path_signed", none, "", ""},
		{"the path with a slash", by(ours, "msg_p2", good, func(r *http.Request) { r.URL.Path += "/" }), 404, "refused", "path_signed", none, "", ""},
		{"the root", by(ours, "msg_p3", good, func(r *http.Request) { r.URL.Path = "/" }), 404, "refused", "path_signed", none, "", ""},
		{"another path and method", by(ours, "msg_p4", good, method("GET"), func(r *http.Request) { r.URL.Path = "/metrics" }), 404, "refused", "path", none, "", ""},
		{"GET", by(ours, "msg_m1", good, method("GET")), 405, "refused", "method", none, "", ""},
		{"HEAD", by(ours, "msg_m2", good, method("HEAD")), 405, "refused", "method", none, "", ""},
		{"OPTIONS", by(ours, "msg_m3", good, method("OPTIONS")), 405, "refused", "method", none, "", ""},
		{"DELETE", by(ours, "msg_m4", good, method("DELETE")), 405, "refused", "method", none, "", ""},
		{"PATCH", by(ours, "msg_m5", good, method("PATCH")), 405, "refused", "method", none, "", ""},
		{"TRACE", by(ours, "msg_m6", "", method("TRACE")), 405, "refused", "method", none, "", ""},
		{"an unknown method", by(ours, "msg_m7", good, method("BREW")), 405, "refused", "method", none, "", ""},

		{"too large", by(ours, "msg_l1", large+" "), 413, "refused", "body_too_large", none, "", ""},
		{"too large, in chunks", by(ours, "msg_l2", large+" ", chunked), 413, "refused", "body_too_large", none, "", ""},
		{"far too large, in chunks", by(ours, "msg_l3", strings.Repeat("x", 4*maxBody), chunked), 413, "refused", "body_too_large", none, "", ""},
	}
	g.logs.TakeAll()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := requestBody(t, tt.req)
			before := len(stored(t, server.JS))
			requests := g.value(t, "requests_total", tt.outcome)
			refusals := g.value(t, "refusals_total", tt.why)
			quarantined := g.value(t, "quarantined_total", tt.why)

			got := send(t, tt.req)
			if got.status != tt.status || got.body != "" {
				t.Fatalf("answer %d %q; want %d and no body", got.status, got.body, tt.status)
			}
			if g.value(t, "requests_total", tt.outcome) != requests+1 {
				t.Errorf("requests_total{outcome=%q} did not rise by one", tt.outcome)
			}
			_, line := g.line(t)
			if line["outcome"] != tt.outcome || line["status"] != int64(tt.status) {
				t.Errorf("logged outcome %v, status %v; want %s, %d", line["outcome"], line["status"], tt.outcome, tt.status)
			}
			switch {
			case tt.status != 204:
				if line["reason"] != tt.why || g.value(t, "refusals_total", tt.why) != refusals+1 {
					t.Errorf("logged reason %v; want %s, counted once", line["reason"], tt.why)
				}
			case tt.why != "":
				if line["quarantine"] != tt.why {
					t.Errorf("logged quarantine %v; want %s", line["quarantine"], tt.why)
				}
				if tt.subject != none && g.value(t, "quarantined_total", tt.why) != quarantined+1 {
					t.Errorf("quarantined_total{reason=%q} did not rise by one", tt.why)
				}
			}

			all := stored(t, server.JS)
			if tt.subject == none {
				if len(all) != before {
					t.Fatalf("stored on %s; want nothing stored", all[len(all)-1].Subject)
				}
				return
			}
			if len(all) != before+1 {
				t.Fatalf("%d messages stored; want one", len(all)-before)
			}
			msg := all[before]
			if msg.Subject != tt.subject || string(msg.Data) != body {
				t.Errorf("stored on %s, %d bytes; want %s and the body to the byte", msg.Subject, len(msg.Data), tt.subject)
			}
			for name, want := range map[string]string{
				stream.HeaderWebhookID:        tt.req.Header.Get("webhook-id"),
				stream.HeaderWebhookTimestamp: tt.req.Header.Get("webhook-timestamp"),
				stream.HeaderWebhookSignature: tt.req.Header.Get("webhook-signature"),
				"ce-id":                       tt.req.Header.Get("webhook-id"),
				"ce-source":                   "/headgate/codat",
				stream.HeaderContentType:      tt.req.Header.Get("Content-Type"),
				stream.HeaderContentEncoding:  tt.req.Header.Get("Content-Encoding"),
			} {
				if got := msg.Header.Get(name); got != want {
					t.Errorf("header %s = %q; want %q", name, got, want)
				}
			}
			if got := msg.Header.Get("Nats-Msg-Id"); tt.msgID != "" && got != tt.msgID {
				t.Errorf("stored under the id %q; want %q", got, tt.msgID)
			}
			if got := msg.Header.Get(stream.HeaderQuarantineReason); got != tt.why {
				t.Errorf("quarantine reason %q; want %q", got, tt.why)
			}
			if tt.why == "" && msg.Header.Get("ce-type") != tt.typeHeader {
				t.Errorf("type %q; want %q", msg.Header.Get("ce-type"), tt.typeHeader)
			}
		})
	}
	if got := g.value(t, "unknown_types_total", ""); got != 1 {
		t.Errorf("unknown_types_total = %v; want 1", got)
	}
	if got := g.value(t, "in_flight", ""); got != 0 {
		t.Errorf("in_flight = %v at the end; want 0", got)
	}
	if got := g.value(t, "key_matches_total", ours.Fingerprint()); got == 0 || g.value(t, "key_matches_total", theirs.Fingerprint()) != 0 {
		t.Errorf("key_matches_total of our key = %v; want it counted, and no other", got)
	}
}

// requestBody returns a request's body, and leaves it to be read again.
func requestBody(t *testing.T, req *http.Request) string {
	t.Helper()
	if req.Body == nil || req.Body == http.NoBody {
		return ""
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	return string(body)
}

func TestResponseTo_AnyError(t *testing.T) {
	t.Parallel()
	tests := []struct {
		err  error
		want int
	}{
		{ingress.ErrNotStored, 503},
		{fmt.Errorf("%w: %w", ingress.ErrNotStored, stream.ErrFull), 503},
		{fmt.Errorf("%w: %w", ingress.ErrNotStored, stream.ErrTooLarge), 503},
		{fmt.Errorf("%w: %w", ingress.ErrNotStored, stream.ErrBadSubject), 503},
		{ingress.ErrTooManyInFlight, 503},
		{ingress.ErrPanic, 500},
		{io.ErrUnexpectedEOF, 500},
	}
	for _, tt := range tests {
		if got := ingress.Status(tt.err); got != tt.want {
			t.Errorf("Status(%v) = %d; want %d", tt.err, got, tt.want)
		}
	}
}
