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

// keyFile is a file with keys, as a setting has it.
func keyFile(t testing.TB, keys ...pair) string {
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

func TestSourcesFile(t *testing.T) {
	uk, us := key(t, "uk"), key(t, "us")
	ukFile, usFile := keyFile(t, uk), keyFile(t, us)
	one := "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n"
	tests := []struct {
		name, text string
		flags      []string
		says       string // "" when it is good
	}{
		{"a tag where the list belongs", "sources: !a 0\n", nil, "write plain YAML"},
		{"one source", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n", nil, ""},
		{"every setting", "# all\nsources:\n- name: codat-uk\n  path: /uk\n  secret_files: [" + ukFile + "]\n  authorization_files: [" + ukFile + "]\n  client_ids: [a, b]\n" +
			"  allow: [codat, 10.0.0.0/8]\n  max_body: 64KiB\n  max_in_flight: 10\n  tolerance: 2m\n  unproven_rate: 0\n", nil, ""},
		{"a size as a number", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  max_body: 65536\n", nil, ""},
		{"a key that nobody knows", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  secrets: [whsec_short]\n", nil, `line 4: unknown field "secrets"`},
		{"a key that nobody knows at the top", "sources: []\nsource: x\n", nil, "line 2: unknown field"},
		{"a key twice", "sources:\n- name: codat-uk\n  name: codat-us\n", nil, "line 3: "},
		{"not YAML", "sources: [\n", nil, "line 1: "},
		{"a list where a name is", "sources:\n- name: [a]\n", nil, "line 2: "},
		{"a size that is none", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  max_body: many\n", nil, `line 4: max_body: "many" is no size`},
		{"a time that is none", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n  tolerance: 5\n", nil, `line 4: tolerance: "5" is no time: write it as 5m or 300s`},
		{"a time in words", one + "  tolerance: 5 minutes\n", nil, `line 4: tolerance: "5 minutes" is no time: write it as 5m or 300s`},
		{"a time that is a list", one + "  tolerance: [5m]\n", nil, "line 4: tolerance: "},
		{"a size with another unit", one + "  max_body: 1MB\n", nil, `line 4: max_body: "1MB" is no size: give bytes, or a number with KiB, MiB or GiB`},
		{"a size in a list", one + "  max_body:\n  - 1MiB\n", nil, "max_body: "},
		{"a number in quotes", one + "  max_in_flight: 'x'\n", nil, "line 4: max_in_flight: it is no whole number: write it as 1024"},
		{"a number in braces", "sources:\n- {name: a, max_in_flight: true}\n", nil, "line 2: max_in_flight: it is no whole number"},
		{"a number that is too long", one + "  max_in_flight: 99999999999999999999\n", nil, "line 4: max_in_flight: it is no whole number"},
		{"a rate that is none", one + "  unproven_rate: x\n", nil, "line 4: unproven_rate: it is no number: write it as 20"},
		{"a name in place of a list", one + "  allow: codat\n", nil, "line 4: allow: it is no list: write it as [a, b]"},
		{"a list in place of a name", one + "  client_ids: [a, [b]]\n", nil, "line 4: client_ids: it is no text"},
		{"no tolerance", one + "  tolerance: 0s\n", nil, "source a: tolerance: 0s is no time"},
		{"nobody in flight", one + "  max_in_flight: 0\n", nil, "source a: max_in_flight: 0 requests"},
		{"bodies of no size", one + "  max_body: 0\n", nil, "source a: max_body: 0 is not between"},
		{"more in flight than there is memory for", one + "  max_in_flight: 1000001\n", nil, "source a: max_in_flight: 1000001 requests are more than 1000000"},
		{"as many in flight as there can be", one + "  max_in_flight: 1000000\n", nil, ""},
		{"a rate that is not a number", one + "  unproven_rate: .nan\n", nil, "source a: unproven_rate: NaN"},
		{"a rate without end", one + "  unproven_rate: .inf\n", nil, "source a: unproven_rate: +Inf"},
		{"a door without anything", one + "  allow: []\n", nil, "line 4: allow: there is nothing in it"},
		{"a door that is commented out", one + "  client_ids:\n  # - a\n", nil, "line 4: client_ids: there is nothing in it"},
		{"a time that is left out", one + "  tolerance:\n", nil, "line 4: tolerance: there is nothing in it"},
		{"a source without anything", one + "-\n", nil, "source number 2 is empty"},
		{"what two have together", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n  allow: &allow [codat]\n  tolerance: &t 2m\n- name: b\n  secret_files: [" + usFile + "]\n  allow: *allow\n  tolerance: *t\n", nil, ""},
		{"a value in place of a file's name", one + "  authorization_files: ['Bearer my-secret-token']\n", nil, "source a: authorization_files: a name that is not shown, because it has a space in it: no such file or directory: give the name of a file"},
		{"empty", "", nil, "no source in it"},
		{"no sources", "sources: []\n", nil, "no source in it"},
		{"two documents", "sources:\n- name: codat-uk\n  secret_files: [" + ukFile + "]\n---\nsources: []\n", nil, "more than one document"},
		{"no name", "sources:\n- secret_files: [" + ukFile + "]\n", nil, "name"},
		{"a name with a dot", "sources:\n- name: codat.uk\n  secret_files: [" + ukFile + "]\n", nil, "codat.uk"},
		{"a name whose streams another has", "sources:\n- name: codat-dead\n  secret_files: [" + ukFile + "]\n", nil, "codat-dead"},
		{"a name twice", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: a\n  path: /b\n  secret_files: [" + usFile + "]\n", nil, "two are named a"},
		{"a path twice", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: b\n  path: /webhooks/a\n  secret_files: [" + usFile + "]\n", nil, "the path /webhooks/a"},
		{"a key of two", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n- name: b\n  secret_files: [" + ukFile + "]\n", nil, uk.Fingerprint() + " is also one of source a"},
		{"no keys", "sources:\n- name: a\n", nil, "source a: no secret_files"},
		{"a file of keys that is not there", "sources:\n- name: a\n  secret_files: [/nowhere/keys]\n", nil, "source a: secret_files /nowhere/keys"},
		{"a network that is none", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n  allow: [example.com]\n", nil, "source a: allow"},
		{"a pattern as path", "sources:\n- name: a\n  path: /:x\n  secret_files: [" + ukFile + "]\n", nil, "source a: path"},
		{"less than none in flight", "sources:\n- name: a\n  max_in_flight: -1\n  secret_files: [" + ukFile + "]\n", nil, "source a: max_in_flight"},
		{"bodies for which there is no room", "sources:\n- name: a\n  max_body: 32MiB\n  secret_files: [" + ukFile + "]\n", nil, "--max-bytes"},
		{"flags for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--secret-file", usFile}, "--sources and --secret-file"},
		{"a path for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--path", "/x"}, "--sources and --path"},
		{"doors for a single source too", "sources:\n- name: a\n  secret_files: [" + ukFile + "]\n", []string{"--allow", "codat"}, "--sources and --allow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := process.Parse("ingress", "", new(ingress.Settings), append(tt.flags, "--sources", sourcesFile(t, "%s", tt.text)))
			if tt.says == "" && err != nil {
				t.Fatalf("Parse = %v; want no error", err)
			}
			if tt.says != "" && (process.ExitCode(err) != 2 || !strings.Contains(err.Error(), tt.says)) {
				t.Fatalf("Parse = %v; want exit 2 and an error that says %q", err, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), "whsec_short") || strings.Contains(err.Error(), "my-secret-token") || strings.Contains(err.Error(), uk.text[6:])) {
				t.Errorf("the error has a key in it: %v", err)
			}
		})
	}
}

// The files of sources that the pages show are such.
func TestTheExamplesInTheDocsAreGood(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values")
	write(t, values, "Bearer x")
	here := strings.NewReplacer(
		"/run/secrets/uk-authorization", values,
		"/run/secrets/uk", keyFile(t, key(t, "uk")),
		"/run/secrets/us", keyFile(t, key(t, "us")),
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

// Each source has its own path, keys, doors, streams and metrics; whose an event is, its key alone tells.
func TestSourcesAreApart(t *testing.T) {
	uk, us := key(t, "uk"), key(t, "us")
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
	ask := func(path string, k pair, authorization string, size int) *http.Request {
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
		{"the path of a single source", ask(path, us, "", 0), 404, "", "path"},
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
		})
	}
	for source, want := range map[stream.Source]uint64{"codat-uk": 1, "codat-us": 2} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
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

// A stream that cannot be written warns, and the others are received; only when none can be, the ingress is not ready.
func TestOneSourceWithoutAStreamDoesNotStopTheOthers(t *testing.T) {
	uk, us := key(t, "uk"), key(t, "us")
	server := streamtest.Empty(t)
	s := sourcesSettings(t, server.URL, sourcesFile(t, "sources:\n- name: codat-uk\n  secret_files: [%s]\n- name: codat-us\n  secret_files: [%s]\n", keyFile(t, uk), keyFile(t, us)))
	s.Provision = false
	s.ReadTimeout, s.PublishTimeout = time.Second, time.Second
	g := run(t, s)
	streamtest.Wait(t, func() bool {
		err := g.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "CODAT_UK") && strings.Contains(err.Error(), "CODAT_US")
	}, "it is not ready, and names both streams")
	streamtest.Provision(t, server.JS, stream.Plan{Source: "codat-us"})
	g.waitReady(t)
	for source, want := range map[string]int{"codat-uk": 503, "codat-us": 204} {
		k := map[string]pair{"codat-uk": uk, "codat-us": us}[source]
		if got := send(t, post("http://"+g.address+"/webhooks/"+source, k, "msg_1", event("company.created"))); got.status != want {
			t.Errorf("%s: answered %d; want %d", source, got.status, want)
		}
	}
}

// A key that comes to a second source is refused there: whose an event is would hang on its path.
func TestAKeyRotatesIntoOneSourceOnly(t *testing.T) {
	uk, us := key(t, "uk"), key(t, "us")
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
		k      pair
		want   int
	}{{"codat-uk", us, 204}, {"codat-us", uk, 204}, {"codat-uk", uk, 401}, {"codat-us", us, 401}} {
		if got := send(t, post("http://"+g.address+"/webhooks/"+ask.source, ask.k, "msg_3", event("company.created"))); got.status != ask.want {
			t.Errorf("after the change at %s: answered %d; want %d", ask.source, got.status, ask.want)
		}
	}
}

// sourcesSettings are settings with a file of sources, on a server on which nothing is provisioned.
func sourcesSettings(t testing.TB, nats, file string) *ingress.Settings {
	t.Helper()
	return parsed(t, "--sources", file, "--nats-url", nats, "--provision")
}

func TestCheckSaysWhatTheSettingsComeTo(t *testing.T) {
	uk, us := key(t, "uk"), key(t, "us")
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
		looked, err := s.Look(&out)
		if !looked || err != nil {
			t.Fatalf("Look = %v, %v; want true", looked, err)
		}
		for _, want := range []string{
			"HTTPS as hooks.example.com", "source codat-uk: path /webhooks/codat-uk, stream CODAT_UK", uk.Fingerprint(), us.Fingerprint(),
			"1 value of Authorization", "any value of Authorization", "from codat", "from any address", "5/s", "good\n",
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
	t.Run("a certificate that has ended", func(t *testing.T) {
		cert, secret := ca.issue(t, "hooks.example.com", time.Now().Add(-time.Hour))
		write(t, certFile, cert)
		write(t, secretFile, secret)
		looked, err := parsed(t, "--check", "--sources", file, "--tls-cert", certFile, "--tls-key", secretFile).Look(new(bytes.Buffer))
		if !looked || process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "ended") {
			t.Errorf("Look = %v, %v; want exit 2", looked, err)
		}
	})
	t.Run("a collector that is none", func(t *testing.T) {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")
		looked, err := parsed(t, "--check", "--sources", file).Look(new(bytes.Buffer))
		if !looked || process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_ENDPOINT") {
			t.Errorf("Look = %v, %v; want exit 2", looked, err)
		}
	})
	t.Run("not asked for", func(t *testing.T) {
		if looked, err := parsed(t, "--sources", file).Look(nil); looked || err != nil {
			t.Errorf("Look = %v, %v; want false", looked, err)
		}
	})
}
