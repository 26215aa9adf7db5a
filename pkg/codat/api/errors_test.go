package api_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headgate/headgate/pkg/codat/api"
)

const refusal = `{"statusCode":400,"service":"PublicApi","error":"Larkspur owes 41","correlationId":"bc997528a9d7","canBeRetried":"False","detailedErrorCode":7,
	"validation":{"errors":[{"itemId":"Total","message":"Larkspur","validatorName":"V"}],"warnings":null}}`

var marks = map[string]error{
	"unavailable": api.ErrUnavailable, "unknown": api.ErrOutcomeUnknown, "account": api.ErrAccount,
	"not found": api.ErrNotFound, "in progress": api.ErrInProgress, "reused": api.ErrKeyReused,
}

func marked(err error) string {
	var all []string
	for _, name := range []string{"unavailable", "unknown", "account", "not found", "in progress", "reused"} {
		if errors.Is(err, marks[name]) {
			all = append(all, name)
		}
	}
	return strings.Join(all, ", ")
}

func create(ctx context.Context, c *api.Client) error {
	_, err := c.Create(ctx, bills, idemKey, []byte(`{"secret":1}`))
	return err
}

func update(ctx context.Context, c *api.Client) error {
	_, err := c.Update(ctx, bills, "7", []byte(`{"secret":1}`))
	return err
}

func get(ctx context.Context, c *api.Client) error {
	_, err := c.Push(ctx, company, opKey)
	return err
}

func TestErrors_HaveTheirMarks(t *testing.T) {
	t.Parallel()
	html := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Larkspur"))
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	cutOff := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"pushOperationKey":"Larkspur`))
	}
	garbled := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nLarkspur\r\n\r\n")
		_ = conn.Close()
	}
	tests := []struct {
		name    string
		call    func(context.Context, *api.Client) error
		handler http.HandlerFunc
		marks   string
		outcome string
		text    string
	}{
		{"a 400", create, answer(400, refusal), "", "refused", "codat API: Create: 400 Bad Request, correlation id bc997528a9d7, code 7"},
		{"a 401", create, answer(401, `{}`), "account", "refused", "codat API: Create: 401 Unauthorized"},
		{"a 402", get, answer(402, ``), "account", "refused", "402 Payment Required"},
		{"a 403", get, answer(403, `[]`), "", "refused", "403 Forbidden"},
		{"a 404", update, answer(404, `{"error":5}`), "not found", "refused", "404 Not Found"},
		{"a 409 for a key", create, answer(409, `{}`), "in progress", "refused", "409 Conflict"},
		{"a 409 without a key", update, answer(409, `{}`), "", "refused", "409 Conflict"},
		{"a 422 for a key", create, answer(422, `{}`), "reused", "refused", "422"},
		{"a 422 without a key", update, answer(422, `{}`), "", "refused", "422"},
		{"a 429", create, answer(429, `{}`), "unavailable", "rate_limited", "429"},
		{"a 500 of a write", create, answer(500, `{}`), "unavailable, unknown", "server_error", "500"},
		{"a 503 of a read", get, answer(503, `oops`), "unavailable", "server_error", "503"},
		{"an answer that is not HTTP", update, garbled, "unavailable, unknown", "no_answer", "no answer: the answer is broken off, or not HTTP/1.1"},
		{"a status that has no text", get, answer(599, ``), "unavailable", "server_error", "599"},
		{"a redirect", create, answer(307, ``, "Location", "/elsewhere"), "", "refused", "307"},
		{"a page of a proxy", create, html, "unknown", "unreadable", "not JSON"},
		{"JSON of another type", get, answer(200, `{"status":{"Larkspur":1}}`), "", "unreadable", "other types than documented"},
		{"no push operation key", create, answer(200, `{"status":"Pending"}`), "unknown", "unreadable", "no push operation key"},
		{"cut off inside the JSON", get, answer(200, `{"status":"Larkspur`), "", "unreadable", "invalid JSON"},
		{"no answer to a write", create, hangUp, "unavailable, unknown", "no_answer", "no answer: EOF"},
		{"no answer to a read", get, hangUp, "unavailable", "no_answer", "no answer: "},
		{"half an answer", update, cutOff, "unavailable, unknown", "no_answer", "no answer: unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, tt.handler)
			err := tt.call(within(t), c.Client)
			if err == nil {
				t.Fatal("no error")
			}
			if got := marked(err); got != tt.marks {
				t.Errorf("%v is %q; want %q", err, got, tt.marks)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v; want %q", err, tt.text)
			}
			for _, secret := range []string{"Larkspur", "secret", apiKey, company} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows %q: %v", secret, err)
				}
			}
			for counted := range c.counted(t) {
				if !strings.HasSuffix(counted, " "+tt.outcome) {
					t.Errorf("counted as %q; want %q", counted, tt.outcome)
				}
			}
		})
	}
}

