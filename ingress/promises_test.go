package ingress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var errBoom = errors.New("boom")

// While the store has not answered, the request has no response and no log line. The response then says what the store said.
func TestPromise1_NoSuccessBeforeDurability(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"stored", nil, 204},
		{"not stored", stream.ErrUnavailable, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked, release := false, make(chan struct{})
				core, logs := observer.New(zap.DebugLevel)
				s := ingress.NewServer(ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1}, zap.New(core), prometheus.NewRegistry())
				s.Handle(ingress.RouteOptions{
					Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, k.Key), Timeout: timeout,
					Path: path, MaxBody: maxBody, MaxInFlight: 1,
					Store: storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
						asked = true
						<-release
						return stream.Receipt{Stream: "CODAT", Sequence: 1}, tt.err
					}),
				})
				w, done := httptest.NewRecorder(), make(chan struct{})
				w.Code = 0 // until a status is written
				go func() {
					defer close(done)
					s.ServeHTTP(w, post("http://ingress"+path, k, "msg_1", event("company.created")))
				}()
				synctest.Wait()
				if !asked || w.Code != 0 || logs.Len() != 0 {
					t.Errorf("while the store works: asked %v, status %d, %d log lines; want true, 0 and 0", asked, w.Code, logs.Len())
				}
				close(release)
				<-done
				if w.Code != tt.want || logs.Len() != 1 {
					t.Errorf("after the store: status %d, %d log lines; want %d and 1", w.Code, logs.Len(), tt.want)
				}
			})
		})
	}
}

// Every id that is answered 2xx while the server restarts is in the stream.
func TestPromise1_AcceptedEventsSurviveARestart(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
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

// Every verified request is stored: the examples of all types on the subjects of their types, and unreadable requests in the
// quarantine.
func TestPromise2_EveryVerifiedRequestIsStored(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
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
				"ce-id":                       fmt.Sprintf("msg_%d", i),
				"ce-specversion":              "1.0",
				"ce-source":                   "/headgate/codat",
				"ce-type":                     head.Type,
				"ce-subject":                  head.Company,
				"ce-connectionid":             head.Connection,
				"ce-pushoperationkey":         head.PushOperation,
				stream.HeaderContentType:      "application/json",
				stream.HeaderContentEncoding:  "",
				stream.HeaderQuarantineReason: msg.Header.Get(stream.HeaderQuarantineReason),
			} {
				if got, err := url.PathUnescape(msg.Header.Get(name)); err != nil || got != want {
					t.Errorf("%s = %q; want %q", name, got, want)
				}
			}
			if quarantined := msg.Header.Get(stream.HeaderQuarantineReason) != ""; quarantined != (r.typ == "") {
				t.Errorf("quarantine reason %q", msg.Header.Get(stream.HeaderQuarantineReason))
			}
			if got := msg.Header.Get("ce-time"); !head.Generated.IsZero() && got != head.Generated.UTC().Format(time.RFC3339Nano) {
				t.Errorf("ce-time = %q; want %v", got, head.Generated)
			}
			received, err := time.Parse(time.RFC3339Nano, msg.Header.Get("ce-receivedtime"))
			if err != nil || time.Since(received).Abs() > timeout {
				t.Errorf("ce-receivedtime = %v, %v; want now", received, err)
			}
			again := http.Header{}
			for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
				again.Set(name, msg.Header.Get(name))
			}
			v := signature.NewVerifier(time.Hour, nil, k.Key)
			u, err := v.Read(again)
			if err == nil {
				_, err = v.Verify(u, msg.Data)
			}
			if err != nil {
				t.Errorf("the stored message does not verify: %v", err)
			}
		})
	}
}

