package ingress_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// raw sends text on a connection of its own, and returns the statuses of all responses until the connection ends. The text
// asks for the end, or breaks the connection.
func raw(t testing.TB, address, text string) (statuses []int) {
	t.Helper()
	conn := dial(t, address, text)
	answers := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		statuses = append(statuses, resp.StatusCode)
		if resp.Close {
			return statuses
		}
	}
}

// A request that net/http and a proxy may parse differently never becomes an event that was not signed, and a signed one is
// stored as it was signed.
func TestServer_RefusesSmuggledHeaders(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	g, server := start(t, ours)
	body := event("company.created")
	evil := event("company.deleted")
	signed := func(k testKey, id, body string) string {
		h := post(g.url, k, id, body).Header
		return fmt.Sprintf("webhook-id: %s\r\nwebhook-timestamp: %s\r\nwebhook-signature: %s\r\n", id, h.Get("webhook-timestamp"), h.Get("webhook-signature"))
	}
	begin := "POST " + path + " HTTP/1.1\r\nHost: ingress\r\n"
	whole := func(headers, body string) string {
		return begin + headers + fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	chunk := func(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }
	behind := begin + signed(theirs, "msg_behind", evil) + fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil)
	tests := []struct {
		name, text string
		statuses   string
		stored     string // id, "" for none
	}{
		{"as it should be", whole(signed(ours, "msg_good", body), body), "[204]", "msg_good"},
		{"names in capitals", whole(strings.ToUpper("webhook-id")+strings.TrimPrefix(signed(ours, "msg_caps", body), "webhook-id"), body), "[204]", "msg_caps"},
		{"an id twice, the same", whole("webhook-id: msg_same\r\n"+signed(ours, "msg_same", body), body), "[204]", "msg_same"},
		{"another id before", whole("webhook-id: msg_evil\r\n"+signed(ours, "msg_a", body), body), "[401]", ""},
		{"another id behind", whole(signed(ours, "msg_a", body)+"webhook-id: msg_evil\r\n", body), "[401]", ""},
		{"another timestamp behind", whole(signed(ours, "msg_a", body)+"webhook-timestamp: 1\r\n", body), "[401]", ""},
		{"another signature before", whole("webhook-signature: v1,"+strings.Repeat("A", 43)+"=\r\n"+signed(ours, "msg_two", body), body), "[204]", "msg_two"},
		{"ids in one line", whole(strings.Replace(signed(ours, "msg_a", body), "msg_a", "msg_evil, msg_a", 1), body), "[401]", ""},
		{"an id that goes on in the next line", whole(strings.Replace(signed(ours, "msg_a", body), "msg_a", "msg_a\r\n msg_evil", 1), body), "[401]", ""},
		{"an id on the next line", whole(strings.Replace(signed(ours, "msg_fold", body), "msg_fold", "\r\n msg_fold", 1), body), "[204]", "msg_fold"},
		{"a space before the colon", whole(strings.Replace(signed(ours, "msg_a", body), "webhook-id:", "webhook-id :", 1), body), "[400]", ""},
		{"an underscore for the dash", whole(strings.Replace(signed(ours, "msg_a", body), "webhook-id:", "webhook_id:", 1), body), "[401]", ""},
		{"a zero byte in an id", whole(strings.Replace(signed(ours, "msg_a", body), "msg_a", "msg_a\x00", 1), body), "[400]", ""},
		{"a forged family beside", whole(strings.ReplaceAll(signed(theirs, "msg_evil", body), "webhook-", "svix-")+signed(ours, "msg_beside", body), body), "[204]", "msg_beside"},
		{"a forged family, and the true one as svix", whole(signed(theirs, "msg_evil", body)+strings.ReplaceAll(signed(ours, "msg_svix", body), "webhook-", "svix-"), body), "[204]", "msg_svix"},
		{
			"two lengths that differ",
			begin + signed(ours, "msg_a", body) + fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s", len(body), len(body)-1, body), "[400]", "",
		},
		{"a length with a sign", begin + signed(ours, "msg_a", body) + fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", len(body), body), "[400]", ""},
		{
			"a length and chunks: the chunks are the body, and the rest is verified as another request",
			begin + signed(ours, "msg_both", body) + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body) + behind, "[204 401]", "msg_both",
		},
		{
			"a length that is too long for its chunks hides nothing",
			begin + signed(ours, "msg_hides", body) + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n", len(chunk(body))+len(behind)) + chunk(body) + behind, "[204 401]", "msg_hides",
		},
		{"chunks twice", begin + signed(ours, "msg_a", body) + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body), "[501]", ""},
		{"chunks that are not", begin + signed(ours, "msg_a", body) + "Transfer-Encoding: xchunked\r\n\r\n" + chunk(body), "[501]", ""},
		{"an encoding behind chunks", begin + signed(ours, "msg_a", body) + "Transfer-Encoding: chunked, gzip\r\n\r\n" + chunk(body), "[501]", ""},
		{
			"headers behind the chunks",
			begin + "Trailer: webhook-id, webhook-signature\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" +
				fmt.Sprintf("%x\r\n%s\r\n0\r\n", len(body), body) + signed(ours, "msg_a", body) + "\r\n", "[401]", "",
		},
		{
			"the event in what follows another: the connection is closed",
			begin + signed(ours, "msg_a", body) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s!", len(body), body[:len(body)-1]) + behind, "[401]", "",
		},
		{"no host", "POST " + path + " HTTP/1.1\r\n" + signed(ours, "msg_a", body) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body), "[400]", ""},
		{"another method in a header", "GET " + path + " HTTP/1.1\r\nHost: ingress\r\nX-HTTP-Method-Override: POST\r\nConnection: close\r\n" + signed(ours, "msg_a", "") + "\r\n", "[405]", ""},
		{"another path in a header", "POST / HTTP/1.1\r\nHost: ingress\r\nX-Original-URL: " + path + "\r\nConnection: close\r\n" + signed(ours, "msg_a", "") + "Content-Length: 0\r\n\r\n", "[404]", ""},
		{"a path with dots", "POST /x/.." + path + " HTTP/1.1\r\nHost: ingress\r\nConnection: close\r\n" + signed(ours, "msg_a", "") + "Content-Length: 0\r\n\r\n", "[404]", ""},
		{"not HTTP", "hello\r\n\r\n", "[400]", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(stored(t, server.JS))
			if got := fmt.Sprint(raw(t, g.address, tt.text)); got != tt.statuses {
				t.Errorf("answered %s; want %s", got, tt.statuses)
			}
			after := stored(t, server.JS)[before:]
			switch {
			case tt.stored == "" && len(after) > 0:
				t.Errorf("%q is stored; want nothing", after[0].Header.Get(stream.HeaderWebhookID))
			case tt.stored != "" && (len(after) != 1 || after[0].Header.Get(stream.HeaderWebhookID) != tt.stored || string(after[0].Data) != body):
				t.Errorf("%d messages are stored; want %s, with the body that was signed", len(after), tt.stored)
			}
		})
	}
}

