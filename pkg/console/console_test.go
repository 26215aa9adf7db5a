package console_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const source = "codat"

// newConsole returns a console of an empty source, for the local user.
func newConsole(t *testing.T, js jetstream.JetStream) *console.Console {
	t.Helper()
	c, err := console.New(console.Options{JS: js, Source: source, Access: console.Local{}, Log: zaptest.NewLogger(t), Version: "v0.0.0-test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get returns the answer to a GET by the local user.
func get(c http.Handler, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:9090"
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w
}

func TestConsole_SetsSecurityHeaders(t *testing.T) {
	t.Parallel()
	c := newConsole(t, streamtest.New(t).JS)
	for _, path := range []string{"/", "/no-such-page", "/static/none.js"} {
		w := get(c, path)
		policy := w.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: Content-Security-Policy %q lacks %q", path, policy, want)
			}
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q; want %q", path, name, got, want)
			}
		}
	}
}

func TestConsole_RefusesCrossSitePosts(t *testing.T) {
	t.Parallel()
	c := newConsole(t, streamtest.New(t).JS)
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:9090/", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("POST from another site: status %d; want 403", w.Code)
	}
}

func TestLocal_RefusesForeignNames(t *testing.T) {
	t.Parallel()
	c := newConsole(t, streamtest.New(t).JS)
	for host, want := range map[string]int{"localhost:9090": 200, "127.0.0.1:9090": 200, "[::1]:9090": 200, "[::1]": 200, "evil.example:9090": 421, "": 421} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q: status %d; want %d", host, w.Code, want)
		}
	}
}