// The event of a client that disconnects after it sent the whole request is stored.
func TestPromise2_StoresTheEventOfADisconnectedClient(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	var stored atomic.Bool
	s := ingress.NewServer(ingress.ServerOptions{MaxBytes: 64 << 20}, zap.NewNop(), prometheus.NewRegistry())
	s.Handle(ingress.RouteOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, k.Key), Timeout: timeout,
		Path: path, MaxBody: maxBody, MaxInFlight: 1,
		Store: storeFunc(func(ctx context.Context, _ *nats.Msg) (stream.Receipt, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the store has no deadline")
			}
			stored.Store(ctx.Err() == nil)
			return stream.Receipt{Sequence: 1}, ctx.Err()
		}),
	})
	ctx, gone := context.WithCancel(t.Context())
	gone()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, post("http://ingress"+path, k, "msg_1", event("company.created")).WithContext(ctx))
	if w.Code != 204 || !stored.Load() {
		t.Errorf("answered %d, stored: %v; want 204 and the event stored", w.Code, stored.Load())
	}
}

// While the server is away an event is answered 503 with Retry-After, in time. When it is back, the same event is stored
// once.
func TestPromise2_Answers503WhenAnEventCannotBeStored(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	s := settings(t, server.URL, k)
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	g.waitReady(t)
	body := event("company.created")
	g.waitStored(t, k, "msg_0", body)

	refused := g.value(t, "refusals_total", "stream_unavailable")
	server.Stop()
	began := time.Now()
	got := send(t, post(g.url, k, "msg_1", body))
	if took := time.Since(began); got.status != 503 || got.header.Get("Retry-After") == "" || took > 15*time.Second {
		t.Errorf("answered %d, Retry-After %q, after %v; want 503, some, and well within 15s", got.status, got.header.Get("Retry-After"), took)
	}
	if got := g.value(t, "refusals_total", "stream_unavailable") - refused; got != 1 {
		t.Errorf("%v refusals with the reason stream_unavailable; want 1", got)
	}
	streamtest.Wait(t, func() bool { return g.Health.Ready() != nil }, "the ingress is not ready")

	server.Start()
	g.waitReady(t)
	for range 2 {
		g.waitStored(t, k, "msg_1", body)
	}
	streamtest.Wait(t, server.NC.IsConnected, "the test is connected again")
	if n := len(stored(t, server.JS)); n != 2 {
		t.Errorf("%d messages stored; want 2, each id once", n)
	}
}

