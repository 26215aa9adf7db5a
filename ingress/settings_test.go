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

func TestSettings_Validate(t *testing.T) {
	t.Parallel()
	k, other := newKey(t, "us"), newKey(t, "rotated")
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	comma := filepath.Join(t.TempDir(), "keys,old")
	write(t, comma, k.text)
	withKey := func(args ...string) []string { return append(args, "--secret", k.text) }
	tests := []struct {
		name    string
		args    []string
		wantErr string // "" for none
	}{
		{"a key", withKey(), ""},
		{"several keys", []string{"--secret", k.text + "," + other.text}, ""},
		{"two flags with keys", []string{"--secret", k.text, "--secret", other.text, "--secret", "whsec_short"}, "--secret number 3: key"},
		{"several keys and white space", []string{"--secret", " " + k.text + " , " + other.text + " "}, ""},
		{"a signature's prefix before a key", []string{"--secret", "v1," + k.text}, "--secret number 1: key begins with v1,"},
		{"a signature's prefix before the second key", []string{"--secret", k.text + ", v1," + other.text}, "--secret number 2: key begins with v1,"},
		{"a file name with a comma", []string{"--secret-file", comma}, ""},
		{"file names separated by commas", []string{"--secret-file", file(k.text) + ", " + file(other.text)}, ""},
		{"a file of values whose name has a comma", withKey("--authorization-file", comma), ""},
		{"a file of keys", []string{"--secret-file", file("# old\n" + k.text + "\n\n# new\r\n  " + other.text + " \r\n")}, ""},
		{"no key", nil, "--secret (HEADGATE_SECRET) or --secret-file (HEADGATE_SECRET_FILE)"},
		{"an empty key", []string{"--secret", ""}, "no signing secret"},
		{"an invalid key", []string{"--secret", k.text + ",whsec_short"}, "--secret number 2: key"},
		{"a missing file", []string{"--secret-file", "/nowhere/keys"}, "--secret-file /nowhere/keys: stat"},
		{"a file without a key", []string{"--secret-file", file("# none yet\n")}, "contains no key"},
		{"a file with another text", []string{"--secret-file", file("# keys\n" + k.text + "\nhello\n")}, "line 3: key does not begin with whsec_"},
		{"an invalid address", withKey("--listen", "8080"), "--listen"},
		{"an invalid admin address", withKey("--admin-listen", "x"), "--admin-listen"},
		{"one address for both", withKey("--listen", ":8080", "--admin-listen", ":8080"), "--listen and --admin-listen are both :8080"},
		{"any free port for both", withKey("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), ""},
		{"no address of NATS", withKey("--nats-url", ""), "--nats-url"},
		{"a path that is a pattern", withKey("--path", "/webhooks/:tenant"), "--path"},
		{"a path that does not begin", withKey("--path", "webhooks"), "--path"},
		{"a source with a dot", withKey("--source", "codat.eu"), "--source"},
		{"zero bytes of body", withKey("--max-body", "0"), "--max-body"},
		{"bodies over the maximum", withKey("--max-body", "1GiB"), "--max-body"},
		{"an invalid size", withKey("--max-body", "many"), "--max-body"},
		{"zero in flight", withKey("--max-in-flight", "0"), "--max-in-flight"},
		{"more in flight than the maximum", withKey("--max-in-flight", "2000000000"), "--max-in-flight must be at most 1000000 (got 2000000000)"},
		{"no tolerance", withKey("--tolerance", "0s"), "--tolerance"},
		{"zero read header timeout", withKey("--read-header-timeout", "0s"), "--read-header-timeout"},
		{"a negative delay", withKey("--drain-delay", "-1s"), "--drain-delay"},
		{"longer than Codat waits", withKey("--publish-timeout", "12s"), "Codat waits 15s"},
		{"a read timeout over the publish timeout", withKey("--read-timeout", "9s"), "--read-timeout"},
		{"a folder of files of keys", []string{"--secret-file", filepath.Dir(file(k.text))}, ""},
		{"a folder without a file", []string{"--secret-file", t.TempDir()}, "contains no files"},
		{"a device", []string{"--secret-file", os.DevNull}, "not a regular file or a folder"},
		{"more keys than there are endpoints", []string{"--secret-file", file(manyKeys(t, 129))}, "129 keys are more than 128"},
		{"access checks", withKey("--authorization", "Basic user:password", "--client-id", "a,b", "--allow", "codat,10.0.0.0/8", "--trusted-proxy", "::1"), ""},
		{"an empty value of Authorization", withKey("--authorization", " "), "--authorization number 1"},
		{"a missing file of values", withKey("--authorization-file", "/nowhere/values"), "--authorization-file /nowhere/values"},
		{"a file of values with a byte order mark", withKey("--authorization-file", file("\uFEFF# values\r\nBearer x\r\n")), ""},
		{"a file of values with the name of the header", withKey("--authorization-file", file("Bearer x\nauthorization : Bearer my-secret-token\n")), "line 2: a value begins with the name of the header"},
		{"a value in quotes", withKey("--authorization", `"Bearer my-secret-token"`), "--authorization number 1: a value has quotes around it"},
		{"a token in quotes", withKey("--authorization", `Bearer 'my-secret-token'`), "--authorization number 1: a value has quotes around it"},
		{"a value with an invisible character", withKey("--authorization", "Bearer my-secret-token\u200b"), "--authorization number 1: a value contains control characters or invisible ones"},
		{"a value that is not UTF-8", withKey("--authorization", "Bearer my-secret-token\xe9"), "--authorization number 1: a value is not in UTF-8"},
		{"a value of Digest", withKey("--authorization", `Digest username="x"`), ""},
		{"client ids with white space around them", withKey("--client-id", "a, b"), ""},
		{"a client id in quotes", withKey("--client-id", `a,"b"`), "--client-id number 2: a value has quotes around it"},
		{"a file of keys with a byte order mark", []string{"--secret-file", file("\uFEFF" + k.text + "\n")}, ""},
		{"an empty client id", withKey("--client-id", "a,,b"), "--client-id"},
		{"an invalid network", withKey("--allow", "svix"), "--allow: \"svix\""},
		{"an invalid proxy", withKey("--trusted-proxy", "balancer"), "--trusted-proxy"},
		{"a negative rate", withKey("--unproven-rate=-1"), "--unproven-rate"},
		{"a rate that is not a number", withKey("--unproven-rate", "NaN"), "--unproven-rate"},
		{"an infinite rate", withKey("--unproven-rate", "+Inf"), "--unproven-rate"},
		{"a value in place of a file name", withKey("--authorization-file", "Bearer my-secret-token"), "give the name of a file"},
		{"a budget without room for a body", withKey("--max-bytes", "2MiB"), "--max-bytes"},
		{"a negative number of lines", withKey("--log-accepted=-1"), "--log-accepted"},
		{"a certificate without its key", withKey("--tls-cert", file("x")), "--tls-cert and --tls-key"},
		{"an invalid certificate", withKey("--tls-cert", file("x"), "--tls-key", file("y")), "--tls-cert"},
		{"client certificates without TLS", withKey("--tls-client-ca", file("x")), "--tls-client-ca needs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := process.Parse("ingress", "", new(ingress.Settings), tt.args)
			if tt.wantErr == "" && err != nil {
				t.Fatalf("Parse = %v; want no error", err)
			}
			if tt.wantErr != "" && (process.ExitCode(err) != 2 || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Fatalf("Parse = %v; want exit 2 and an error that says %q", err, tt.wantErr)
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
		lines = append(lines, newKey(t, fmt.Sprint("number ", i)).text)
	}
	return strings.Join(lines, "\n")
}

func TestSettings_KeysFromFlagsFilesAndTheEnvironment(t *testing.T) {
	a, b, c := newKey(t, "a"), newKey(t, "b"), newKey(t, "c")
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

func TestSettings_NameAPrefixInTheEnvironment(t *testing.T) {
	t.Setenv("HEADGATE_SECRET", "v1,"+newKey(t, "a").text)
	_, err := process.Parse("ingress", "", new(ingress.Settings), nil)
	if process.ExitCode(err) != 2 || !strings.Contains(err.Error(), "--secret number 1: key begins with v1,: give the part from whsec_ on") {
		t.Errorf("Parse = %v; want exit 2 and an error that names the prefix", err)
	}
}

func TestSettings_Defaults(t *testing.T) {
	t.Parallel()
	s := settings(t, "nats://127.0.0.1:4222", newKey(t, "us"))
	if s.Path != path || s.Source != "codat" || s.MaxBody != maxBody || s.Tolerance != 5*time.Minute || s.PublishTimeout != 8*time.Second {
		t.Errorf("the defaults are %+v", s)
	}
}

// The --max-bytes that the error advises is enough.
func TestSettings_AdviseAMaxBytesThatIsEnough(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	parse := func(body, budget string) error {
		_, err := process.Parse("ingress", "", new(ingress.Settings), []string{"--secret", k.text, "--max-body", body, "--max-bytes", budget})
		return err
	}
	if err := parse("1MiB", "4MiB"); err != nil {
		t.Errorf("4MiB for bodies of 1MiB: %v", err)
	}
	for _, body := range []string{"1", "4096", "16384", "16385", "300KiB", "1MiB", "3MiB", "64MiB"} {
		err := parse(body, "1")
		if err == nil {
			t.Errorf("a byte for bodies of %s is accepted", body)
			continue
		}
		_, cure, ok := strings.Cut(err.Error(), "at least ")
		cure, _, _ = strings.Cut(cure, " ")
		if !ok || parse(body, cure) != nil {
			t.Errorf("bodies of %s: %v; and with %s: %v", body, err, cure, parse(body, cure))
		}
	}
	if err := parse("300KiB", "1200KiB"); err == nil || !strings.Contains(err.Error(), "--max-bytes") {
		t.Errorf("1200KiB for bodies of 300KiB: %v; want an error that names --max-bytes", err)
	}
}

// An access check that is set to an empty value is an error: it would switch the check off.
func TestSettings_RefuseAnEmptyAccessCheck(t *testing.T) {
	k := newKey(t, "us")
	parse := func(args ...string) error {
		t.Helper()
		s := new(ingress.Settings)
		if _, err := process.Parse("ingress", "", s, append(args, "--secret", k.text, "--check")); err != nil {
			return err
		}
		_, err := s.Check(new(strings.Builder))
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