// A replayed request is a duplicate within the tolerance and too old after it. With another id, body or time it is a forgery.
func TestHandler_StoresAReplayOnce(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	s := settings(t, server.URL, k)
	s.Tolerance = time.Hour
	g := run(t, s)
	g.waitReady(t)
	body := event("company.created")
	when := time.Now().Add(-30 * time.Minute)
	caught := func(change func(*http.Request)) *http.Request {
		req := post(g.url, k, "msg_1", body)
		sign(req.Header, k, "msg_1", when, body)
		if change != nil {
			change(req)
		}
		return req
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	tests := []struct {
		name    string
		req     *http.Request
		status  int
		outcome string
	}{
		{"the request", caught(nil), 204, "accepted"},
		{"again", caught(nil), 204, "duplicate"},
		{"by another method", caught(func(r *http.Request) { r.Method = "PUT" }), 204, "duplicate"},
		{"with another content type", caught(set("Content-Type", "text/plain")), 204, "duplicate"},
		{"with another id", caught(set("webhook-id", "msg_2")), 401, "refused"},
		{"with another time", caught(set("webhook-timestamp", fmt.Sprint(time.Now().Unix()))), 401, "refused"},
		{"with a body that goes on", caught(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body+" ")), int64(len(body)+1)
		}), 401, "refused"},
		{"with a part of its time moved into its id", caught(func(r *http.Request) {
			stamp := r.Header.Get("webhook-timestamp")
			r.Header.Set("webhook-id", "msg_1."+stamp[:1])
			r.Header.Set("webhook-timestamp", stamp[1:])
		}), 401, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g.logs.TakeAll()
			got := send(t, tt.req)
			_, line := g.line(t)
			if got.status != tt.status || line["outcome"] != tt.outcome {
				t.Errorf("answered %d, %v; want %d, %s", got.status, line["outcome"], tt.status, tt.outcome)
			}
		})
	}
	if n := len(stored(t, server.JS)); n != 1 {
		t.Errorf("%d messages are stored; want 1", n)
	}

	strict := run(t, settings(t, server.URL, k)) // five minutes
	strict.waitReady(t)
	req := caught(nil)
	req.URL.Host = strict.address
	if got := send(t, req); got.status != 401 {
		t.Errorf("after the tolerance answered %d; want 401", got.status)
	}
	if got := strict.value(t, "refusals_total", "too_old"); got != 1 {
		t.Errorf("refusals_total{reason=\"too_old\"} = %v; want 1", got)
	}
}

