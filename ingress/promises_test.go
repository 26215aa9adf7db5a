package ingress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var errBoom = errors.New("boom")

// An event that the store was given, and has not said yet what became of it, is not answered; and
// what the store says in the end is what is answered.
func TestPromise1_No2xxBeforeDurability(t *testing.T) {
	k := key(t, "us")
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"stored in the end", nil, 204},
		{"not stored in the end", stream.ErrUnavailable, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked, release := make(chan struct{}), make(chan struct{})
			d := openDoor(t, []signature.Key{k.Key}, 8, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
				close(asked)
				<-release
				return stream.Receipt{Stream: "CODAT", Sequence: 1}, tt.err
			}))
			letGo := sync.OnceFunc(func() { close(release) })
			t.Cleanup(letGo)
			answered := make(chan reply, 1)
			go func() { answered <- send(t, post(d.url, k, "msg_1", event("company.created"))) }()
			<-asked
			select {
			case got := <-answered:
				t.Fatalf("answered %d before the store had", got.status)
			case <-time.After(200 * time.Millisecond): // as long as an answer that should not come may take to be seen
			}
			if n := len(d.lines()); n != 0 {
				t.Errorf("%d requests ended before the store had answered", n)
			}
			letGo()
			if got := <-answered; got.status != tt.want {
				t.Errorf("answered %d; want %d", got.status, tt.want)
			}
		})
	}
}

// Every id that is answered 2xx while the server is stopped and started again is in the stream.
func TestPromise1_EveryIDAnswered2xxIsInTheStreamAfterARestart(t *testing.T) {
	k := key(t, "us")
	g, server := start(t, k)
	var answered sync.Map
	var accepted atomic.Int64
	var senders sync.WaitGroup
	stop := make(chan struct{})
	for sender := range 4 {
		senders.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("msg_%d_%d", sender, n)
				body := event(fmt.Sprintf("a%d.b%d", sender, n))
				if send(t, post(g.url, k, id, body)).status == 204 {
					answered.Store(id, body)
					accepted.Add(1)
				}
			}
		})
	}
	for round := range int64(3) {
		streamtest.Wait(t, func() bool { return accepted.Load() >= 20*(round+1) }, "events are accepted")
		server.Restart()
	}
	until := accepted.Load() + 20
	streamtest.Wait(t, func() bool { return accepted.Load() >= until }, "events are accepted again")
	close(stop)
	senders.Wait()

	times := map[string]int{}
	for _, msg := range stored(t, server.JS) {
		id := msg.Header.Get(stream.HeaderWebhookID)
		times[id]++
		if body, ok := answered.Load(id); ok && body != string(msg.Data) {
			t.Errorf("%s is not stored as it came", id)
		}
	}
	answered.Range(func(id, _ any) bool {
		if n := times[id.(string)]; n != 1 {
			t.Errorf("%s was answered 204 and is stored %d times; want once", id, n)
		}
		return true
	})
}

