package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/signature"
)

// contents are all files under a folder.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(folder, path)
		files[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestKeysMakesAKeyForEachProcess(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "secrets")
	begin(t, "", "keys", folder).exit(0)
	made := contents(t, folder)
	for role, name := range map[string]string{
		"ingress": "INGRESS_NKEY", "provision": "PROVISION_NKEY", "operator": "OPERATOR_NKEY", "watch": "WATCH_NKEY",
		"system": "SYSTEM_NKEY", "connections": "CONNECTIONS_NKEY",
	} {
		user, err := nkeys.FromSeed([]byte(strings.TrimSpace(made[role+"/nkey"])))
		if err != nil {
			t.Errorf("the seed of %s: %v", role, err)
			continue
		}
		public, err := user.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if line := name + ": " + public + "\n"; !strings.Contains(made["nats/keys.conf"], line) {
			t.Errorf("the servers do not know the key of %s: %q is not in\n%s", role, line, made["nats/keys.conf"])
		}
	}
	if _, err := signature.ParseKey(made["webhook/key"]); err != nil {
		t.Errorf("the signing secret: %v", err)
	}
	password := strings.TrimSpace(made["routes/password"])
	for _, line := range []string{"password: \"" + password + "\"", "\"nats://routes:" + password + "@nats-3:6222\""} {
		if !strings.Contains(made["nats/routes.conf"], line) {
			t.Errorf("the servers do not know how to reach each other: %q is not in routes.conf", line)
		}
	}
	for _, name := range []string{"routes/password", "nats/encryption.conf", "grafana/password"} {
		if len(made[name]) < 64 {
			t.Errorf("%s has %d characters; want a secret", name, len(made[name]))
		}
	}
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder = %v, %v; want it closed to others", info.Mode(), err)
	}
}

func TestKeysKeepsWhatIsThereAndAddsATeam(t *testing.T) {
	folder := t.TempDir()
	begin(t, "", "keys", folder).exit(0)
	before := contents(t, folder)
	if again := begin(t, "", "keys", folder).exit(0); again.out.String() != "" {
		t.Errorf("a second time it made\n%s", again.out.String())
	}

	begin(t, "", "keys", folder, "--team", "billing", "--server", "a:7000", "--server", "b").exit(0)
	after := contents(t, folder)
	if !strings.Contains(after["nats/keys.conf"], "BILLING_NKEY: U") || after["billing/nkey"] == "" {
		t.Errorf("the team has no key: %s", after["nats/keys.conf"])
	}
	for _, server := range []string{"@a:7000\"", "@b:6222\""} {
		if !strings.Contains(after["nats/routes.conf"], server) {
			t.Errorf("the server %s is not in routes.conf", server)
		}
	}
	if !strings.HasPrefix(after["nats/keys.conf"], before["nats/keys.conf"]) {
		t.Errorf("keys.conf =\n%s\nwant it to begin with\n%s", after["nats/keys.conf"], before["nats/keys.conf"])
	}
	for name, text := range before {
		if !strings.HasPrefix(name, "nats/") && after[name] != text {
			t.Errorf("%s was changed", name)
		}
	}

	begin(t, "", "keys", folder).exit(0)
	if got := contents(t, folder)["nats/keys.conf"]; got != after["nats/keys.conf"] {
		t.Errorf("keys.conf without --team =\n%s\nwant the team kept:\n%s", got, after["nats/keys.conf"])
	}
}

func TestKeysRefuses(t *testing.T) {
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a team that has the name of a worker", []string{"--team", "connections"}, 2, "choose another"},
		{"a team that has the name of something else", []string{"--team", "nats"}, 2, "choose another"},
		{"a server that is none", []string{"--server", "nats://nats-1"}, 2, "is no host"},
		{"a team that no durable can be named after", []string{"--team", "Billing Team"}, 2, "small letter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := begin(t, "", append([]string{"keys", t.TempDir()}, tt.args...)...).exit(tt.code)
			if !strings.Contains(c.err.String(), tt.says) {
				t.Errorf("it says %q; want %q in it", c.err.String(), tt.says)
			}
		})
	}
	t.Run("a seed that is none", func(t *testing.T) {
		folder := t.TempDir()
		begin(t, "", "keys", folder).exit(0)
		seed := filepath.Join(folder, "ingress", "nkey")
		if err := os.Remove(seed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(seed, []byte("nothing\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if c := begin(t, "", "keys", folder).exit(1); !strings.Contains(c.err.String(), seed+" holds no seed") {
			t.Errorf("it says %q; want it to name %s", c.err.String(), seed)
		}
	})
}
