package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// secret is the key of these tests.
const secret = "whsec_dGhlIGtleSBvZiB0aGUgdGVzdHMgb2Ygc2VuZA=="

// A webhook proves what it gets, as the ingress does, and keeps it.
type webhook struct {
	*httptest.Server
	mu     sync.Mutex
	ids    []string
	bodies []string
}

// newWebhook answers with status, when what came is proven.
func newWebhook(t *testing.T, status int) *webhook {
	key, err := signature.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	verifier := signature.NewVerifier(5*time.Minute, nil, key)
	w := &webhook{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		claim, err := verifier.Read(r.Header)
		if err != nil {
			t.Errorf("Read = %v", err)
		}
		proof, err := verifier.Verify(claim, body)
		if err != nil {
			t.Errorf("Prove = %v", err)
		}
		if got := r.Header.Get("Content-Type"); r.Method != http.MethodPost || got != "application/json" {
			t.Errorf("%s with content type %q; want POST of application/json", r.Method, got)
		}
		w.mu.Lock()
		w.ids, w.bodies = append(w.ids, proof.ID), append(w.bodies, string(body))
		w.mu.Unlock()
		answer.WriteHeader(status)
	}))
	t.Cleanup(w.Close)
	return w
}

func TestSend_SignsAndPostsExample(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	c := headgate(t, 0, "send", "invoices.write.successful", "--to", w.URL, "--secret", secret)
	want, _ := examples.Of("invoices.write.successful")
	if len(w.bodies) != 1 || w.bodies[0] != string(want.Body) {
		t.Errorf("posted %q; want the example", w.bodies)
	}
	contains(t, c.out.String(), "204", "invoices.write.successful", w.ids[0], " ms")
	if strings.Contains(c.out.String()+c.err.String(), secret) {
		t.Error("it shows the key")
	}
}

func TestSend_AllIncludesTraps(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	c := headgate(t, 0, "send", "--all", "--to", w.URL, "--secret", secret)
	all := examples.All()
	if len(w.bodies) != len(all) || len(c.out.lines()) != len(all) {
		t.Fatalf("%d posted and %d lines; want %d", len(w.bodies), len(c.out.lines()), len(all))
	}
	ids := map[string]bool{}
	for i, e := range all {
		if w.bodies[i] != string(e.Body) {
			t.Errorf("%s: another body", e.Name)
		}
		ids[w.ids[i]] = true
	}
	if len(ids) != len(all) {
		t.Errorf("%d ids; want %d", len(ids), len(all))
	}
	contains(t, c.out.String(), "trap/")
}

func TestSend_KeepsBytesOfFile(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	const body = "{ \"eventType\": \"company.created\"\r\n}\n"
	file := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	c := headgate(t, 0, "send", "--file", file, "--to", w.URL, "--secret", secret)
	contains(t, c.out.String(), "company.created")
	c = begin(t, "not json", "send", "--file", "-", "--to", w.URL, "--secret", secret).exit(0)
	contains(t, c.out.String(), "standard input")
	if len(w.bodies) != 2 || w.bodies[0] != body || w.bodies[1] != "not json" {
		t.Errorf("posted %q; want the file and standard input", w.bodies)
	}
}

func TestSend_ReadsKeyFromFile(t *testing.T) {
	w := newWebhook(t, 204)
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "secret"), []byte("# ours\n"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	headgate(t, 0, "send", "company.created", "--to", w.URL, "--data", data)
	headgate(t, 0, "send", "company.created", "--to", w.URL, "--secret-file", filepath.Join(data, "secret"))
	t.Setenv("HEADGATE_SECRET", secret)
	headgate(t, 0, "send", "company.created", "--to", w.URL)
	if len(w.ids) != 3 {
		t.Errorf("%d posted; want 3", len(w.ids))
	}
}

func TestSend_RepeatsID(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	headgate(t, 0, "send", "company.created", "--id", "msg_same", "--count", "3", "--to", w.URL, "--secret", secret)
	if strings.Join(w.ids, " ") != "msg_same msg_same msg_same" {
		t.Errorf("posted %q; want msg_same three times", w.ids)
	}
}

func TestSend_ExplainsRefusal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		says   string
	}{
		{"another key", 401, "another key"},
		{"another client", 403, "does not allow"},
		{"another path", 404, "check --to"},
		{"another service", 405, "check --to"},
		{"a slow body", 408, "slowly"},
		{"a large body", 413, "--max-body"},
		{"nowhere to store it", 503, "send it again with the same --id"},
		{"an error of another service", 500, "check --to"},
		{"a redirect, which Codat does not follow", 302, "check --to"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWebhook(t, tt.status)
			c := headgate(t, 1, "send", "company.created", "--count", "2", "--to", w.URL, "--secret", secret)
			contains(t, c.out.String(), tt.says)
			contains(t, c.err.String(), "2 of 2 events were not accepted")
			if len(c.out.lines()) != 2 {
				t.Errorf("it prints %q; want a line for each event", c.out.lines())
			}
		})
	}
}

func TestSend_PrintsJSON(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 401)
	c := headgate(t, 1, "send", "company.created", "--json", "--to", w.URL, "--secret", secret)
	var got sendResult
	if err := json.Unmarshal([]byte(c.out.String()), &got); err != nil {
		t.Fatalf("%v in %s", err, &c.out)
	}
	if got.Type != "company.created" || got.ID != w.ids[0] || got.Status != 401 || got.Meaning == "" || got.TookMS <= 0 {
		t.Errorf("it prints %s", &c.out)
	}
}

func TestSend_StopsWithoutAnswer(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 204)
	w.Close()
	c := headgate(t, 1, "send", "--all", "--to", w.URL, "--secret", secret)
	contains(t, c.err.String(), "no response", "headgate dev")
}

func TestSend_ListsExamples(t *testing.T) {
	t.Parallel()
	c := headgate(t, 0, "send", "--list")
	if got, want := len(c.out.lines()), len(examples.All()); got != want {
		t.Errorf("%d lines; want %d", got, want)
	}
	contains(t, c.out.String(), "connection.connected\n")
}

// What is sent again and again is every type and none of the unusual bodies, and goes on when it is not accepted.
func TestSend_EveryTypeAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, 503)
	c := begin(t, "", "send", "--all-types", "--every", "1ms", "--to", w.URL, "--secret", secret)
	types := len(slices.DeleteFunc(examples.All(), func(e examples.Example) bool { return strings.HasPrefix(e.Name, "trap/") }))
	streamtest.Wait(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.ids) > types
	}, "it sends a second time")
	c.stop()
	c.exit(0)
	contains(t, c.err.String(), fmt.Sprintf("%d of %d events were not accepted", types, types))
	if strings.Contains(c.out.String(), "trap/") {
		t.Errorf("it sends unusual bodies:\n%s", &c.out)
	}
}
