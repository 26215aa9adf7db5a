package ingress_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// keyFile writes a file of keys and returns its name.
func keyFile(t testing.TB, keys ...testKey) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	var lines []string
	for _, k := range keys {
		lines = append(lines, k.text)
	}
	write(t, name, lines...)
	return name
}

func sourcesFile(t testing.TB, format string, values ...any) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sources.yaml")
	write(t, name, fmt.Sprintf(format, values...))
	return name
}

func TestReadSourcesFile(t *testing.T) {
	t.Parallel()
	uk, us := newKey(t, "uk"), newKey(t, "us")
	ukFile, usFile := keyFile(t, uk), keyFile(t, us)
	one := "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n"
	tests := []struct {
		name, text string
		flags      []string
		wantErr    string // "" for none
	}{
		{"a tag where the list belongs", "sources: !a 0\n", nil, "write plain YAML"},
		{"one source", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n", nil, ""},
		{"a byte order mark", "\uFEFF" + one, nil, ""},
		{"UTF-16", "\xff\xfes\x00", nil, "save it in UTF-8"},
		{"a client id in quotes of its own", one + "  client_ids: ['\"a\"']\n", nil, "source a: client_ids number 1: a value has quotes around it"},
		{"every setting", "# all\nsources:\n- name: codat-uk\n  path: /uk\n  secret_files: [" + ukFile + "]\n  authorization_files: [" + ukFile + "]\n  client_ids: [a, b]\n" +
			"  allow: [codat, 10.0.0.0/8]\n  max_body: 64KiB\n  max_in_flight: 10\n  tolerance: 2m\n  unproven_rate: 0\n", nil, ""},
		{"a size as a number", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  max_body: 65536\n", nil, ""},
		{"an unknown key", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  secrets: [whsec_short]\n", nil, `line 4: unknown field "secrets"`},
		{"an unknown key at the top", "sources: []\nsource: x\n", nil, "line 2: unknown field"},
		{"a key twice", "sources:\n- name: codat-uk\n  name: codat-us\n", nil, "line 3: "},
		{"not YAML", "sources: [\n", nil, "line 1: "},
		{"a list as name", "sources:\n- name: [a]\n", nil, "line 2: "},
		{"an invalid size", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  max_body: many\n", nil, `line 4: max_body: "many" must be a number of bytes`},
		{"a number without a unit as duration", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  tolerance: 5\n", nil, `line 4: tolerance: "5" is not a duration: write it like 5m or 300s`},
		{"a duration in words", one + "  tolerance: 5 minutes\n", nil, `line 4: tolerance: "5 minutes" is not a duration: write it like 5m or 300s`},
		{"a list as duration", one + "  tolerance: [5m]\n", nil, "line 4: tolerance: "},
		{"a size with another unit", one + "  max_body: 1MX\n", nil, `line 4: max_body: "1MX" must be a number of bytes, or a number with KiB, MiB or GiB`},
		{"a size in a list", one + "  max_body:\n  - 1MiB\n", nil, "max_body: "},
		{"a number in quotes", one + "  max_in_flight: 'x'\n", nil, "line 4: max_in_flight must be a whole number, like 1024"},
		{"a number in braces", "sources:\n- {name: a, max_in_flight: true}\n", nil, "line 2: max_in_flight must be a whole number"},
		{"a number that is too long", one + "  max_in_flight: 99999999999999999999\n", nil, "line 4: max_in_flight must be a whole number"},
		{"a text as rate", one + "  unproven_rate: x\n", nil, "line 4: unproven_rate must be a number, like 20"},
		{"a text in place of a list", one + "  allow: codat\n", nil, "line 4: allow must be a list: write it like [a, b]"},
		{"a list in place of a text", one + "  client_ids: [a, [b]]\n", nil, "line 4: client_ids must be a text"},
		{"no tolerance", one + "  tolerance: 0s\n", nil, "source a: tolerance must be greater than 0s (got 0s)"},
		{"zero in flight", one + "  max_in_flight: 0\n", nil, "source a: max_in_flight must be at least 1 (got 0)"},
		{"zero bytes of body", one + "  max_body: 0\n", nil, "source a: max_body must be between 1 byte and 64MiB (got 0B)"},
		{"more in flight than the maximum", one + "  max_in_flight: 1000001\n", nil, "source a: max_in_flight must be at most 1000000 (got 1000001)"},
		{"the maximum in flight", one + "  max_in_flight: 1000000\n", nil, ""},
		{"a rate that is not a number", one + "  unproven_rate: .nan\n", nil, "source a: unproven_rate must be a number of requests a second, or 0 for no limit (got NaN)"},
		{"an infinite rate", one + "  unproven_rate: .inf\n", nil, "source a: unproven_rate must be a number of requests a second, or 0 for no limit (got +Inf)"},
		{"an empty list of addresses", one + "  allow: []\n", nil, "line 4: allow is empty"},
		{"an anchor of an empty list", one + "  allow: &none []\n", nil, "line 4: allow is empty"},
		{"an alias of an empty list", one + "  allow: &none [codat]\n  client_ids: [a]\n- name: b\n  secret_files: &x []\n  allow: *x\n", nil, "line 8: allow is empty"},
		{"an empty list in a source with an anchor", "sources:\n- &a\n  name: a\n  secret_files: [" + ukFile + "]\n  allow: []\n", nil, "allow is empty"},
		{"an empty list in a source with a tag", "sources:\n- !!map\n  name: a\n  secret_files: [" + ukFile + "]\n  allow: []\n", nil, "line 2: "},
		{"an empty list with a tag", one + "  client_ids: !!seq []\n", nil, "line 4: client_ids is empty"},
		{"an anchor of an empty list with a tag", one + "  client_ids: &x !!seq []\n", nil, "line 4: client_ids is empty"},
		{"an anchor of an empty list of files", one + "  authorization_files: &x []\n", nil, "line 4: authorization_files is empty"},
		{"an anchor of null", one + "  allow: &n null\n", nil, "line 4: allow is empty"},
		{"an anchor of nothing", one + "  allow: &n\n", nil, "line 4: undefined anchor value"},
		{"null with a tag", one + "  allow: !!null ''\n", nil, "write plain YAML"},
		{"an alias of null", one + "  path: &n ~\n  allow: *n\n", nil, "line 5: allow is empty"},
		{"an alias of null as item", one + "  client_ids: [&n null, *n]\n", nil, "source a: client_ids number 1: a client id is empty"},
		{"a merged empty list", one + "  <<: {allow: []}\n", nil, "allow is empty"},
		{"a merged alias of an empty list", "x: &x {allow: []}\n" + one + "  <<: *x\n", nil, "unknown field"},
		{"an empty text", one + "  path: ''\n", nil, "line 4: path is empty"},
		{"a list whose items are comments", one + "  client_ids:\n  # - a\n", nil, "line 4: client_ids is empty"},
		{"a key without a value", one + "  tolerance:\n", nil, "line 4: tolerance is empty"},
		{"an empty source", one + "-\n", nil, "source number 2 is empty"},
		{"an anchor that two sources share", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n  allow: &allow [codat]\n  tolerance: &t 2m\n- name: b\n  secret_files: [" + usFile + "]\n  allow: *allow\n  tolerance: *t\n", nil, ""},
		{"a value in place of a file name", one + "  authorization_files: ['Bearer my-secret-token']\n", nil, "source a: authorization_files: no such file or directory: the name is not shown because it contains a space: give the name of a file"},
		{"empty", "", nil, "contains no sources"},
		{"no sources", "sources: []\n", nil, "contains no sources"},
		{"two documents", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n---\nsources: []\n", nil, "more than one YAML document"},
		{"no name", "sources:\n- secret_files: [" + ukFile + "]\n", nil, "name"},
		{"a name with a dot", "sources:\n- name: codat.uk\n  secret_files: [" + ukFile + "]\n", nil, "codat.uk"},
		{"a name whose streams belong to another source", "sources:\n- name: codat-dead\n  secret_files: [" + ukFile + "]\n", nil, "codat-dead"},
		{"a name twice", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: a\n  path: /b\n  secret_files: [" + usFile + "]\n", nil, "two sources have the name a"},
		{"a path twice", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: b\n  path: /webhooks/a\n  secret_files: [" + usFile + "]\n", nil, "the path /webhooks/a"},
		{"one key in two sources", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: b\n  secret_files: [" + ukFile + "]\n", nil, uk.Fingerprint() + " is also a key of source a"},
		{"no keys", "sources:\n- name: a\n", nil, "source a: no secret_files"},
		{"a missing file of keys", "sources:\n- name: a\n  secret_files: [/nowhere/keys]\n", nil, "source a: secret_files /nowhere/keys"},
		{"an invalid network", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n  allow: [example.com]\n", nil, "source a: allow"},
		{"a pattern as path", "sources:\n- name: a\n  path: /:x\n  secret_files: [" + ukFile + "]\n", nil, "source a: path"},
		{"a negative number in flight", "sources:\n- name: a\n  max_in_flight: -1\n  secret_files: [" + ukFile + "]\n", nil, "source a: max_in_flight"},
		{"bodies larger than the budget", "sources:\n- name: a\n  max_body: 32MiB\n  secret_files: [" + ukFile + "]\n", nil, "--max-bytes"},
		{"flags for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--secret-file", usFile}, "--sources and --secret-file"},
		{"a path for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--path", "/x"}, "--sources and --path"},
		{"addresses for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--allow", "codat"}, "--sources and --allow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := process.Parse("ingress", "", new(ingress.Settings), append(tt.flags, "--sources", sourcesFile(t, "%s", tt.text)))
			if tt.wantErr == "" && err != nil {
				t.Fatalf("Parse = %v; want no error", err)
			}
			if tt.wantErr != "" && (process.ExitCode(err) != 2 || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Fatalf("Parse = %v; want exit 2 and an error that says %q", err, tt.wantErr)
			}
			if err != nil && (strings.Contains(err.Error(), "whsec_short") || strings.Contains(err.Error(), "my-secret-token") || strings.Contains(err.Error(), uk.text[6:])) {
				t.Errorf("the error has a key in it: %v", err)
			}
		})
	}
}

// The files of sources in the documentation are valid.
func TestReadSourcesFile_AcceptsTheExamplesOfTheDocs(t *testing.T) {
	t.Parallel()
	values := filepath.Join(t.TempDir(), "values")
	write(t, values, "Bearer x")
	here := strings.NewReplacer(
		"/run/secrets/uk-authorization", values,
		"/run/secrets/uk", keyFile(t, newKey(t, "uk")),
		"/run/secrets/us", keyFile(t, newKey(t, "us")),
	)
	for _, name := range []string{"design.md", "operate.md"} {
		page, err := os.ReadFile("../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(page), "```yaml\nsources:\n")
		example, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatalf("docs/%s shows no file of sources", name)
		}
		parsed(t, "--sources", sourcesFile(t, "%s", here.Replace("sources:\n"+example)))
	}
}

// Each source has its own path, keys, access checks, streams and metrics. Only the key decides which source an event belongs
// to.
func TestRun_KeepsSourcesApart(t *testing.T) {
	t.Parallel()
	uk, us := newKey(t, "uk"), newKey(t, "us")
	values := filepath.Join(t.TempDir(), "values")
	write(t, values, "Bearer uk")
	server := streamtest.Empty(t)
	g := run(t, sourcesSettings(t, server.URL, sourcesFile(t, `
sources:
- name: codat-uk
  path: /webhooks/uk
  secret_files: [%s]
  authorization_files: [%s]
  max_body: 10KiB
- name: codat-us
  secret_files: [%s]
`, keyFile(t, uk), values, keyFile(t, us))))
	g.waitReady(t)
	const ukPath, usPath = "/webhooks/uk", "/webhooks/codat-us"
	ask := func(path string, k testKey, authorization string, size int) *http.Request {
		req := post("http://"+g.address+path, k, signature.NewID(), event("company.created")+strings.Repeat(" ", size))
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return req
	}
	tests := []struct {
		name   string
		req    *http.Request
		status int
		source string // in the log
		reason string
	}{
		{"uk", ask(ukPath, uk, "Bearer uk", 0), 204, "codat-uk", ""},
		{"us", ask(usPath, us, "", 0), 204, "codat-us", ""},
		{"uk's key at us's path", ask(usPath, uk, "Bearer uk", 0), 401, "codat-us", "no_match"},
		{"us's key at uk's path", ask(ukPath, us, "Bearer uk", 0), 401, "codat-uk", "no_match"},
		{"uk without its value", ask(ukPath, uk, "", 0), 401, "codat-uk", "authorization"},
		{"uk is small", ask(ukPath, uk, "Bearer uk", 11<<10), 413, "codat-uk", "body_too_large"},
		{"us is not", ask(usPath, us, "", 11<<10), 204, "codat-us", ""},
		{"the path of a single source", ask(path, us, "", 0), 404, "", "path_signed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g.logs.TakeAll()
			if got := send(t, tt.req); got.status != tt.status {
				t.Errorf("answered %d; want %d", got.status, tt.status)
			}
			_, line := g.line(t)
			source, _ := line["source"].(string)
			reason, _ := line["reason"].(string)
			if source != tt.source || reason != tt.reason {
				t.Errorf("logged source %q, reason %q; want %q, %q", source, reason, tt.source, tt.reason)
			}
			if _, named := line["verdict"]; reason == "no_match" && named && line["verdict"] != "source" {
				t.Errorf("logged %v; want that the key is another source's", line)
			}
		})
	}
	for source, want := range map[stream.Source]uint64{"codat-uk": 1, "codat-us": 2} {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		st, err := server.JS.Stream(ctx, source.Stream())
		cancel()
		if err != nil || st.CachedInfo().State.Msgs != want {
			t.Errorf("stream %s has %v messages, %v; want %d", source.Stream(), st.CachedInfo().State.Msgs, err, want)
		}
		if got := g.value(t, "requests_total", string(source)); got != float64(map[stream.Source]int{"codat-uk": 4, "codat-us": 3}[source]) {
			t.Errorf("requests_total{source=%q} = %v", source, got)
		}
	}
}

// A source whose stream cannot be written is a warning. The ingress is not ready only when no source can be stored.
func TestRun_ReadyWhenOneSourceHasNoStream(t *testing.T) {
	t.Parallel()
	uk, us := newKey(t, "uk"), newKey(t, "us")
	server := streamtest.Empty(t)
	s := sourcesSettings(t, server.URL, sourcesFile(t, "sources:\n- name: codat-uk\n  secret_files: [%s]\n- name: codat-us\n  secret_files: [%s]\n", keyFile(t, uk), keyFile(t, us)))
	s.Provision = false
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	streamtest.Wait(t, func() bool {
		err := g.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "CODAT_UK") && strings.Contains(err.Error(), "CODAT_US")
	}, "it is not ready, and names both streams")
	streamtest.Provision(t, server.JS, stream.Layout{Source: "codat-us"})
	g.waitReady(t)
	ask := func(source string, k testKey) int {
		return send(t, post("http://"+g.address+"/webhooks/"+source, k, "msg_1", event("company.created"))).status
	}
	if got := ask("codat-uk", uk); got != 503 {
		t.Errorf("codat-uk is answered %d; want 503", got)
	}
	// With a publish timeout of a second, on a slow machine the first answer can be 503.
	streamtest.Wait(t, func() bool { return ask("codat-us", us) == 204 }, "codat-us is answered 204")
}

// A key that is added to a second source is rejected there: the path would decide which source an event belongs to.
func TestRun_RejectsAKeyOfAnotherSource(t *testing.T) {
	t.Parallel()
	uk, us := newKey(t, "uk"), newKey(t, "us")
	ukFile, usFile := keyFile(t, uk), keyFile(t, us)
	server := streamtest.Empty(t)
	g := run(t, sourcesSettings(t, server.URL, sourcesFile(t, "sources:\n- name: codat-uk\n  secret_files: [%s]\n- name: codat-us\n  secret_files: [%s]\n", ukFile, usFile)))
	g.waitReady(t)
	replace(t, ukFile, us.text) // the first one in the file
	streamtest.Wait(t, func() bool {
		return g.value(t, "file_problems", "") == 1 || !slices.Contains(g.labels(t, "key_matches_total", "key"), uk.Fingerprint())
	}, "the file is read")
	for source, want := range map[string]int{"codat-uk": 401, "codat-us": 204} {
		if got := send(t, post("http://"+g.address+"/webhooks/"+source, us, "msg_1", event("company.created"))); got.status != want {
			t.Errorf("us's key at %s: answered %d; want %d", source, got.status, want)
		}
	}
	if got := send(t, post("http://"+g.address+"/webhooks/codat-uk", uk, "msg_2", event("company.created"))); got.status != 204 {
		t.Errorf("uk's key from before: answered %d; want 204", got.status)
	}

	// When the other lets it go, both have what their files say, with the same look at them.
	replace(t, usFile, uk.text)
	streamtest.Wait(t, func() bool { return g.value(t, "file_problems", "") == 0 }, "the keys have changed places")
	for _, ask := range []struct {
		source string
		k      testKey
		want   int
	}{{"codat-uk", us, 204}, {"codat-us", uk, 204}, {"codat-uk", uk, 401}, {"codat-us", us, 401}} {
		if got := send(t, post("http://"+g.address+"/webhooks/"+ask.source, ask.k, "msg_3", event("company.created"))); got.status != ask.want {
			t.Errorf("after the change at %s: answered %d; want %d", ask.source, got.status, ask.want)
		}
	}
}

// sourcesSettings returns settings with a file of sources, for a server without streams.
func sourcesSettings(t testing.TB, nats, file string) *ingress.Settings {
	t.Helper()
	return parsed(t, "--sources", file, "--nats-url", nats, "--provision")
}

func TestSettings_CheckPrintsASummary(t *testing.T) {
	uk, us := newKey(t, "uk"), newKey(t, "us")
	ca := newCA(t, "ours")
	dir := t.TempDir()
	certFile, secretFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert, secret := ca.issue(t, "hooks.example.com", time.Now().Add(24*time.Hour))
	write(t, certFile, cert)
	write(t, secretFile, secret)
	values := filepath.Join(dir, "values")
	write(t, values, "Bearer SECRET-VALUE")
	file := sourcesFile(t, `
sources:
- name: codat-uk
  secret_files: [%s]
  authorization_files: [%s]
  allow: [codat]
- name: codat-us
  secret_files: [%s]
  unproven_rate: 5
`, keyFile(t, uk), values, keyFile(t, us))

	t.Run("good", func(t *testing.T) {
		s := parsed(t, "--check", "--sources", file, "--tls-cert", certFile, "--tls-key", secretFile)
		var out bytes.Buffer
		looked, err := s.Check(&out)
		if !looked || err != nil {
			t.Fatalf("Check = %v, %v; want true", looked, err)
		}
		for _, want := range []string{
			"HTTPS as hooks.example.com", "source codat-uk: path /webhooks/codat-uk, stream CODAT_UK", uk.Fingerprint(), us.Fingerprint(),
			"1 value of Authorization", "any value of Authorization", "from codat", "from any address", "5 unauthenticated requests/s", "configuration OK\n",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("it says\n%s\nwant %q in it", &out, want)
			}
		}
		for _, never := range []string{"SECRET-VALUE", "whsec_", uk.text[6:]} {
			if strings.Contains(out.String(), never) {
				t.Errorf("it says a secret:\n%s", &out)
			}
		}
	})
	t.Run("an expired certificate", func(t *testing.T) {
		cert, secret := ca.issue(t, "hooks.example.com", time.Now().Add(-time.Hour))
		write(t, certFile, cert)
		write(t, secretFile, secret)
		looked, err := parsed(t, "--check", "--sources", file, "--tls-cert", certFile, "--tls-key", secretFile).Check(new(bytes.Buffer))
		if !looked || process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "expired") {
			t.Errorf("Check = %v, %v; want exit 2", looked, err)
		}
	})
	t.Run("collector that cannot be used", func(t *testing.T) {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")
		var out bytes.Buffer
		checked, err := parsed(t, "--check", "--sources", file).Check(&out)
		if !checked || err != nil || !strings.Contains(out.String(), "warning: traces are off: OTEL_EXPORTER_OTLP_ENDPOINT must be a URL") {
			t.Errorf("Check = %v, %v with the report\n%s\nwant a warning", checked, err, &out)
		}
	})
	t.Run("not asked for", func(t *testing.T) {
		if looked, err := parsed(t, "--sources", file).Check(nil); looked || err != nil {
			t.Errorf("Check = %v, %v; want false", looked, err)
		}
	})
}
