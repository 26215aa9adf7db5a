package relay_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/relay"
)

func TestReadRoutes_HasDefaults(t *testing.T) {
	t.Parallel()
	file := put(t, filepath.Join(t.TempDir(), "routes.yml"), `
routes:
  - name: crm
    url: https://crm.example.com/webhooks?tenant=1
    secret_files: [/run/secrets/crm]
  - name: ledger-2
    url: http://ledger.internal:8080/codat
    types: ["*.write.successful", "*.write.unsuccessful"]
    companies: [8a210b68-6988-11ed-a1eb-0242ac120002]
    company_tags: ["region:uk", "team:invoicing: eu"]
    secret_files: [/run/secrets/ledger, /run/secrets/next]
    authorization_file: /run/secrets/token
    rate: 12.5
    concurrency: 2
    timeout: 1m
    allow_private: [10.20.0.0/16, "fd12:3456::/32"]
`)
	routes, err := relay.ReadRoutes(file)
	if err != nil || len(routes) != 2 {
		t.Fatalf("ReadRoutes = %v, %v; want two routes", routes, err)
	}
	crm, ledger := routes[0], routes[1]
	if crm.Concurrency != 8 || time.Duration(crm.Timeout) != 15*time.Second || crm.Rate != 0 || len(crm.Types) != 1 || crm.Types[0] != ">" || crm.URL.String() != "https://crm.example.com/webhooks?tenant=1" {
		t.Errorf("the defaults are %+v", crm)
	}
	if ledger.Rate != 12.5 || ledger.Concurrency != 2 || time.Duration(ledger.Timeout) != time.Minute || len(ledger.SecretFiles) != 2 || len(ledger.AllowPrivate) != 2 || ledger.CompanyTags[1] != "team:invoicing: eu" {
		t.Errorf("the second route is %+v", ledger)
	}
	if spec := ledger.Spec(); spec.Name != "relay-ledger-2" || len(spec.Types) != 2 || spec.Begin != (stream.Begin{}) {
		t.Errorf("its spec is %+v", spec)
	}
}

// The routes on the page of the relay are valid, and it has every key.
func TestPage_HasValidRoutesAndEveryKey(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/relay.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ := strings.Cut(after, "```")
	if routes, err := relay.ReadRoutes(put(t, filepath.Join(t.TempDir(), "routes.yml"), text)); err != nil || len(routes) != 1 {
		t.Errorf("the page has the routes %v, %v", routes, err)
	}
	route := reflect.TypeFor[relay.Route]()
	for i := range route.NumField() {
		if key := route.Field(i).Tag.Get("yaml"); !strings.Contains(string(page), "\n| `"+key+"` |") {
			t.Errorf("the page does not explain %s", key)
		}
	}
}