// Whatever proves is stored: every example of every type, on the subject of its type, and what cannot
// be read in the quarantine.
func TestPromise2_NothingProvenIsLost(t *testing.T) {
	k := key(t, "us")
	g, server := start(t, k)

	type row struct{ name, body, typ string }
	var rows []row
	for _, e := range examples.All() {
		rows = append(rows, row{e.Name, string(e.Body), e.Type})
	}
	for i, body := range []string{"", " ", "null", "{", `{"eventType":""}`, `{"eventType":"a b"}`, "\xff\xfe\x00", strings.Repeat("[", 20000), `{"eventType":1}`} {
		rows = append(rows, row{fmt.Sprintf("unreadable %d", i), body, ""})
	}
	rows = append(rows, row{"unknown type", event("never.heard.of"), "never.heard.of"})

	for i, r := range rows {
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", i), r.body)); got.status != 204 {
			t.Errorf("%s: answered %d; want 204", r.name, got.status)
		}
	}
	all := stored(t, server.JS)
	if len(all) != len(rows) {
		t.Fatalf("%d messages stored; want %d", len(all), len(rows))
	}
	for i, r := range rows {
		msg := all[i]
		t.Run(r.name, func(t *testing.T) {
			want := streamtest.Source.QuarantineSubject()
			if r.typ != "" {
				want = "codat.events." + r.typ
			}
			if msg.Subject != want || string(msg.Data) != r.body {
				t.Fatalf("stored on %s; want %s, as it came", msg.Subject, want)
			}
			head, _ := codat.Read(msg.Data)
			for name, want := range map[string]string{
				"Nats-Msg-Id":                 fmt.Sprintf("msg_%d", i),
				stream.HeaderWebhookID:        fmt.Sprintf("msg_%d", i),
				stream.HeaderCEID:             fmt.Sprintf("msg_%d", i),
				stream.HeaderCESpecVersion:    "1.0",
				stream.HeaderCESource:         "/headgate/codat",
				stream.HeaderCEType:           head.Type,
				stream.HeaderCESubject:        head.Company,
				stream.HeaderCEConnectionID:   head.Connection,
				stream.HeaderContentType:      "application/json",
				stream.HeaderContentEncoding:  "",
				stream.HeaderQuarantineReason: msg.Header.Get(stream.HeaderQuarantineReason),
			} {
				if got := stream.Attribute(msg.Header, name); got != want {
					t.Errorf("%s = %q; want %q", name, got, want)
				}
			}
			if quarantined := msg.Header.Get(stream.HeaderQuarantineReason) != ""; quarantined != (r.typ == "") {
				t.Errorf("quarantine reason %q", msg.Header.Get(stream.HeaderQuarantineReason))
			}
			if got := msg.Header.Get(stream.HeaderCETime); !head.Generated.IsZero() && got != head.Generated.UTC().Format(time.RFC3339Nano) {
				t.Errorf("ce-time = %q; want %v", got, head.Generated)
			}
			received, err := time.Parse(time.RFC3339Nano, msg.Header.Get(stream.HeaderCEReceivedTime))
			if err != nil || time.Since(received).Abs() > patience {
				t.Errorf("ce-receivedtime = %v, %v; want now", received, err)
			}
			again := http.Header{}
			for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
				again.Set(name, msg.Header.Get(name))
			}
			v := signature.NewVerifier(time.Hour, nil, k.Key)
			u, err := v.Read(again)
			if err == nil {
				_, err = v.Prove(u, msg.Data)
			}
			if err != nil {
				t.Errorf("what is stored does not prove again: %v", err)
			}
		})
	}
}

// A sender that went away after its request was whole has its event stored.
func TestPromise2_ASenderThatHasGoneHasItsEventStored(t *testing.T) {
	k := key(t, "us")
	var stored atomic.Bool
	r := &ingress.Receiver{
		Source: streamtest.Source,
		Keys:   signature.NewVerifier(time.Minute, nil, k.Key),
		Budget: patience,
		Store: storeFunc(func(ctx context.Context, _ *nats.Msg) (stream.Receipt, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the store has no deadline")
			}
			stored.Store(ctx.Err() == nil)
			return stream.Receipt{Sequence: 1}, ctx.Err()
		}),
	}
	ctx, gone := context.WithCancel(t.Context())
	gone()
	body := event("company.created")
	got, err := r.Accept(ctx, post("http://ingress/", k, "msg_1", body).Header, []byte(body))
	if err != nil || !stored.Load() || got.ID != "msg_1" || got.Type != "company.created" || !got.Known {
		t.Errorf("Accept = %+v, %v; want it stored", got, err)
	}
}

// While the server is away an event is answered 503 with Retry-After, in time; when it is back, the
// same event is stored, once.
func TestPromise2_WhatCannotBeStoredIsAnswered503(t *testing.T) {
	k := key(t, "us")
	server := streamtest.New(t)
	s := settings(t, server.URL, k)
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	g.waitReady(t)
	body := event("company.created")
	if got := send(t, post(g.url, k, "msg_0", body)); got.status != 204 {
		t.Fatalf("answered %d with the server there; want 204", got.status)
	}

	server.Stop()
	began := time.Now()
	got := send(t, post(g.url, k, "msg_1", body))
	if took := time.Since(began); got.status != 503 || got.header.Get("Retry-After") == "" || took > 15*time.Second {
		t.Errorf("answered %d, Retry-After %q, after %v; want 503, some, and well within 15s", got.status, got.header.Get("Retry-After"), took)
	}
	streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")

	server.Start()
	g.waitReady(t)
	for range 2 {
		if got := send(t, post(g.url, k, "msg_1", body)); got.status != 204 {
			t.Errorf("answered %d with the server back; want 204", got.status)
		}
	}
	streamtest.Wait(t, server.NC.IsConnected, "the test is connected again")
	if n := len(stored(t, server.JS)); n != 2 {
		t.Errorf("%d messages stored; want 2, each id once", n)
	}
	if got := g.value(t, "refusals_total", "stream_unavailable"); got != 1 {
		t.Errorf("refusals_total{reason=\"stream_unavailable\"} = %v; want 1", got)
	}
}

