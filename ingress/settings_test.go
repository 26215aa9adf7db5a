package ingress_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
)

func TestSettings(t *testing.T) {
	k, other := key(t, "us"), key(t, "rotated")
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	withKey := func(args ...string) []string { return append(args, "--secret", k.text) }
	tests := []struct {
		name string
		args []string
		says string // "" when they are good
	}{
		{"a key", withKey(), ""},
		{"several keys", []string{"--secret", k.text + "," + other.text}, ""},
		{"a file of keys", []string{"--secret-file", file("# old\n" + k.text + "\n\n# new\r\n  " + other.text + " \r\n")}, ""},
		{"no key", nil, "--secret (HEADGATE_SECRET) or --secret-file (HEADGATE_SECRET_FILE)"},
		{"an empty key", []string{"--secret", ""}, "no signing secret"},
		{"a key that is none", []string{"--secret", k.text + ",whsec_short"}, "--secret, number 2: key"},
		{"a file that is not there", []string{"--secret-file", "/nowhere/keys"}, "--secret-file /nowhere/keys: stat"},
		{"a file without a key", []string{"--secret-file", file("# none yet\n")}, "no key in it"},
		{"a file with something else in it", []string{"--secret-file", file("# keys\n" + k.text + "\nhello\n")}, "line 3: key does not begin with whsec_"},
		{"an address that is none", withKey("--listen", "8080"), "--listen"},
		{"an admin address that is none", withKey("--admin-listen", "x"), "--admin-listen"},
		{"one address for both", withKey("--listen", ":8080", "--admin-listen", ":8080"), "--listen and --admin-listen: both are :8080"},
		{"any free port for both", withKey("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), ""},
		{"no address of NATS", withKey("--nats-url", ""), "--nats-url"},
		{"a path that is a pattern", withKey("--path", "/webhooks/:tenant"), "--path"},
		{"a path that does not begin", withKey("--path", "webhooks"), "--path"},
		{"a source with a dot", withKey("--source", "codat.eu"), "--source"},
		{"bodies of no size", withKey("--max-body", "0"), "--max-body"},
		{"bodies of a large size", withKey("--max-body", "1GiB"), "--max-body"},
		{"a size that is none", withKey("--max-body", "many"), "--max-body"},
		{"nobody in flight", withKey("--max-in-flight", "0"), "--max-in-flight"},
		{"more in flight than there is memory for", withKey("--max-in-flight", "2000000000"), "--max-in-flight: 2000000000 requests are more than 1000000, and each has its place in memory from the start: give 1000000 at most"},
		{"no tolerance", withKey("--tolerance", "0s"), "--tolerance"},
		{"no time for headers", withKey("--read-header-timeout", "0s"), "--read-header-timeout"},
		{"less than no delay", withKey("--drain-delay", "-1s"), "--drain-delay"},
		{"longer than Codat waits", withKey("--publish-timeout", "12s"), "Codat waits 15s"},
		{"no time left to store", withKey("--read-timeout", "9s"), "--read-timeout"},
		{"a folder of files of keys", []string{"--secret-file", filepath.Dir(file(k.text))}, ""},
		{"a folder without a file", []string{"--secret-file", t.TempDir()}, "no file in it"},
		{"something that is no file", []string{"--secret-file", os.DevNull}, "neither a file nor a folder"},
		{"more keys than there are endpoints", []string{"--secret-file", file(manyKeys(t, 129))}, "129 keys, 128 at most"},
		{"doors", withKey("--authorization", "Basic user:password", "--client-id", "a,b", "--allow", "codat,10.0.0.0/8", "--trusted-proxy", "::1"), ""},
		{"a value that is empty", withKey("--authorization", " "), "--authorization, number 1"},
		{"a file of values that is not there", withKey("--authorization-file", "/nowhere/values"), "--authorization-file /nowhere/values"},
		{"a client id that is empty", withKey("--client-id", "a,,b"), "--client-id"},
		{"a network that is none", withKey("--allow", "svix"), "--allow: \"svix\""},
		{"a proxy that is none", withKey("--trusted-proxy", "balancer"), "--trusted-proxy"},
		{"less than nothing from an address", withKey("--unproven-rate=-1"), "--unproven-rate"},
		{"a rate that is not a number", withKey("--unproven-rate", "NaN"), "--unproven-rate"},
		{"a rate without end", withKey("--unproven-rate", "+Inf"), "--unproven-rate"},
		{"a value in place of a file's name", withKey("--authorization-file", "Bearer my-secret-token"), "give the name of a file"},
		{"no room for a body", withKey("--max-bytes", "2MiB"), "--max-bytes"},
		{"less than no lines", withKey("--log-accepted=-1"), "--log-accepted"},
		{"a certificate without its key", withKey("--tls-cert", file("x")), "--tls-cert and --tls-key"},
		{"a certificate that is none", withKey("--tls-cert", file("x"), "--tls-key", file("y")), "--tls-cert"},
		{"client certificates without TLS", withKey("--tls-client-ca", file("x")), "--tls-client-ca needs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := process.Parse("ingress", "", new(ingress.Settings), tt.args)
			if tt.says == "" && err != nil {
				t.Fatalf("Parse = %v; want no error", err)
			}
			if tt.says != "" && (process.ExitCode(err) != 2 || !strings.Contains(err.Error(), tt.says)) {
				t.Fatalf("Parse = %v; want exit 2 and an error that says %q", err, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), k.text[6:]) || strings.Contains(err.Error(), "whsec_short") || strings.Contains(err.Error(), "my-secret-token")) {
				t.Errorf("the error has a key in it: %v", err)
			}
		})
	}
}

