package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

func TestKeys_MakesKeyForEachProcess(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "secrets")
	begin(t, "", "keys", folder).exit(0)
	made := contents(t, folder)
	for role, name := range map[string]string{
		"ingress": "INGRESS_NKEY", "provision": "PROVISION_NKEY", "admin": "ADMIN_NKEY", "operator": "OPERATOR_NKEY", "console": "CONSOLE_NKEY", "console-operator": "CONSOLE_OPERATOR_NKEY", "watch": "WATCH_NKEY", "support": "SUPPORT_NKEY",
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

func TestKeys_KeepsFilesAndAddsTeam(t *testing.T) {
	t.Parallel()
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

// A worker that is not built in gets a seed and an account. A later run keeps both, and a worker whose folder was deleted
// has none.
func TestKeys_MakesAccountFromSpec(t *testing.T) {
	t.Parallel()
	folder, spec := t.TempDir(), filepath.Join(t.TempDir(), "expenses,2.json")
	text := `{"name": "my-expenses", "types": ["*.write.successful"], "state": ["expenses"], "begin": "all"}`
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, "", "keys", folder, "--spec", spec).exit(0)
	made := contents(t, folder)
	user, err := nkeys.FromSeed([]byte(strings.TrimSpace(made["my-expenses/nkey"])))
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, has := range []string{
		"\nMY_EXPENSES: {", "nkey: " + public, `"$JS.API.CONSUMER.MSG.NEXT.CODAT.my-expenses"`, `subscribe: "_INBOX_my-expenses.>"`,
		`{ service: { account: WORKERS, subject: "$KV.CODAT_expenses.>" } }`,
	} {
		if !strings.Contains(made["nats/workers.conf"], has) {
			t.Errorf("workers.conf has no %s:\n%s", has, made["nats/workers.conf"])
		}
	}
	if strings.Contains(made["nats/keys.conf"], "EXPENSES") {
		t.Errorf("keys.conf has a key that accounts.conf does not use:\n%s", made["nats/keys.conf"])
	}
	if again := begin(t, "", "keys", folder).exit(0); again.out.String() != "" {
		t.Errorf("a second time, without the spec, it made\n%s", again.out.String())
	}
	begin(t, "", "keys", folder, "--team", "my-expenses").exit(1)
	if err := os.RemoveAll(filepath.Join(folder, "my-expenses")); err != nil {
		t.Fatal(err)
	}
	begin(t, "", "keys", folder).exit(0)
	if text := contents(t, folder)["nats/workers.conf"]; strings.Contains(text, "EXPENSES") {
		t.Errorf("workers.conf keeps the account of a worker that was removed:\n%s", text)
	}
}

// Containers read the files as other users, whatever the umask of the one who makes them.
func TestKeys_SharesFilesUnderAnyUmask(t *testing.T) { // not parallel: the umask is the process's
	defer syscall.Umask(syscall.Umask(0o077))
	folder := filepath.Join(t.TempDir(), "secrets")
	check := func(when string) {
		t.Helper()
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o644) // its owner appends a key
			switch {
			case path == folder:
				want = 0o700
			case d.IsDir():
				want = 0o755
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s %s has the mode %o; want %o", when, path, got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	begin(t, "", "keys", folder).exit(0)
	check("a new folder:")
	for name, mode := range map[string]fs.FileMode{"ingress": 0o700, "nats": 0o700} { // as an early version made them
		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"ingress/nkey": 0o400, "nats/keys.conf": 0o400, "webhook/key": 0o444} { // as cp and an early version make them
		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	begin(t, "", "keys", folder).exit(0)
	check("an old folder:")
}

func TestKeys_ChecksWhetherAnyIsMissing(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "secrets")
	c := begin(t, "", "keys", "--check", folder).exit(1)
	contains(t, c.err.String(), "run headgate keys first", "docker compose run --rm")
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("--check made the folder: %v", err)
	}
	begin(t, "", "keys", folder).exit(0)
	before := contents(t, folder)
	begin(t, "", "keys", "--check", folder).exit(0)
	for name, text := range before {
		if !strings.HasSuffix(name, "/nkey") && name != "webhook/key" && name != "nats/keys.conf" {
			continue
		}
		path := filepath.Join(folder, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		c := begin(t, "", "keys", "--check", folder).exit(1)
		contains(t, c.err.String(), folder+" has no "+name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An account of a worker never takes the place of one that the servers' configuration has.
func TestKeys_RefusesSpecWithNameOfAnAccount(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"headgate", "teams", "workers", "ingress", "connections"} {
		folder := t.TempDir()
		spec := filepath.Join(folder, name, "spec.json")
		if err := os.Mkdir(filepath.Dir(spec), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(spec, []byte(`{"name": "`+name+`", "types": [">"]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		begin(t, "", "keys", t.TempDir(), "--spec", spec).exit(2)
		kept := begin(t, "", "keys", folder).exit(1)
		contains(t, kept.err.String(), "a name that Headgate uses", "spec.json")
	}
}

// The accounts of those who ask do not import from the account of a worker of another repository.
func TestKeys_RefusesSpecThatAnswersRequests(t *testing.T) {
	t.Parallel()
	folder, spec := t.TempDir(), filepath.Join(t.TempDir(), "books.json")
	if err := os.WriteFile(spec, []byte(`{"name": "books", "types": [">"], "requests": ["books.close"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := begin(t, "", "keys", folder, "--spec", spec).exit(2)
	contains(t, c.err.String(), "the worker books answers requests (books.close)", "deploy/nats")
	if made := contents(t, folder); len(made) != 0 {
		t.Errorf("it made %v; want nothing", made)
	}
}

func TestKeys_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a team with the name of a worker", []string{"--team", "connections"}, 2, "choose another"},
		{"a team with the name of another folder", []string{"--team", "nats"}, 2, "choose another"},
		{"a server that is a URL", []string{"--server", "nats://nats-1"}, 2, "not a host name"},
		{"a team whose name no durable can have", []string{"--team", "Billing Team"}, 2, "small letter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := begin(t, "", append([]string{"keys", t.TempDir()}, tt.args...)...).exit(tt.code)
			if !strings.Contains(c.err.String(), tt.says) {
				t.Errorf("it says %q; want %q in it", c.err.String(), tt.says)
			}
		})
	}
	t.Run("a file without a seed", func(t *testing.T) {
		folder := t.TempDir()
		begin(t, "", "keys", folder).exit(0)
		seed := filepath.Join(folder, "ingress", "nkey")
		if err := os.Remove(seed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(seed, []byte("nothing\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if c := begin(t, "", "keys", folder).exit(1); !strings.Contains(c.err.String(), seed+" does not contain a seed") {
			t.Errorf("it says %q; want it to name %s", c.err.String(), seed)
		}
	})
}