func TestError_HasWhatCodatSays(t *testing.T) {
	t.Parallel()
	c := connect(t, answer(400, refusal, "Retry-After", "7"))
	var got *api.Error
	if err := create(within(t), c.Client); !errors.As(err, &got) {
		t.Fatalf("%v is no Error", err)
	}
	want := &api.Error{
		Call: "Create", Status: 400, Service: "PublicApi", Message: "Larkspur owes 41", CorrelationID: "bc997528a9d7", DetailedCode: 7, CanBeRetried: "False",
		Validation: api.Validation{Errors: []api.ValidationItem{{ItemID: "Total", Message: "Larkspur", ValidatorName: "V"}}}, RetryAfter: 7 * time.Second,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(api.Error{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestClient_EndsCalls(t *testing.T) {
	t.Parallel()
	silent := func(arrived func()) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the server notices a client that is gone only after the body
			arrived()
			<-r.Context().Done()
		}
	}
	t.Run("after the timeout", func(t *testing.T) {
		c := connect(t, silent(func() {}), func(s *api.Settings) { s.CodatTimeout = 50 * time.Millisecond })
		err := get(within(t), c.Client)
		if marked(err) != "unavailable" || !strings.Contains(err.Error(), "--codat-timeout (50ms)") {
			t.Errorf("%v is %q", err, marked(err))
		}
	})
	t.Run("with the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := connect(t, silent(cancel))
		err := update(ctx, c.Client)
		if marked(err) != "unknown" || !errors.Is(err, context.Canceled) {
			t.Errorf("%v is %q; want an unknown outcome only", err, marked(err))
		}
		if got := c.counted(t)["Update canceled"]; got != 1 {
			t.Errorf("counted %v", c.counted(t))
		}
	})
	t.Run("when there is no server", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		c := connect(t, silent(func() {}), func(s *api.Settings) { s.CodatURL = server.URL })
		if err := create(within(t), c.Client); marked(err) != "unavailable" {
			t.Errorf("%v is %q; want unavailable: nothing was sent", err, marked(err))
		}
	})
}

func TestClient_WaitsAsLongAsCodatAsks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		headers   []string
		elsewhere string // the marks of a call for another company
	}{
		{"the platform's limit is its company's", []string{"Retry-After", "3600", "X-Rate-Limit-Limit", "1000", "X-Rate-Limit-Remaining", "900"}, ""},
		{"the daily quota is everybody's", []string{"Retry-After", "3600", "X-Rate-Limit-Limit", "1000", "X-Rate-Limit-Remaining", "0", "X-Rate-Limit-Reset", "2026-02-04T00:00:00Z"}, "unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			c := connect(t, func(w http.ResponseWriter, r *http.Request) {
				if calls++; strings.Contains(r.URL.Path, company) {
					answer(429, `{}`, tt.headers...)(w, r)
					return
				}
				answer(200, pending)(w, r)
			})
			began := time.Now()
			err := create(within(t), c.Client)
			if got := api.RetryAfter(err); got != time.Hour {
				t.Errorf("RetryAfter = %v; want 1h", got)
			}
			if until := c.PausedUntil(company); until.Before(began.Add(15*time.Minute)) || until.After(time.Now().Add(15*time.Minute)) {
				t.Errorf("paused until %v after %v; want 15 minutes: a quota can be raised", until, began)
			}
			err = create(within(t), c.Client)
			if calls != 1 || marked(err) != "unavailable" || c.counted(t)["Create paused"] != 1 || c.timed(t) != 1 {
				t.Errorf("the next call = %v (%d calls, %v); want none, and no unknown outcome", err, calls, c.counted(t))
			}
			if left := api.RetryAfter(err); left <= 14*time.Minute || left > 15*time.Minute {
				t.Errorf("RetryAfter = %v; want what is left of 15 minutes", left)
			}
			_, err = c.Push(within(t), other, opKey)
			if marked(err) != tt.elsewhere {
				t.Errorf("another company = %v; want %q", err, tt.elsewhere)
			}
		})
	}
}

// A pause is known while other calls of the company are in progress: a call does not wait for them.
func TestClient_FailsAtOnceDuringAPause(t *testing.T) {
	t.Parallel()
	arrived, leave := make(chan struct{}), make(chan struct{})
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, other) {
			answer(429, `{}`, "Retry-After", "600", "X-Rate-Limit-Limit", "1000", "X-Rate-Limit-Remaining", "0")(w, r)
			return
		}
		arrived <- struct{}{}
		<-leave
		answer(200, pending)(w, r)
	}, func(s *api.Settings) { s.CodatConcurrency = 1 })
	held := make(chan error, 1)
	go func() { held <- get(within(t), c.Client) }()
	<-arrived
	if _, err := c.Push(within(t), other, opKey); api.RetryAfter(err) != 10*time.Minute {
		t.Errorf("the call of the other company = %v; want a 429 that asks to wait ten minutes", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := get(ctx, c.Client); marked(err) != "unavailable" || api.RetryAfter(err) <= 0 {
		t.Errorf("a call during the pause = %v; want it not called, while another is in progress", err)
	}
	close(leave)
	if err := <-held; err != nil {
		t.Error(err)
	}
}

func TestClient_KnowsQuota(t *testing.T) {
	t.Parallel()
	c := connect(t, answer(200, pending, "X-Rate-Limit-Limit", "42000", "X-Rate-Limit-Remaining", "41999", "X-Rate-Limit-Reset", "2026-02-04T00:00:00.0000000Z"))
	if _, ok := c.Quota(); ok {
		t.Error("a quota before the first answer")
	}
	if err := get(within(t), c.Client); err != nil {
		t.Fatal(err)
	}
	want := api.Quota{Limit: 42000, Remaining: 41999, Reset: time.Date(2026, 2, 4, 0, 0, 0, 0, time.UTC)}
	if got, ok := c.Quota(); !ok || got != want {
		t.Errorf("Quota = %v, %v; want %v", got, ok, want)
	}
}