// An error names the line or the route and the cure, and neither a URL nor a secret.
func TestReadRoutes_RefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	const good = "routes:\n- name: crm\n  url: https://example.com/TOPSECRET\n  secret_files: [/s]\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no file", "", "contains no routes: write a list routes: with name, url and secret_files for each route"},
		{"no list", "routes: 5\n", "line 1: routes must be a list"},
		{"an unknown key", good + "  secret: whsec_TOPSECRET\n", `line 5: unknown field "secret": remove it, or write one of name, url, types, companies, company_tags, secret_files, authorization_file, rate, concurrency, timeout, allow_private`},
		{"an unknown key at the top", good + "route: x\n", `line 5: unknown field "route": remove it, or write one of routes`},
		{"a key twice", good + "  name: other\n", `line 5: mapping key "name" already defined`},
		{"two documents", good + "---\n" + good, "more than one YAML document"},
		{"a tag of YAML", "routes: !!binary x\n", "write plain YAML, without tags"},
		{"an empty route", good + "-\n", "route number 2 is empty"},
		{"an empty key", good + "  types: []\n", "line 5: types is empty: give it a value, or remove the key"},
		{"no name", "routes:\n- url: https://example.com\n  secret_files: [/s]\n", "a route has no name"},
		{"a name with a dot", strings.Replace(good, "crm", "a.b", 1), "route a.b: name must be a letter"},
		{"a long name", strings.Replace(good, "crm", strings.Repeat("a", 26), 1), "name must be a letter and up to 24 more"},
		{"two of a name", good + strings.TrimPrefix(good, "routes:\n"), "two routes have the name crm"},
		{"no url", "routes:\n- name: crm\n  secret_files: [/s]\n", "route crm: no url"},
		{"another scheme", strings.Replace(good, "https", "ftp", 1), "line 3: url: it is not the URL of an endpoint"},
		{"no scheme", strings.Replace(good, "https://", "", 1), "line 3: url: it is not the URL of an endpoint"},
		{"no host", strings.Replace(good, "example.com", ":443", 1), "line 3: url: it is not the URL of an endpoint"},
		{"a bad escape", strings.Replace(good, "example.com", "example.com/%zz", 1), "line 3: url: it is not the URL of an endpoint"},
		{"a password", strings.Replace(good, "example.com", "me:TOPSECRET@example.com", 1), "line 3: url: it has a user or a password in it"},
		{"a fragment", strings.Replace(good, "TOPSECRET", "#TOPSECRET", 1), "line 3: url: it has a fragment"},
		{"http", strings.Replace(good, "https", "http", 1), "route crm: url has the scheme http, which sends events unencrypted"},
		{"no secret", "routes:\n- name: crm\n  url: https://example.com\n", "route crm: no secret_files"},
		{"a bad pattern", good + "  types: [a.b, \"a.>.b\"]\n", `line 5: types: invalid event type: > must be the last part: write it like`},
		{"patterns that overlap", good + "  types: [\"a.>\", a.b]\n", "route crm: types a.> has all events of a.b: remove a.b"},
		{"patterns of which the second has all", good + "  types: [a.b, \"a.>\"]\n", "route crm: types a.> has all events of a.b: remove a.b"},
		{"patterns that cross", good + "  types: [\"*.write.successful\", \"connection.>\"]\n", "route crm: types *.write.successful and connection.> can both choose an event"},
		{"a tag without a key", good + "  company_tags: [uk]\n", "line 5: company_tags: a tag has no key: write it like region:uk"},
		{"an empty company", good + "  companies: [a, \"\"]\n", "route crm: companies has an empty id"},
		{"a company without a value", good + "  companies: [null]\n", "route crm: companies has an empty id"},
		{"a rate that is no number", good + "  rate: fast\n", "line 5: rate must be a number"},
		{"a rate of 0", good + "  rate: 0.0001\n", "route crm: rate must be from 0.01 to 100000"},
		{"a rate that is not finite", good + "  rate: .nan\n", "route crm: rate must be from 0.01"},
		{"no concurrency", good + "  concurrency: 0\n", "route crm: concurrency must be from 1 to 256 (got 0)"},
		{"much concurrency", good + "  concurrency: 99999999999999999999\n", "line 5: concurrency must be a whole number"},
		{"a timeout without a unit", good + "  timeout: 15\n", `line 5: timeout: "15" is not a duration`},
		{"no time", good + "  timeout: 0s\n", "route crm: timeout must be greater than 0s and at most 5m0s (got 0s)"},
		{"all addresses", good + "  allow_private: [0.0.0.0/0]\n", "line 5: allow_private: a range of all addresses"},
		{"an address", good + "  allow_private: [10.0.0.1]\n", "line 5: allow_private: it is not a range of addresses"},
		{"IPv4 in IPv6", good + "  allow_private: [\"::ffff:10.0.0.0/104\"]\n", "line 5: allow_private: an IPv4 address in IPv6 notation"},
		{"a map for a text", strings.Replace(good, "name: crm", "name: {a: b}", 1), "line 2: "},
		{"aliases of aliases", "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nroutes: *b\n", ": unknown field"},
		{"not YAML", "routes:\n\t- name: crm\n", "line 2: "},
		{"UTF-16", "\xff\xfer\x00", "save it in UTF-8"},
		{"more than 1 MiB", "#" + strings.Repeat("x", 1<<20), "larger than 1MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := relay.ReadRoutes(put(t, filepath.Join(t.TempDir(), "routes.yml"), tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ReadRoutes = %v; want %q in it", err, tt.want)
			}
			if text := err.Error(); strings.Contains(text, "TOPSECRET") || strings.Contains(text, "*") && !strings.Contains(tt.want, "*") && strings.Contains(text, "ast.") || strings.Contains(text, "relay.") {
				t.Errorf("the error has a value of the file, or the name of a Go type: %v", err)
			}
		})
	}
}