// A stream that is full is answered 503, and makes the ingress not ready.
func TestPromise2_AFullStreamIsAnswered503(t *testing.T) {
	k := key(t, "us")
	g, server := start(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := server.JS.Stream(ctx, streamtest.Source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	full := st.CachedInfo().Config
	full.MaxBytes = 1000
	if _, err := server.JS.UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	got := send(t, post(g.url, k, "msg_1", event("company.created")+strings.Repeat(" ", 1000)))
	if got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("answered %d, Retry-After %q; want 503 and some", got.status, got.header.Get("Retry-After"))
	}
	if got := g.value(t, "refusals_total", "stream_full"); got != 1 {
		t.Errorf("refusals_total{reason=\"stream_full\"} = %v; want 1", got)
	}
	streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")
}

// Whatever is posted without a proof, in either family of headers or across both, never reaches the
// store.
func TestPromise3_NothingUnprovenIsStored(t *testing.T) {
	ours, theirs := key(t, "us"), key(t, "somebody else")
	var calls atomic.Int64
	d := openDoor(t, []signature.Key{ours.Key}, 8, storeFunc(func(_ context.Context, msg *nats.Msg) (stream.Receipt, error) {
		calls.Add(1)
		t.Errorf("the store was called for %q", msg.Header.Get(stream.HeaderWebhookID))
		return stream.Receipt{Sequence: 1}, nil
	}))
	body := event("company.created")
	change := func(f func(http.Header)) *http.Request {
		req := post(d.url, ours, "msg_1", body)
		f(req.Header)
		return req
	}
	tests := []struct {
		name string
		req  *http.Request
	}{
		{"no proof at all", change(func(h http.Header) { clear(h) })},
		{"another's key", post(d.url, theirs, "msg_1", body)},
		{"an unsigned id in front of the signed one", change(func(h http.Header) { h["Webhook-Id"] = []string{"msg_evil", "msg_1"} })},
		{"an unsigned id behind the signed one", change(func(h http.Header) { h["Webhook-Id"] = []string{"msg_1", "msg_evil"} })},
		{"a proof in three parts of two families", change(func(h http.Header) {
			h["Svix-Id"] = h["Webhook-Id"]
			delete(h, "Webhook-Id")
		})},
		{"a proof of another body", func() *http.Request {
			req := post(d.url, ours, "msg_1", body)
			req.Header = post(d.url, ours, "msg_1", body+" ").Header
			return req
		}()},
		{"a request of an hour ago", change(func(h http.Header) { sign(h, ours, "msg_1", time.Now().Add(-time.Hour), body) })},
		{"a proof under an empty key", change(func(h http.Header) { h.Set("webhook-signature", "v1,"+strings.Repeat("A", 43)+"=") })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := send(t, tt.req); got.status != 401 {
				t.Errorf("answered %d; want 401", got.status)
			}
		})
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("the store was called %d times; want never", n)
	}
}

// The id that is stored is the one that proved, whatever stands beside it.
func TestPromise3_NoIDIsTakenFromHeadersThatDidNotProve(t *testing.T) {
	ours, theirs := key(t, "us"), key(t, "somebody else")
	g, server := start(t, ours)
	body := event("company.created")
	for i, family := range []string{"webhook", "svix"} {
		other := map[string]string{"webhook": "svix", "svix": "webhook"}[family]
		want := "msg_proven_by_" + family
		req := post(g.url, ours, want, body)
		forged := post(g.url, theirs, "msg_evil", body).Header
		proven := req.Header.Clone()
		for _, part := range []string{"-id", "-timestamp", "-signature"} {
			req.Header.Set(family+part, proven.Get("webhook"+part))
			req.Header.Set(other+part, forged.Get("webhook"+part))
		}
		if got := send(t, req); got.status != 204 {
			t.Fatalf("%s: answered %d; want 204", family, got.status)
		}
		msg := stored(t, server.JS)[i]
		for _, name := range []string{"Nats-Msg-Id", stream.HeaderWebhookID, stream.HeaderCEID} {
			if got := msg.Header.Get(name); got != want {
				t.Errorf("%s = %q; want %q", name, got, want)
			}
		}
		if got := msg.Header.Get(stream.HeaderWebhookSignature); got != proven.Get("webhook-signature") {
			t.Errorf("the stored signature is not the one that proved")
		}
	}
}

