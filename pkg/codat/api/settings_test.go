package api_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat/api"
)

func TestSettings_AreFlagsWithDefaults(t *testing.T) {
	t.Parallel()
	var s struct {
		api.Settings `embed:""`
	}
	parser, err := kong.New(&s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(nil); err != nil {
		t.Fatal(err)
	}
	want := api.Settings{CodatURL: "https://api.codat.io", CodatTimeout: 30 * time.Second, CodatConcurrency: 4}
	if s.Settings != want || s.Enabled() {
		t.Errorf("the defaults are %+v; want %+v", s.Settings, want)
	}
	if _, err := parser.Parse([]string{"--codat-concurrency=11"}); err == nil || !strings.Contains(err.Error(), "--codat-concurrency must be from 1 to 10 (got 11)") {
		t.Errorf("Parse validates: %v", err)
	}
}

func TestSettings_Validate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		url  string
		want string // "" for none
	}{
		{"Codat's", "https://api.codat.io", ""},
		{"with a path", "https://proxy.example/codat/", ""},
		{"this machine", "http://127.0.0.1:8090", ""},
		{"this machine by name", "http://localhost:8090", ""},
		{"this machine in IPv6", "http://[::1]:8090", ""},
		{"another machine without TLS", "http://10.0.0.1:8090", "must begin with https://"},
		{"a password", "https://a:hunter2@api.codat.io", "no user, query or fragment"},
		{"a query", "https://api.codat.io/?a=b", "no user, query or fragment"},
		{"no scheme", "api.codat.io", "must be a URL"},
		{"another scheme", "ftp://api.codat.io", "must be a URL"},
		{"empty", "", "must be a URL"},
	}
	for _, tt := range tests {
		err := api.Settings{CodatURL: tt.url, CodatTimeout: time.Second, CodatConcurrency: 1}.Validate()
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: Validate(%q) = %v; want %q", tt.name, tt.url, err, tt.want)
		}
	}
	err := api.Settings{CodatURL: "https://api.codat.io"}.Validate()
	for _, want := range []string{"--codat-timeout must be greater than 0s", "--codat-concurrency must be from 1 to 10 (got 0)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v; want %q", err, want)
		}
	}
}

func TestNew_NamesUnusableKeyFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	settings := api.Settings{CodatKeyFile: file, CodatURL: "https://api.codat.io", CodatTimeout: time.Second, CodatConcurrency: 1}
	for _, tt := range []struct{ name, text, want string }{
		{"no file", "", "no such file"},
		{"only a comment", "# later\n", "contains no key"},
		{"the header", "Basic a3ktMDEyMzQ1Njc4OQ==\n", "not the authorization header"},
		{"two words", "ky-1 ky-2\n", "white space"},
		{"two keys", "ky-1\nky-2\n", "has 2 keys"},
	} {
		if tt.text != "" {
			write(t, file, tt.text)
		}
		_, err := api.New(settings, prometheus.NewRegistry())
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "--codat-key-file "+file) || strings.Contains(err.Error(), "ky-") {
			t.Errorf("%s: New = %v; want %q and no key", tt.name, err, tt.want)
		}
	}
	settings.CodatKeyFile = ""
	if _, err := api.New(settings, prometheus.NewRegistry()); err == nil {
		t.Error("New without a key file = nil")
	}
}