// A second body under the same id does not replace the first.
func TestHandler_StoresTheFirstBodyOfAnID(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	first := event("company.created")
	for _, body := range []string{first, event("company.deleted"), "not JSON", ""} {
		if got := send(t, post(g.url, k, "msg_1", body)); got.status != 204 {
			t.Errorf("answered %d; want 204", got.status)
		}
	}
	all := stored(t, server.JS)
	if len(all) != 1 || string(all[0].Data) != first {
		t.Errorf("%d messages are stored; want the first one", len(all))
	}
}

// The signature covers the encoded body, which is stored as it is: nothing is decoded, so a compression bomb costs nothing.
func TestHandler_StoresEncodedBodiesWithoutDecoding(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	for i, encoding := range []string{"gzip", "deflate", "br", "gzip, gzip", "identity, gzip"} {
		body := "\x1f\x8b\x08" + strings.Repeat("\x00", 100+i)
		req := post(g.url, k, fmt.Sprintf("msg_%d", i), body)
		req.Header.Set("Content-Encoding", encoding)
		if got := send(t, req); got.status != 204 {
			t.Errorf("%s: answered %d; want 204", encoding, got.status)
		}
		msg := stored(t, server.JS)[i]
		if msg.Subject != "codat.quarantine" || string(msg.Data) != body || msg.Header.Get(stream.HeaderContentEncoding) != encoding {
			t.Errorf("%s: stored on %s with %d bytes; want the quarantine, and the bytes as they came", encoding, msg.Subject, len(msg.Data))
		}
	}
}

// The coding identity stands for no coding: a proxy that names it changes nothing.
func TestHandler_TakesIdentityForNoEncoding(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	for i, encoding := range []string{"identity", "Identity", "identity, identity", " identity ,", ""} {
		body := event("company.created")
		req := post(g.url, k, fmt.Sprintf("msg_%d", i), body)
		req.Header.Set("Content-Encoding", encoding)
		if got := send(t, req); got.status != 204 {
			t.Errorf("%q: answered %d; want 204", encoding, got.status)
		}
		msg := stored(t, server.JS)[i]
		if msg.Subject != "codat.events.company.created" || string(msg.Data) != body || msg.Header.Get(stream.HeaderContentEncoding) != "" {
			t.Errorf("%q: stored on %s, encoding %q; want the event, without an encoding", encoding, msg.Subject, msg.Header.Get(stream.HeaderContentEncoding))
		}
	}
}

// Only an event is answered 2xx: net/http would answer OPTIONS * with 200 and without a log line.
func TestServer_RefusesOptions(t *testing.T) {
	t.Parallel()
	g, _ := start(t, newKey(t, "us"))
	g.logs.TakeAll()
	if got := raw(t, g.address, "OPTIONS * HTTP/1.1\r\nHost: ingress\r\nConnection: close\r\n\r\n"); fmt.Sprint(got) != "[404]" {
		t.Errorf("answered %v; want 404", got)
	}
	if _, line := g.line(t); line["reason"] != "path" {
		t.Errorf("logged reason %v; want path", line["reason"])
	}
}

// A client that is still sending reads the response and then the end of the connection, never a reset, which a proxy would
// turn into a 502.
func TestHandler_RefusalReachesAClientThatIsStillSending(t *testing.T) {
	t.Parallel()
	g, _ := start(t, newKey(t, "us"))
	for _, first := range []string{
		"POST " + path + " HTTP/1.1\r\nHost: ingress\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: ingress\r\nConnection: close\r\n",
		"POST " + path + " HTTP/1.0\r\n",
	} {
		for _, size := range []int{300_000, maxBody} {
			conn := dial(t, g.address, first)
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)) // not all of it is taken
			}()
			answer := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answer, nil)
			if err != nil || resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%q and %d bytes: %v, %v; want 401", first, size, resp, err)
			}
			if n, err := answer.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%q and %d bytes: after the answer %d bytes, %v; want the end", first, size, n, err)
			}
			conn.Close()
			<-written
		}
	}
}

// A body that trickles in is ended by the deadline of the whole request, however steadily its bytes arrive.
func TestRun_EndsATricklingBody(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	s := settings(t, "nats://127.0.0.1:1", k)
	s.ReadTimeout = time.Second
	g := run(t, s)
	body := event("company.created")
	conn := dial(t, g.address, head(post(g.url, k, "msg_1", body))+"Transfer-Encoding: chunked\r\n\r\n")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			if _, err := io.WriteString(conn, "1\r\nx\r\n"); err != nil {
				return
			}
		}
	}()
	if got := status(t, conn); got != 408 {
		t.Errorf("answered %d; want 408", got)
	}
	conn.Close()
	<-ended
}

