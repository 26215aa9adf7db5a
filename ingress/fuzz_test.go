package ingress_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// FuzzDoor throws requests at the whole handler with two sources, signed and not. It never panics, never answers what
// is not in the table, and the store of a source never sees a message that does not prove under a key of that source, by
// an HMAC that is the test's own, nor one that its doors should have kept out.
func FuzzDoor(f *testing.F) {
	ours, theirs := key(f, "us"), key(f, "another source")
	proves := func(k pair, h nats.Header, body []byte) bool {
		bytes, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(k.text, "whsec_"))
		if err != nil {
			f.Fatal(err)
		}
		mac := hmac.New(sha256.New, bytes)
		mac.Write([]byte(h.Get(stream.HeaderWebhookID) + "." + h.Get(stream.HeaderWebhookTimestamp) + "."))
		mac.Write(body)
		return strings.Contains(h.Get(stream.HeaderWebhookSignature), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	const otherPath, unsigned, byUs, byThem = "/webhooks/other", 0, 1, 2

	for _, e := range examples.All() {
		f.Add("POST", path, "msg_1", "", "", "", byte(byUs), e.Body)
	}
	f.Add("PUT", path, "msg.1", "msg_2", "1", "gzip", byte(byUs), []byte("not JSON"))
	f.Add("POST", path, "msg_1", "msg_2", "+1", "v1,AAAA", byte(unsigned), []byte(`{"eventType":"a"}`))
	f.Add("GET", "/", "", "", "", "", byte(unsigned), []byte(nil))
	f.Add("POST", path, "msg_1", "", "", "", byte(byThem), []byte(`{"eventType":"a..b"}`))
	f.Add("POST", otherPath, "msg_1", "20.117.190.191", "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", otherPath, "msg_1", "4.159.114.108, 6.6.6.6", "", "Bearer x", byte(byThem), []byte(`{"eventType":"a.b"}`))
	f.Add("POST", otherPath, "msg_1", "4.159.114.108", "", "Bearer x", byte(byUs), []byte(`{"eventType":"a.b"}`))

	f.Fuzz(func(t *testing.T, method, target, id, otherID, otherTime, other string, signer byte, body []byte) {
		if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(id) > 4096 {
			return // no client could send it; not all of it would fit into a header of the message
		}
		stored := stream.Source("")
		d := ingress.NewFront(ingress.FrontOptions{MaxBytes: 8 << 20, Proxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			zap.NewNop(), prometheus.NewRegistry())
		open := func(source stream.Source, o ingress.DoorOptions, k pair) {
			o.MaxBody, o.MaxInFlight = 1<<16, 8
			d.Open(&ingress.Receiver{
				Source: source,
				Keys:   signature.NewVerifier(time.Hour, nil, key(t, "old "+string(source)).Key, k.Key),
				Budget: patience,
				Store: storeFunc(func(_ context.Context, msg *nats.Msg) (stream.Receipt, error) {
					stored = source
					if !proves(k, msg.Header, msg.Data) || string(msg.Data) != string(body) {
						t.Errorf("the store was called for what does not prove: %v", msg.Header)
					}
					return stream.Receipt{Stream: source.Stream(), Sequence: 1}, nil
				}),
			}, o)
		}
		open(streamtest.Source, ingress.DoorOptions{Path: path}, ours)
		open("other", ingress.DoorOptions{
			Path: otherPath, ClientIDs: []string{"Bearer x"},
			Allow: []netip.Prefix{netip.MustParsePrefix("4.159.114.108/32"), netip.MustParsePrefix("20.117.190.191/32")},
		}, theirs)

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
		if otherTime != "" {
			req.Header.Set("Content-Encoding", otherTime)
		}
		req.Header.Set("Traceparent", other)
		req.Header.Set("webhook-id", id)
		switch signer {
		case byUs:
			sign(req.Header, ours, id, time.Now(), string(body))
		case byThem:
			sign(req.Header, theirs, id, time.Now(), string(body))
		}
		w := httptest.NewRecorder()
		d.ServeHTTP(w, req)
		switch w.Code {
		case 204:
			if stored == "" || stored == streamtest.Source && signer != byUs || stored == "other" && signer != byThem {
				t.Errorf("answered 204, stored for source %q, signed by %d", stored, signer)
			}
			if stored == "other" && (other != "Bearer x" || !strings.Contains(otherID, "4.159.114.108") && !strings.Contains(otherID, "20.117.190.191")) {
				t.Errorf("let in from %q with client id %q", otherID, other)
			}
		case 401, 403, 404, 405, 413:
			if stored != "" {
				t.Errorf("answered %d after the store was called", w.Code)
			}
		default:
			t.Errorf("answered %d", w.Code)
		}
		if w.Body.Len() > 0 {
			t.Errorf("the answer has a body: %q", w.Body)
		}
	})
}
