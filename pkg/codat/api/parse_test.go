package api_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/pkg/codat/api"
)

func TestRetryAfter_IsSecondsOrDate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 3, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"30":                            30 * time.Second,
		" 30 ":                          30 * time.Second,
		"Tue, 03 Feb 2026 10:01:00 GMT": time.Minute,
		"Tue, 03 Feb 2026 09:59:00 GMT": 0,
		"4294967295":                    24 * time.Hour,
		"99999999999999999999":          0,
		"-5":                            0,
		"soon":                          0,
		"Fri, 03 Feb 2096 10:00:00 GMT": 24 * time.Hour,
	} {
		if got := api.RetryDelay(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("Retry-After %q = %v; want %v", value, got, want)
		}
	}
}

func TestGate_ForgetsCompanies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := api.NewGate(1)
		for n := range 2000 {
			g.Pause(strings.Repeat("x", n+1), time.Minute)
		}
		if _, err := g.Enter(t.Context(), "x"); err == nil {
			t.Error("a company that is paused enters")
		}
		time.Sleep(time.Minute)
		leave, err := g.Enter(t.Context(), "y")
		if err != nil {
			t.Fatal(err)
		}
		if g.Lanes() != 1 {
			t.Errorf("%d lanes; want the one that is used", g.Lanes())
		}
		leave()
		if g.Lanes() != 0 {
			t.Errorf("%d lanes; want none", g.Lanes())
		}
		g.Pause("", time.Hour)
		if until := g.Until("y"); !until.Equal(time.Now().Add(15 * time.Minute)) {
			t.Errorf("paused until %v; want for 15 minutes", until)
		}
		g.Pause("", time.Second)
		if until := g.Until("y"); !until.Equal(time.Now().Add(15 * time.Minute)) {
			t.Errorf("a shorter pause ends the longer one at %v", until)
		}
	})
}

// An error body comes from the network, before anything says that it is Codat's.
func FuzzParseError(f *testing.F) {
	for _, body := range []string{
		refusal, ``, `{}`, `null`, `[]`, `"x"`, `{"validation":[]}`, `{"validation":{"errors":[null]}}`, `{"detailedErrorCode":1e99,"service":"a"}`,
		`{"correlationId":"a b"}`, `{"correlationId":"\u001b[2J"}`, `{"error":`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e := api.ParseError(body)
		e.Call, e.Status = "Create", 400
		text := e.Error()
		for _, r := range text {
			if r < ' ' || r > '~' {
				t.Fatalf("%q has %q in it", text, r)
			}
		}
		if len(text) > 300 {
			t.Fatalf("%q is long", text)
		}
	})
}