// Bodies of all sizes, many at a time, chunked or not, through buffers that are used again, are stored
// as they came.
func TestPromise4_BytesStayBytes(t *testing.T) {
	k := key(t, "us")
	g, server := start(t, k)
	const senders, each = 8, 25
	bodies := make([][each][]byte, senders)
	var wg sync.WaitGroup
	for s := range senders {
		random := rand.New(rand.NewPCG(1, uint64(s)))
		for n := range each {
			body := fmt.Appendf(nil, `{ "eventType" : "a.b" , "n" : 1.0e+2, "pad":"`)
			for range random.IntN(40000) {
				body = append(body, byte('a'+random.IntN(26)))
			}
			bodies[s][n] = append(body, "é\\u00e9\"}\r\n"...)
			if n%5 == 0 { // not an event, not even text
				bodies[s][n] = []byte{0, 0xff, byte(s), byte(n), '\r', '\n', 0}
			}
		}
		wg.Go(func() {
			for n, body := range bodies[s] {
				req := post(g.url, k, fmt.Sprintf("msg_%d_%d", s, n), string(body))
				if n%3 == 0 {
					req.ContentLength = -1
				}
				if got := send(t, req); got.status != 204 {
					t.Errorf("answered %d; want 204", got.status)
				}
			}
		})
	}
	wg.Wait()
	all := stored(t, server.JS)
	if len(all) != senders*each {
		t.Fatalf("%d messages stored; want %d", len(all), senders*each)
	}
	for _, msg := range all {
		var s, n int
		if _, err := fmt.Sscanf(msg.Header.Get(stream.HeaderWebhookID), "msg_%d_%d", &s, &n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(msg.Data, bodies[s][n]) {
			t.Errorf("msg_%d_%d: %d bytes stored that are not the %d that came", s, n, len(msg.Data), len(bodies[s][n]))
		}
	}
}

// A second arrival is answered 2xx and not stored again, whatever its body, its time, its key, its
// family of headers, and also when both arrive at once or the server was restarted in between.
func TestPromise5_OncePerWebhookID(t *testing.T) {
	first, second := key(t, "us"), key(t, "us, rotated")
	server := streamtest.New(t)
	s := settings(t, server.URL, first)
	s.Secret = append(s.Secret, second.text)
	g := run(t, s)
	g.waitReady(t)

	const id = "msg_1"
	body := event("company.created")
	svix := post(g.url, first, id, body)
	for _, part := range []string{"id", "timestamp", "signature"} {
		svix.Header.Set("svix-"+part, svix.Header.Get("webhook-"+part))
		svix.Header.Del("webhook-" + part)
	}
	retried := post(g.url, first, id, body)
	sign(retried.Header, first, id, time.Now().Add(-time.Minute), body)
	requests := []*http.Request{
		post(g.url, first, id, body),
		post(g.url, first, id, body),
		post(g.url, first, id, event("company.deleted")),
		post(g.url, first, id, "not even JSON"),
		post(g.url, second, id, body),
		svix,
		retried,
	}
	var wg sync.WaitGroup
	for _, req := range requests {
		wg.Go(func() {
			if got := send(t, req); got.status != 204 {
				t.Errorf("answered %d; want 204", got.status)
			}
		})
	}
	wg.Wait()
	server.Restart()
	g.waitReady(t)
	if got := send(t, post(g.url, first, id, body)); got.status != 204 {
		t.Errorf("answered %d after a restart of the server; want 204", got.status)
	}
	if n := len(stored(t, server.JS)); n != 1 {
		t.Errorf("stored %d times; want once", n)
	}
	if got := g.value(t, "requests_total", "duplicate"); got != float64(len(requests)) {
		t.Errorf("requests_total{outcome=\"duplicate\"} = %v; want %d", got, len(requests))
	}
}

// Each refusal says why in one line and in one count, and its answer is the same for a stranger
// whatever the reason; neither says what was sent.
func TestPromise8_EveryRefusalSaysWhyAndTellsAStrangerNothing(t *testing.T) {
	ours, theirs := key(t, "us"), key(t, "somebody else")
	var fail error
	d := openDoor(t, []signature.Key{ours.Key}, 8, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
		return stream.Receipt{}, fail
	}))
	const secret = "SECRET-OF-A-COMPANY"
	body := strings.Replace(event("company.created"), "c-1", secret, 1)
	req := func(change func(*http.Request)) func() *http.Request {
		return func() *http.Request {
			r := post(d.url, ours, "msg_1", body)
			r.Header.Set("Authorization", "Bearer "+secret)
			change(r)
			return r
		}
	}
	tests := []struct {
		reason string
		status int
		level  string
		req    func() *http.Request
		fail   error
	}{
		{"unsigned", 401, "warn", req(func(r *http.Request) { r.Header.Del("webhook-id") }), nil},
		{"malformed", 401, "warn", req(func(r *http.Request) { r.Header.Set("webhook-timestamp", "0x1") }), nil},
		{"no_match", 401, "warn", req(func(r *http.Request) { sign(r.Header, theirs, "msg_1", time.Now(), body) }), nil},
		{"too_old", 401, "warn", req(func(r *http.Request) { sign(r.Header, ours, "msg_1", time.Unix(1, 0), body) }), nil},
		{"too_new", 401, "warn", req(func(r *http.Request) { sign(r.Header, ours, "msg_1", time.Unix(99_999_999_999, 0), body) }), nil},
		{"path", 404, "warn", req(func(r *http.Request) { r.URL.Path = "/" }), nil},
		{"method", 405, "warn", req(func(r *http.Request) { r.Method = "GET" }), nil},
		{"body_too_large", 413, "warn", req(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", maxBody+1))), maxBody+1
		}), nil},
		{"stream_full", 503, "error", req(func(*http.Request) {}), stream.ErrFull},
		{"window_full", 503, "error", req(func(*http.Request) {}), stream.ErrBusy},
		{"stream_unavailable", 503, "error", req(func(*http.Request) {}), stream.ErrUnavailable},
		{"max_payload", 503, "error", req(func(*http.Request) {}), stream.ErrTooLarge},
		{"not_stored", 503, "error", req(func(*http.Request) {}), errBoom},
	}
	answers := map[int]string{}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			fail = tt.fail
			d.logs.TakeAll()
			got := send(t, tt.req())
			got.header.Del("Date")
			if same, ok := answers[got.status]; ok && tt.status == 401 && same != fmt.Sprint(got.header["Content-Length"], got.body, got.header["Www-Authenticate"]) {
				t.Errorf("a stranger can tell this refusal from another one")
			}
			answers[got.status] = fmt.Sprint(got.header["Content-Length"], got.body, got.header["Www-Authenticate"])
			if got.status != tt.status || got.body != "" {
				t.Errorf("answered %d %q; want %d and nothing", got.status, got.body, tt.status)
			}
			for name := range got.header {
				switch name {
				case "Content-Length", "Connection", "Retry-After", "Allow":
				default:
					t.Errorf("the answer has a header %s", name)
				}
			}
			if after := got.header.Get("Retry-After"); (after != "") != (tt.status == 503) {
				t.Errorf("Retry-After %q with status %d", after, tt.status)
			}
			if n := d.value(t, "refusals_total", tt.reason); n != 1 {
				t.Errorf("refusals_total{reason=%q} = %v; want 1", tt.reason, n)
			}
			all := fmt.Sprint(d.logs.All())
			level, line := d.line(t)
			if line["reason"] != tt.reason || line["error"] == "" || line["remote"] != "127.0.0.1" || level.String() != tt.level {
				t.Errorf("logged %v at %s; want reason %s, an error and who it was, at %s", line, level, tt.reason, tt.level)
			}
			if strings.Contains(all, secret) || strings.Contains(all, "whsec") {
				t.Errorf("the log has what was sent: %s", all)
			}
		})
	}
}

