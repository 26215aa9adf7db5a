package ingress_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
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

// FuzzDoor throws requests at the whole handler, signed and not. It never panics, never answers what
// is not in the table, and the store never sees a message that does not prove under the key, by an
// HMAC that is the test's own.
func FuzzDoor(f *testing.F) {
	k := key(f, "us")
	bytes, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(k.text, "whsec_"))
	if err != nil {
		f.Fatal(err)
	}
	proves := func(h nats.Header, body []byte) bool {
		mac := hmac.New(sha256.New, bytes)
		mac.Write([]byte(h.Get(stream.HeaderWebhookID) + "." + h.Get(stream.HeaderWebhookTimestamp) + "."))
		mac.Write(body)
		return strings.Contains(h.Get(stream.HeaderWebhookSignature), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}

	for _, e := range examples.All() {
		f.Add("POST", path, "msg_1", "", "", "", true, e.Body)
	}
	f.Add("PUT", path, "msg.1", "msg_2", "1", "gzip", true, []byte("not JSON"))
	f.Add("POST", path, "msg_1", "msg_2", "+1", "v1,AAAA", false, []byte(`{"eventType":"a"}`))
	f.Add("GET", "/", "", "", "", "", false, []byte(nil))
	f.Add("POST", path, "msg_1", "", "", "", true, []byte(`{"eventType":"a..b"}`))

	f.Fuzz(func(t *testing.T, method, target, id, otherID, otherTime, other string, signed bool, body []byte) {
		if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(id) > 4096 {
			return // no client could send it; not all of it would fit into a header of the message
		}
		called := false
		d := ingress.NewFront(ingress.FrontOptions{MaxBytes: 8 << 20}, zap.NewNop(), prometheus.NewRegistry())
		d.Open(&ingress.Receiver{
			Source: streamtest.Source,
			Keys:   signature.NewVerifier(time.Hour, nil, key(t, "old").Key, k.Key),
			Budget: patience,
			Store: storeFunc(func(_ context.Context, msg *nats.Msg) (stream.Receipt, error) {
				called = true
				if !proves(msg.Header, msg.Data) || string(msg.Data) != string(body) {
					t.Errorf("the store was called for what does not prove: %v", msg.Header)
				}
				return stream.Receipt{Stream: "CODAT", Sequence: 1}, nil
			}),
		}, ingress.DoorOptions{Path: path, MaxBody: 1 << 16, MaxInFlight: 8})

		req, err := http.NewRequest(method, "http://ingress/", strings.NewReader(string(body)))
		if err != nil {
			return // no client could send it
		}
		req.URL.Path = target
		req.Header.Set("Svix-Id", otherID)
		req.Header.Set("Svix-Timestamp", otherTime)
		req.Header.Set("Svix-Signature", other)
		req.Header.Set("Content-Encoding", otherTime)
		req.Header.Set("Traceparent", other)
		if signed {
			sign(req.Header, k, id, time.Now(), string(body))
		} else {
			req.Header.Set("webhook-id", id)
		}
		w := httptest.NewRecorder()
		d.ServeHTTP(w, req)
		switch w.Code {
		case 204:
			if !called || !signed {
				t.Errorf("answered 204; store called %v, signed %v", called, signed)
			}
		case 401, 404, 405, 413:
			if called {
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
