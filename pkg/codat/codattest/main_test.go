package codattest_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/signature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	company    = "c0ffee00-0000-4000-8000-00000000000a"
	connection = "ca5cade0-0000-4000-8000-00000000000a"
	first      = "1de00000-0000-4000-8000-000000000001"
	second     = "1de00000-0000-4000-8000-000000000002"
	secret     = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

var (
	morning = time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)
	bills   = api.Target{Company: company, Connection: connection, DataType: "bills"}
)

// A setup is a stand-in with a clock, a company and a client.
type setup struct {
	*codattest.Server
	t      *testing.T
	client *api.Client
	http   *http.Client
	clock  *codattest.Clock
}

// start starts a stand-in whose clock stands still, unless the options have another.
func start(t *testing.T, o codattest.Options) *setup {
	t.Helper()
	s := &setup{t: t, clock: codattest.NewClock(morning)}
	if o.Clock == nil {
		o.Clock = s.clock
	}
	return s.start(o)
}

// start starts the stand-in.
func (s *setup) start(o codattest.Options) *setup {
	s.t.Helper()
	server, err := codattest.Start(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(server.Close)
	server.AddCompany(codattest.Company{ID: company, Name: "Larkspur Bakery", Tags: map[string]string{"segment": "bakeries"}, Connections: []string{connection}})
	file := filepath.Join(s.t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(codattest.DefaultKey), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Server = server
	s.client, err = api.New(api.Settings{CodatKeyFile: file, CodatURL: server.URL(), CodatTimeout: time.Minute, CodatConcurrency: 10}, prometheus.NewRegistry())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.client.Close)
	s.http = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	s.t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// A raw answer is what came over the wire.
type raw struct {
	status int
	header http.Header
	body   string
}

// call makes a request without package api. The pairs are headers.
func (s *setup) call(method, path, body string, pairs ...string) raw {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Basic Y29kYXR0ZXN0LWtleQ==")
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Add(pairs[i], pairs[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw{resp.StatusCode, resp.Header, string(text)}
}

// push is the path of a push of bills.
const push = "/companies/" + company + "/connections/" + connection + "/push/bills"

// An inbox is an endpoint that keeps what it gets, once the Svix library has verified it.
type inbox struct {
	id string

	mu     sync.Mutex
	bodies []string
	ids    []string
	stamps map[string]bool // signatures
	status func(n int) int // of request n, from 1; nil is 204
	header http.Header     // of each answer
}

// endpoint adds an endpoint.
func (s *setup) endpoint(in *inbox, e codattest.Endpoint) *inbox {
	s.t.Helper()
	in.stamps = map[string]bool{}
	verifier, err := svix.NewWebhook(secret)
	if err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		if err != nil {
			s.t.Errorf("a webhook that does not verify: %v", err)
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		in.bodies = append(in.bodies, string(body))
		in.ids = append(in.ids, r.Header.Get("webhook-id"))
		in.stamps[r.Header.Get("webhook-signature")] = true
		for name, values := range in.header {
			w.Header()[name] = values
		}
		status := http.StatusNoContent
		if in.status != nil {
			status = in.status(len(in.bodies))
		}
		w.WriteHeader(status)
	}))
	s.t.Cleanup(server.Close)
	if e.URL = server.URL; e.Key == (signature.Key{}) {
		if e.Key, err = signature.ParseKey(secret); err != nil {
			s.t.Fatal(err)
		}
	}
	in.id = s.AddEndpoint(e)
	return in
}

// all returns the bodies so far.
func (in *inbox) all() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]string(nil), in.bodies...)
}