// What is accepted is logged with what it takes to find it again, and with nothing of its payload.
func TestPromise8_AnAcceptedRequestIsOneLine(t *testing.T) {
	k := key(t, "us")
	g, _ := start(t, k)
	const secret = "SECRET-OF-A-COMPANY"
	g.logs.TakeAll()
	send(t, post(g.url, k, "msg_1", strings.Replace(event("company.created"), "c-1", secret, 1)))
	all := fmt.Sprint(g.logs.All())
	level, line := g.line(t)
	for name, want := range map[string]any{
		"outcome": "accepted", "status": int64(204), "id": "msg_1", "type": "company.created", "known": true,
		"key": k.Fingerprint(), "sequence": uint64(1), "remote": "127.0.0.1",
	} {
		if line[name] != want {
			t.Errorf("logged %s = %v; want %v", name, line[name], want)
		}
	}
	if level != zap.InfoLevel || strings.Contains(all, secret) {
		t.Errorf("logged at %v: %s", level, all)
	}
	for _, name := range []string{"accept_seconds", "publish_seconds", "body_bytes"} {
		if g.value(t, name, "") != 1 {
			t.Errorf("%s was observed %v times; want once", name, g.value(t, name, ""))
		}
	}
	last := time.Unix(int64(g.value(t, "last_accepted_timestamp_seconds", "")), 0)
	if time.Since(last) > patience {
		t.Errorf("last accepted %v; want now", last)
	}
}