func manyKeys(t *testing.T, n int) string {
	t.Helper()
	var lines []string
	for i := range n {
		lines = append(lines, key(t, fmt.Sprint("number ", i)).text)
	}
	return strings.Join(lines, "\n")
}

func TestKeysComeFromFlagsFilesAndTheEnvironment(t *testing.T) {
	a, b, c := key(t, "a"), key(t, "b"), key(t, "c")
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HEADGATE_SECRET", a.text+","+b.text)
	t.Setenv("HEADGATE_SECRET_FILE", name)
	s := new(ingress.Settings)
	if _, err := process.Parse("ingress", "", s, nil); err != nil {
		t.Fatal(err)
	}
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, k.Fingerprint())
	}
	if want := []string{a.Fingerprint(), b.Fingerprint(), c.Fingerprint()}; !slices.Equal(got, want) {
		t.Errorf("Keys() = %v; want %v", got, want)
	}
}

func TestDefaults(t *testing.T) {
	s := settings(t, "nats://127.0.0.1:4222", key(t, "us"))
	if s.Path != path || s.Source != "codat" || s.MaxBody != maxBody || s.Tolerance != 5*time.Minute || s.PublishTimeout != 8*time.Second {
		t.Errorf("the defaults are %+v", s)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]ingress.Size{"0": 0, "1": 1, "1000": 1000, "64KiB": 64 << 10, "1MiB": 1 << 20, "1 MiB": 1 << 20, "2GiB": 2 << 30} {
		var s ingress.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q = %d, %v; want %d", text, s, err, want)
		}
		if got := s.String(); got != strings.ReplaceAll(text, " ", "") {
			t.Errorf("String() = %q; want %q", got, text)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1MB", "1mib", "99999999999"} {
		var s ingress.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q = %d; want an error", text, s)
		}
	}
}

// What --max-bytes is said to be too little for, the cure in the error is enough for.
func TestTheRoomThatIsAdvisedIsEnough(t *testing.T) {
	k := key(t, "us")
	parse := func(body, room string) error {
		_, err := process.Parse("ingress", "", new(ingress.Settings), []string{"--secret", k.text, "--max-body", body, "--max-bytes", room})
		return err
	}
	if err := parse("1MiB", "4MiB"); err != nil {
		t.Errorf("4MiB for bodies of 1MiB: %v", err)
	}
	for _, body := range []string{"1", "4096", "16384", "16385", "300KiB", "1MiB", "3MiB", "64MiB"} {
		err := parse(body, "1")
		if err == nil {
			t.Errorf("a byte for bodies of %s is good", body)
			continue
		}
		_, cure, ok := strings.Cut(err.Error(), "give ")
		cure, _, _ = strings.Cut(cure, " ")
		if !ok || parse(body, cure) != nil {
			t.Errorf("bodies of %s: %v; and with %s: %v", body, err, cure, parse(body, cure))
		}
	}
	if err := parse("300KiB", "1200KiB"); err == nil || !strings.Contains(err.Error(), "--max-bytes") {
		t.Errorf("1200KiB for bodies of 300KiB: %v; want an error that names --max-bytes", err)
	}
}

// A door that is set to nothing does not stand open: whoever set it expects that something is asked for.
func TestADoorThatIsSetToNothingIsRefused(t *testing.T) {
	k := key(t, "us")
	parse := func(args ...string) error {
		t.Helper()
		s := new(ingress.Settings)
		if _, err := process.Parse("ingress", "", s, append(args, "--secret", k.text, "--check")); err != nil {
			return err
		}
		_, err := s.Look(new(strings.Builder))
		return err
	}
	if err := parse(); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"authorization", "authorization-file", "client-id", "allow", "tls-client-ca"} {
		for _, way := range []string{"flag", "variable"} {
			t.Run(flag+" as "+way, func(t *testing.T) {
				args := []string{"--" + flag, ""}
				if way == "variable" {
					t.Setenv("HEADGATE_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_")), "")
					args = nil
				}
				if err := parse(args...); process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "--"+flag) || !strings.Contains(err.Error(), "empty") {
					t.Errorf("--check = %v; want exit 2 and an error that says that --%s is empty", err, flag)
				}
			})
		}
	}
}
