package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headgate/headgate/pkg/codat"
)

func TestTypes_ListsTheCatalog(t *testing.T) {
	t.Parallel()
	c := headgate(t, 0, "types", "--json")
	got := map[string]catalogType{}
	for _, line := range c.out.lines() {
		var typ catalogType
		if err := json.Unmarshal([]byte(line), &typ); err != nil {
			t.Fatal(err)
		}
		got[typ.Name] = typ
	}
	if ids := headgate(t, 0, "types", "--type", "bills.>", "-o", "id").out.String(); ids != "bills.write.successful\nbills.write.unsuccessful\n" {
		t.Errorf("types --type bills.> -o id prints %q", ids)
	}
	if len(got) != len(codat.Catalog()) {
		t.Errorf("types has %d types; want the %d of the catalog", len(got), len(codat.Catalog()))
	}
	for _, want := range []catalogType{
		{"bills.write.successful", "write", "current", "codat.Write", "envelope"},
		{"*.read.completed", "read", "current", "codat.ReadResult", "envelope"},
		{"read.completed.successful", "read", "uncertain", "codat.ReadResult", "envelope"},
		{"bankFeeds.sourceAccount.connected", "bankFeeds", "current", "codat.SourceAccountChange", "envelope"},
		{"PushOperationTimedOut", "rules", "legacy", "codat.Rule[codat.PushOperationTimedOutData]", "rule"},
	} {
		if diff := cmp.Diff(want, got[want.Name]); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", want.Name, diff)
		}
	}
	c = headgate(t, 0, "types")
	if out := c.out.String(); !strings.Contains(out, "\nbills.write.successful\t") || !strings.Contains(c.err.String(), "84 types") {
		t.Errorf("types prints %q and %q; want the types and their number", out, c.err.String())
	}
}

// metricsServer serves metrics of an ingress that has counted drift, and returns their URL.
func metricsServer(t *testing.T) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	counter := func(name string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headgate_ingress_" + name}, labels)
		registry.MustRegister(c)
		return c
	}
	counter("requests_total", "source").WithLabelValues("codat").Add(100)
	counter("unknown_types_total", "source", "type").WithLabelValues("codat", "teapots.boiled").Inc()
	counter("unknown_fields_total", "source", "type", "field").WithLabelValues("codat", "company.created", `payload."a\x1b[31m"`).Add(2)
	counter("unknown_values_total", "source", "type", "field").WithLabelValues("codat", "connection.created", "payload.connection.status").Add(3)
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestTypes_ListsWhatIngressesHaveCounted(t *testing.T) {
	t.Parallel()
	a, b := metricsServer(t), metricsServer(t)
	c := headgate(t, 0, "types", "--drift", a, "--drift", b, "--json")
	want := []string{
		`{"source":"codat","kind":"field","type":"company.created","field":"payload.\"a\\x1b[31m\"","count":4}`,
		`{"source":"codat","kind":"value","type":"connection.created","field":"payload.connection.status","count":6}`,
		`{"source":"codat","kind":"type","type":"teapots.boiled","count":2}`,
	}
	if diff := cmp.Diff(want, c.out.lines()); diff != "" {
		t.Errorf("types --drift differs (-want +got):\n%s", diff)
	}
	c = headgate(t, 0, "types", "--drift", a)
	if out := c.out.String(); !strings.Contains(out, "\tvalue\t3\tconnection.created\tpayload.connection.status\n") || !strings.Contains(c.err.String(), "3 unknown names") {
		t.Errorf("types --drift prints %q and %q", out, c.err.String())
	}
}

func TestTypes_RefusesWhatIsNoIngress(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	for url, says := range map[string]string{
		answer(http.StatusNotFound, ""): "status 404",
		answer(http.StatusOK, "<html>"): "does not answer with metrics",
		answer(http.StatusOK, "up 1\n"): "has no metrics of an ingress",
		"http://127.0.0.1:1/metrics":    "refused",
	} {
		if c := headgate(t, 1, "types", "--drift", url); !strings.Contains(c.err.String(), says) {
			t.Errorf("types --drift %s says %q; want %q", url, c.err.String(), says)
		}
	}
	for _, args := range [][]string{{"--drift", "127.0.0.1:9090"}, {"--drift", "file:///etc/passwd"}, {"--drift", "http://a/", "--compare", "b"}} {
		headgate(t, 2, append([]string{"types"}, args...)...)
	}
}

func TestTypes_ComparesWithOpenAPIFiles(t *testing.T) {
	t.Parallel()
	const folder = "../../pkg/codat/schema/testdata/"
	c := headgate(t, 1, "types", "--compare", folder+"openapi31.yaml", "--compare", folder+"openapi30.json")
	for _, want := range []string{
		"file\ttype\t-\t-\tteapots.boiled\n",
		"file\tfield\tpayload.perMinute\t-\tclient.rateLimit.reached\n",
		"catalog\tvalue\tpayload.status\tTimedOut\tbankAccounts.write.successful, ",
		"file\tfield\tpayload.window\t-\tclient.rateLimit.reset\n",
	} {
		if !strings.Contains(c.out.String(), want) {
			t.Errorf("types --compare has no %q in:\n%s", want, c.out.String())
		}
	}
	if c := headgate(t, 1, "types", "--compare", folder+"openapi31.yaml", "--json"); !strings.Contains(c.out.String(),
		`{"only_in":"file","types":["client.rateLimit.reached"],"field":"payload.perMinute"}`) {
		t.Errorf("types --compare --json prints:\n%s", c.out.String())
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, says := range map[string]string{empty: "want a file of OpenAPI", filepath.Join(t.TempDir(), "none"): "no such file"} {
		if c := headgate(t, 1, "types", "--compare", file); !strings.Contains(c.err.String(), says) {
			t.Errorf("types --compare %s says %q; want %q", file, c.err.String(), says)
		}
	}
}

// A file that has what the catalog has is no difference.
func TestTypes_ComparesWithoutDifference(t *testing.T) {
	t.Parallel()
	webhooks := map[string]any{}
	for _, typ := range codat.Catalog() {
		if typ.Legacy || typ.Uncertain {
			continue
		}
		webhooks[typ.Name] = map[string]any{"post": map[string]any{"requestBody": map[string]any{"content": map[string]any{
			"application/json": map[string]any{"schema": map[string]any{"type": "object"}},
		}}}}
	}
	text, err := json.Marshal(map[string]any{"openapi": "3.1.0", "webhooks": webhooks})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "webhooks.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := headgate(t, 0, "types", "--compare", name); c.out.String() != "" {
		t.Errorf("types --compare prints %q; want nothing", c.out.String())
	}
}
