package ingress

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// fuzzStore is a store that checks whether it should have been called.
type fuzzStore func(*nats.Msg) stream.Receipt

func (f fuzzStore) PublishUntil(_ context.Context, _ time.Time, msg *nats.Msg) (stream.Receipt, error) {
	return f(msg), nil
}

// FuzzServer sends requests, signed and unsigned, to a server with three sources: one without access checks, one that checks
// the address and the client id, and one that checks Authorization. It never panics and never responds with a status that is
// not in the table. The store of a source never receives a message that does not verify under a key of that source, by an
// HMAC of the test's own, nor one that fails its access checks. A verified request that passes the checks is stored, whatever
// its other headers are.
func FuzzServer(f *testing.F) {
	const (
		openPath, closedPath, authPath = "/webhooks/codat", "/webhooks/other", "/webhooks/third"
		limit                          = 1 << 16
		firstAddress, secondAddress    = "4.159.114.108", "20.117.190.191"
	)
	names := []string{"", "codat", "other", "third"} // a signer is a place in it
	const unsigned, byUs, byThem, byThird = 0, 1, 2, 3
	texts, keys := make([]string, len(names)), make([]signature.Key, len(names))
	old, err := signature.ParseKey("whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%-32s", "an old key")))
	if err != nil {
		f.Fatal(err)
	}
	for i, name := range names {
		texts[i] = fmt.Sprintf("%-32s", "the key of "+name)
		if keys[i], err = signature.ParseKey("whsec_" + base64.StdEncoding.EncodeToString([]byte(texts[i]))); err != nil {
			f.Fatal(err)
		}
	}
	verifies := func(text string, h nats.Header, body []byte) bool {
		mac := hmac.New(sha256.New, []byte(text))
		mac.Write([]byte(h.Get(stream.HeaderWebhookID) + "." + h.Get(stream.HeaderWebhookTimestamp) + "."))
		mac.Write(body)
		return strings.Contains(h.Get(stream.HeaderWebhookSignature), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	value, err := parseAuthorization("Bearer x")
	if err != nil {
		f.Fatal(err)
	}
	authorized := new(credentials)
	authorized.set([]credential{value})

	for _, e := range examples.All() {
		f.Add("POST", openPath, "msg_1", "", "", "", byte(byUs), e.Body)
	}
	f.Add("PUT", openPath, "msg.1", "msg_2", "1", "gzip", byte(byUs), []byte("not JSON"))
	f.Add("POST", openPath, "msg_1", "msg_2", "+1", "v1,AAAA", byte(unsigned), []byte(`{"eventType":"a"}`))
	f.Add("GET", "/", "", "", "", "", byte(unsigned), []byte(nil))
	f.Add("POST", openPath, "msg_1", "", "", "", byte(byThem), []byte(`{"eventType":"a..b"}`))
	f.Add("POST", closedPath, "msg_1", secondAddress, "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", closedPath, "msg_1", firstAddress+", 6.6.6.6", "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", closedPath, "msg_1", "6.6.6.6, "+firstAddress+", 192.0.2.7", "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", closedPath, "msg_1", firstAddress, "", "Bearer x", byte(byUs), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", closedPath, "msg_1", firstAddress, "", "bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	for _, authorization := range []string{"Bearer x", "bEARER  x ", "", "Bearer", "Bearer xx", "Bearer x\nBearer x", "Bearer x, Bearer y"} {
		f.Add("POST", authPath, "msg_1", "", "", authorization, byte(byThird), []byte(`{"eventType":"a.b"}`))
	}
	f.Add("PUT", authPath, "msg_1", "", "gzip", "Bearer x", byte(byThird), []byte("not JSON"))
	f.Add("POST", authPath, "msg_1", "", "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", authPath, "msg_1", "", "", "Bearer x", byte(unsigned), []byte(`{"eventType":"a.b"}`))

	f.Fuzz(func(t *testing.T, method, target, id, otherID, otherTime, other string, signer byte, body []byte) {
		if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(id) > 4096 {
			return // no client could send it; not all of it would fit into a header of the message
		}
		stored := 0 // the source's place in names
		d := newServer(serverOptions{MaxBytes: 8 << 20, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			zap.NewNop(), prometheus.NewRegistry())
		open := func(place int, o routeOptions) {
			o.MaxBody, o.MaxInFlight = limit, 8
			source := stream.Source(names[place])
			o.Source, o.Timeout = source, time.Minute
			o.Keys = signature.NewVerifier(time.Hour, nil, old, keys[place])
			o.Store = fuzzStore(func(msg *nats.Msg) stream.Receipt {
				stored = place
				if !verifies(texts[place], msg.Header, msg.Data) || string(msg.Data) != string(body) {
					t.Errorf("the store was called for an unverified message: %v", msg.Header)
				}
				return stream.Receipt{Stream: source.Stream(), Sequence: 1}
			})
			d.handle(o)
		}
		open(byUs, routeOptions{Path: openPath})
		open(byThem, routeOptions{
			Path: closedPath, ClientIDs: []string{"Bearer x"},
			Allow: []netip.Prefix{netip.MustParsePrefix(firstAddress + "/32"), netip.MustParsePrefix(secondAddress + "/32")},
		})
		open(byThird, routeOptions{Path: authPath, Credentials: authorized})

		req, err := http.NewRequest(method, "http://ingress/", strings.NewReader(string(body)))
		if err != nil {
			return // no client could send it
		}
		req.URL.Path = target
		req.RemoteAddr = "192.0.2.1:4711"
		req.Header.Set("Svix-Id", otherID)
		req.Header.Set("Svix-Timestamp", otherTime)
		req.Header.Set("Svix-Signature", other)
		req.Header.Set("X-Forwarded-For", otherID)
		req.Header.Set("X-Codat-ClientId", other)
		if other != "" {
			req.Header["Authorization"] = strings.Split(other, "\n")
		}
		if otherTime != "" {
			req.Header.Set("Content-Encoding", otherTime)
		}
		req.Header.Set("Traceparent", other)
		req.Header.Set("webhook-id", id)
		if signer != unsigned && int(signer) < len(keys) {
			now := time.Now()
			req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
			req.Header.Set("webhook-signature", keys[signer].Sign(id, now, body))
		}
		w := httptest.NewRecorder()
		d.ServeHTTP(w, req)
		switch w.Code {
		case 204:
			if stored == 0 || stored != int(signer) {
				t.Errorf("answered 204, stored for source %q, signed by %d", names[stored], signer)
			}
		case 401, 403, 404, 405, 413:
			if stored != 0 {
				t.Errorf("answered %d after the store was called", w.Code)
			}
		default:
			t.Errorf("answered %d", w.Code)
		}
		from := "" // the right-most that is not a proxy's
		for one := range strings.SplitSeq(otherID, ",") {
			if one = strings.TrimSpace(one); one != "" && !strings.Contains(one, "192.0.2.") {
				from = one
			}
		}
		if stored == byThem && (other != "Bearer x" || !strings.Contains(from, firstAddress) && !strings.Contains(from, secondAddress)) {
			t.Errorf("accepted from %q with client id %q", otherID, other)
		}
		if words := strings.Fields(other); stored == byThird && (strings.Contains(other, "\n") || len(words) != 2 || !strings.EqualFold(words[0], "Bearer") || words[1] != "x") {
			t.Errorf("accepted with Authorization %q", other)
		}
		accept := method == "POST" && validID(id) && len(body) <= limit && (target == openPath && signer == byUs ||
			target == closedPath && signer == byThem && other == "Bearer x" && slices.Contains([]string{firstAddress, secondAddress}, otherID) ||
			target == authPath && signer == byThird && other == "Bearer x")
		if accept && w.Code != 204 {
			t.Errorf("answered %d to a verified request that passes all checks", w.Code)
		}
		if w.Body.Len() > 0 {
			t.Errorf("the answer has a body: %q", w.Body)
		}
	})
}