// Requests that net/http answers itself are counted and logged.
func TestRun_CountsConnectionsWithoutACompleteRequest(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, _ := start(t, k)
	if got := send(t, post(g.url, k, "msg_1", event("company.created"))); got.status != 204 {
		t.Fatalf("answered %d; want 204", got.status)
	}
	dial(t, g.address, "").Close() // as the health check of a load balancer
	for i, tt := range []struct {
		text string
		want int
	}{
		{"not HTTP\r\n\r\n", 400},
		{"POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		{"POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
	} {
		if got := status(t, dial(t, g.address, tt.text)); got != tt.want {
			t.Errorf("%.20q is answered %d; want %d", tt.text, got, tt.want)
		}
		g.waitUnread(t, i+1)
	}
}

// unreadLine is in the log line of a connection that closed without a complete request.
const unreadLine = "without a complete HTTP request"

// waitUnread waits until n connections without a complete request are counted and logged, each with a line.
func (g *instance) waitUnread(t testing.TB, n int) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		return g.value(t, "unread_requests_total", "") == float64(n) && g.logs.FilterMessageSnippet(unreadLine).Len() == n
	}, fmt.Sprintf("%d connections without a complete request are counted and logged", n))
}

// A balancer that speaks the PROXY protocol has its requests refused, and the log says why.
func TestRun_NamesTheProxyProtocol(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	body := event("company.created")
	request := head(post(g.url, k, "msg_1", body)) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	for i, header := range []string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
		"PROXY UNKNOWN\r\n",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb",
	} {
		if got := status(t, dial(t, g.address, header+request)); got != 400 {
			t.Errorf("%.20q is answered %d; want 400", header, got)
		}
		g.waitUnread(t, i+1)
	}
	for _, line := range g.logs.FilterMessageSnippet(unreadLine).All() {
		if cause := fmt.Sprint(line.ContextMap()["error"]); !strings.Contains(cause, "PROXY protocol") || !strings.Contains(cause, "switch it off") {
			t.Errorf("the log says %q; want the PROXY protocol and the cure", cause)
		}
	}
	if n := len(stored(t, server.JS)); n != 0 {
		t.Errorf("%d messages are stored; want none", n)
	}
	if got := status(t, dial(t, g.address, "PROXY / HTTP/1.1\r\nHost: x\r\n\r\n")); got != 404 && got != 405 {
		t.Errorf("the method PROXY is answered %d; want it refused as a request", got)
	}
}

// Idle connections use no more than the limit, and real requests are accepted beside them.
func TestRun_ClosesIdleConnectionsAtTheLimit(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	const most = 16
	s := settings(t, server.URL, k)
	s.MaxConnections = most
	g := run(t, s)
	g.waitReady(t)
	for i := range 20 {
		for range most {
			dial(t, g.address, "POST / HTTP/1.1\r\n")
		}
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", i), event("company.created"))); got.status != 204 {
			t.Fatalf("request %d beside idle connections is answered %d; want 204", i, got.status)
		}
		if open := g.value(t, "connections", ""); open > most {
			t.Fatalf("%v connections are open; want %d at most", open, most)
		}
	}
	if dropped := g.value(t, "connections_dropped_total", ""); dropped < 18*most {
		t.Errorf("%v connections were closed; want %d or more", dropped, 18*most)
	}
}

// Many new events in a second do not keep out the line of one that came again, which is told nowhere else.
func TestHandler_LogsDuplicatesBesideManyAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // in one second
		k := newKey(t, "k")
		core, logs := observer.New(zap.InfoLevel)
		s := ingress.NewServer(ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1}, zap.New(core), prometheus.NewRegistry())
		seen := map[string]bool{}
		s.Handle(ingress.RouteOptions{
			Source: streamtest.Source, Keys: signature.NewVerifier(time.Minute, nil, k.Key), Timeout: timeout,
			Path: path, MaxBody: maxBody, MaxInFlight: 1,
			Store: storeFunc(func(_ context.Context, m *nats.Msg) (stream.Receipt, error) {
				id := m.Header.Get(stream.HeaderWebhookID)
				again := seen[id]
				seen[id] = true
				return stream.Receipt{Stream: "CODAT", Sequence: 1, Duplicate: again}, nil
			}),
		})
		for _, id := range []string{"msg_1", "msg_2", "msg_3", "msg_3"} {
			s.ServeHTTP(httptest.NewRecorder(), post("http://ingress"+path, k, id, event("company.created")))
		}
		synctest.Wait()
		var got []string
		for _, line := range logs.FilterMessage("request").All() {
			fields := line.ContextMap()
			got = append(got, fmt.Sprint(fields["outcome"], " ", fields["id"]))
		}
		if want := []string{"accepted msg_1", "duplicate msg_3"}; !slices.Equal(got, want) {
			t.Errorf("the log has %q; want %q: one new event, and the one that came again", got, want)
		}
	})
}