// The files of a route are read before anything is connected to, and --spec needs none of them.
func TestRun_ReadsTheFilesBeforeItConnects(t *testing.T) {
	folder := t.TempDir()
	secrets, token := filepath.Join(folder, "secret"), filepath.Join(folder, "token")
	file := put(t, filepath.Join(folder, "routes.yml"), "routes:\n- {name: crm, url: \"https://example.com\", secret_files: ["+secrets+"], authorization_file: "+token+"}\n")
	parse := func(args ...string) (*relay.Settings, error) {
		s := new(relay.Settings)
		_, err := process.Parse("worker-relay", "", s, append([]string{"--routes=" + file, "--nats-url=nats://127.0.0.1:1"}, args...))
		return s, err
	}
	if _, err := parse("--route=other"); err == nil || !strings.Contains(err.Error(), "--route other is not in "+file+", which has crm") {
		t.Errorf("another route: %v", err)
	}
	for _, tt := range []struct{ secret, token, want string }{
		{"", "", "no such file"},
		{"# later\n", "x", "contains no secret"},
		{"whsec_TOPSECRET\n", "x", "route crm: secret_files " + secrets + ": line 1: key is"},
		{strings.Repeat(newSecret()+"\n", 1), "Authorization: Bearer TOPSECRET", "remove the leading"},
		{newSecret(), "Bearer TOPSECRET\nBearer NEXT\n", "2 values: leave the one that is to be sent"},
		{newSecret(), "\"Bearer TOPSECRET\"", "quotes around it"},
		{newSecret(), "Bearer TOPSECRET\x01", "a character that no header can have"},
		{manySecrets(11), "x", "11 secrets are more than 10"},
	} {
		_, _ = os.Remove(secrets), os.Remove(token)
		if tt.secret != "" {
			put(t, secrets, tt.secret)
			put(t, token, tt.token)
		}
		s, err := parse("--route=crm")
		if err != nil {
			t.Fatal(err)
		}
		err = relay.Run(t.Context(), s, process.New("worker-relay", nopLog))
		if err == nil || !strings.Contains(err.Error(), tt.want) || process.ExitCode(err) != 2 || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%q: Run = %v; want a wrong setting, with %q and no secret", tt.token, err, tt.want)
		}
	}
	_, _ = os.Remove(secrets), os.Remove(token)
	s, err := parse("--route=crm", "--spec")
	if err != nil {
		t.Fatal(err)
	}
	printed := stdout(t, func() {
		if err := relay.Run(t.Context(), s, process.New("worker-relay", nopLog)); err != nil {
			t.Errorf("--spec: %v", err)
		}
	})
	spec, err := stream.ParseSpec(printed)
	if err != nil || spec.Name != "relay-crm" || len(spec.Types) != 1 || spec.Types[0] != ">" {
		t.Errorf("--spec prints %s, which is %v, %v", printed, spec, err)
	}
	if !json.Valid(printed) {
		t.Errorf("--spec prints %s", printed)
	}
}

func manySecrets(n int) string {
	text := ""
	for range n {
		text += newSecret() + "\n"
	}
	return text
}

// stdout returns what do writes to the standard output.
func stdout(t *testing.T, do func()) []byte {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdout
	os.Stdout = w
	do()
	os.Stdout = before
	_ = w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
