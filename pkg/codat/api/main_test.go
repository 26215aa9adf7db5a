package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/codat/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	company    = "c0ffee00-0000-4000-8000-00000000000a"
	other      = "c0ffee00-0000-4000-8000-00000000000b"
	connection = "ca5cade0-0000-4000-8000-00000000000a"
	idemKey    = "1de00000-0000-4000-8000-000000000001"
	opKey      = "9a5500e0-0000-4000-8000-000000000005"
	apiKey     = "ky-0123456789"
)

var bills = api.Target{Company: company, Connection: connection, DataType: "bills"}

// A setup is a client of a server.
type setup struct {
	*api.Client
	settings api.Settings
	registry *prometheus.Registry
}

// connect returns a client of a server that answers with a handler.
func connect(t *testing.T, h http.HandlerFunc, change ...func(*api.Settings)) *setup {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, "# Codat\n"+apiKey+"\n")
	s := &setup{registry: prometheus.NewRegistry(), settings: api.Settings{
		CodatKeyFile: file, CodatURL: server.URL + "/base/", CodatTimeout: time.Minute, CodatConcurrency: 4,
	}}
	for _, c := range change {
		c(&s.settings)
	}
	client, err := api.New(s.settings, s.registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.Client = client
	return s
}

// write replaces a file: written in place, it can be read while it is empty.
func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// counted returns the metric of calls by call and outcome.
func (s *setup) counted(t *testing.T) map[string]float64 {
	t.Helper()
	counts := map[string]float64{}
	for _, m := range s.metrics(t, "headgate_codat_api_calls_total") {
		counts[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
	}
	return counts
}

// timed returns how many calls the metric of their time has.
func (s *setup) timed(t *testing.T) (n uint64) {
	t.Helper()
	for _, m := range s.metrics(t, "headgate_codat_api_call_seconds") {
		n += m.GetHistogram().GetSampleCount()
	}
	return n
}

func (s *setup) metrics(t *testing.T, name string) []*dto.Metric {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	return nil
}

// answer returns a handler that always answers the same.
func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// within is a context that ends a test that hangs.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