// For a full stream requests are answered 503, and the ingress is not ready.
func TestPromise2_Answers503ForAFullStream(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
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

// A request without a valid signature, in either family of headers or across both, never reaches the store.
func TestPromise3_NothingUnverifiedIsStored(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	var calls atomic.Int64
	d := serveStore(t, []signature.Key{ours.Key}, 8, storeFunc(func(_ context.Context, msg *nats.Msg) (stream.Receipt, error) {
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
		{"no signature headers", change(func(h http.Header) { clear(h) })},
		{"another's key", post(d.url, theirs, "msg_1", body)},
		{"an unsigned id in front of the signed one", change(func(h http.Header) { h["Webhook-Id"] = []string{"msg_evil", "msg_1"} })},
		{"an unsigned id behind the signed one", change(func(h http.Header) { h["Webhook-Id"] = []string{"msg_1", "msg_evil"} })},
		{"a signature across two families", change(func(h http.Header) {
			h["Svix-Id"] = h["Webhook-Id"]
			delete(h, "Webhook-Id")
		})},
		{"a signature of another body", func() *http.Request {
			req := post(d.url, ours, "msg_1", body)
			req.Header = post(d.url, ours, "msg_1", body+" ").Header
			return req
		}()},
		{"a request of an hour ago", change(func(h http.Header) { sign(h, ours, "msg_1", time.Now().Add(-time.Hour), body) })},
		{"a signature under an empty key", change(func(h http.Header) { h.Set("webhook-signature", "v1,"+strings.Repeat("A", 43)+"=") })},
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

// The stored id is that of the headers that were verified, whatever the other headers say.
func TestPromise3_IgnoresTheIDOfUnverifiedHeaders(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	g, server := start(t, ours)
	body := event("company.created")
	for i, family := range []string{"webhook", "svix"} {
		other := map[string]string{"webhook": "svix", "svix": "webhook"}[family]
		want := "msg_verified_by_" + family
		req := post(g.url, ours, want, body)
		forged := post(g.url, theirs, "msg_evil", body).Header
		verified := req.Header.Clone()
		for _, part := range []string{"-id", "-timestamp", "-signature"} {
			req.Header.Set(family+part, verified.Get("webhook"+part))
			req.Header.Set(other+part, forged.Get("webhook"+part))
		}
		if got := send(t, req); got.status != 204 {
			t.Fatalf("%s: answered %d; want 204", family, got.status)
		}
		msg := stored(t, server.JS)[i]
		for _, name := range []string{"Nats-Msg-Id", stream.HeaderWebhookID, "ce-id"} {
			if got := msg.Header.Get(name); got != want {
				t.Errorf("%s = %q; want %q", name, got, want)
			}
		}
		if got := msg.Header.Get(stream.HeaderWebhookSignature); got != verified.Get("webhook-signature") {
			t.Errorf("the stored signature is not the verified one")
		}
	}
}

// Bodies of all sizes, many at a time, chunked or not, are stored unchanged through reused buffers.
func TestPromise4_BytesStayBytes(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
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

// The store reads the body while another request is received: neither has the bytes of the other.
func TestPromise4_StoredBytesAreNotReused(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	s := ingress.NewServer(ingress.ServerOptions{MaxBytes: 1 << 20}, zap.NewNop(), prometheus.NewRegistry())
	request := func(id string) {
		s.ServeHTTP(httptest.NewRecorder(), post("http://ingress"+path, k, id, event("company."+id)))
	}
	var kept int
	s.Handle(ingress.RouteOptions{
		Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, k.Key), Timeout: timeout,
		Path: path, MaxBody: maxBody, MaxInFlight: 2,
		Store: storeFunc(func(_ context.Context, msg *nats.Msg) (stream.Receipt, error) {
			if id := msg.Header.Get(stream.HeaderWebhookID); id == "first" {
				request("other")
				if string(msg.Data) == event("company."+id) {
					kept++
				}
			}
			return stream.Receipt{Stream: "CODAT", Sequence: 1}, nil
		}),
	})
	const rounds = 50 // a pool may keep a buffer for itself
	for range rounds {
		request("first")
	}
	if kept != rounds {
		t.Errorf("the bytes of %d of %d requests were those that came; want all", kept, rounds)
	}
}

// What is stored verifies again with the headers that are stored with it, however long the id and odd the signature.
func TestPromise4_StoredMessagesVerifyAgain(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	const body = `{"eventType":"company.created"}`
	for _, tt := range []struct{ id, signature string }{
		{"msg_plain", "%s"},
		{"msg_comma", "%s,"},
		{"msg_joined", "v1,x, v2 , %s, v1a,AAAA"},
		{strings.Repeat("x", 15<<10), "%s"},
		{"msg.dots\tand é", "%s,%[1]s"},
	} {
		req := post(g.url, k, tt.id, body)
		req.Header.Set("webhook-signature", fmt.Sprintf(tt.signature, req.Header.Get("webhook-signature")))
		if got := send(t, req); got.status != 204 {
			t.Errorf("%.20q: answered %d; want 204", tt.id, got.status)
		}
	}
	all := stored(t, server.JS)
	if len(all) != 5 {
		t.Fatalf("%d messages stored; want 5", len(all))
	}
	for _, msg := range all {
		id := msg.Header.Get(stream.HeaderWebhookID)
		seconds, err := strconv.ParseInt(msg.Header.Get(stream.HeaderWebhookTimestamp), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		want := k.Sign(id, time.Unix(seconds, 0), msg.Data)
		if got := msg.Header.Get(stream.HeaderWebhookSignature); got != want {
			t.Errorf("%.20q: stored with the signature %q; want %q", id, got, want)
		}
	}
}

// A second request with an id is answered 2xx and not stored, whatever its body, time, key or family of headers, and also
// when both arrive at once or the server restarts in between.
func TestPromise5_OncePerWebhookID(t *testing.T) {
	t.Parallel()
	first, second := newKey(t, "us"), newKey(t, "us, rotated")
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

// Each refusal has one log line and one count with its reason. Its response is the same for every reason, and neither
// contains what was sent.
func TestPromise8_LogsTheReasonAndRespondsWithNothing(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	var fail error
	d := serveStore(t, []signature.Key{ours.Key}, 8, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
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
		{"path", 404, "warn", req(func(r *http.Request) { r.URL.Path, r.Header = "/", http.Header{} }), nil},
		{"path_signed", 404, "warn", req(func(r *http.Request) { r.URL.Path += "/" }), nil},
		{"method", 405, "warn", req(func(r *http.Request) { r.Method = "GET" }), nil},
		{"body_too_large", 413, "warn", req(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", maxBody+1))), maxBody+1
		}), nil},
		{"stream_full", 503, "error", req(func(*http.Request) {}), stream.ErrFull},
		{"publish_window_full", 503, "error", req(func(*http.Request) {}), stream.ErrBusy},
		{"stream_unavailable", 503, "error", req(func(*http.Request) {}), stream.ErrUnavailable},
		{"id_in_process", 503, "error", req(func(*http.Request) {}), fmt.Errorf("%w: %w", stream.ErrUnavailable, stream.ErrInProcess)},
		{"id_stays_in_process", 503, "error", req(func(*http.Request) {}), errors.Join(ingress.ErrIDStays, stream.ErrInProcess)},
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
				t.Errorf("the response differs from that to another refusal")
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
			streamtest.Wait(t, func() bool { return len(d.lines()) > 0 }, "the request has its log line")
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

// The log line of an accepted request has what is needed to find the event, and nothing of its payload.
func TestPromise8_LogsOneLineForAnAcceptedRequest(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
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
	if time.Since(last) > timeout {
		t.Errorf("last accepted %v; want now", last)
	}
}

// The quarantine stores verified requests only: a request that cannot be read as an event is verified first, and refused
// like any other forgery.
func TestPromise3_UnreadableRequestsAreVerified(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	var calls atomic.Int64
	d := serveStore(t, []signature.Key{ours.Key}, 8, storeFunc(func(context.Context, *nats.Msg) (stream.Receipt, error) {
		calls.Add(1)
		return stream.Receipt{Sequence: 1}, nil
	}))
	tests := []struct {
		name, id, body string
		change         func(http.Header)
	}{
		{"not JSON", "msg_1", "hello", nil},
		{"empty", "msg_1", "", nil},
		{"no object", "msg_1", "[1]", nil},
		{"no type", "msg_1", `{"success":true}`, nil},
		{"a type that cannot be a subject", "msg_1", event("a b"), nil},
		{"an odd id", "msg.1", event("company.created"), nil},
		{"encoded", "msg_1", event("company.created"), func(h http.Header) { h.Set("Content-Encoding", "gzip") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := post(d.url, theirs, tt.id, tt.body)
			if tt.change != nil {
				tt.change(req.Header)
			}
			if got := send(t, req); got.status != 401 {
				t.Errorf("answered %d; want 401", got.status)
			}
		})
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("the store was called %d times; want never", n)
	}
}

// From the signal on, readiness says that the process is stopping.
func TestPromise7_NotReadyWhileDraining(t *testing.T) {
	t.Parallel()
	g, _ := start(t, newKey(t, "us"))
	g.stop()
	if err := <-g.ended; err != nil {
		t.Errorf("Run = %v; want nil", err)
	}
	if err := g.Health.Ready(); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("readiness says %v; want it to be stopping", err)
	}
}
