package main

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The whole command: a user that headgate console user has made may see the pages until the entry is removed, and it ends cleanly.
func TestConsole_ServesUsers(t *testing.T) {
	t.Parallel()
	made := headgate(t, 0, "console", "user", "prober", "--token")
	token := strings.TrimSpace(made.err.String()[strings.LastIndex(made.err.String(), " "):])
	file := filepath.Join(t.TempDir(), "users.yml")
	write := func(entries string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("users:\n"+entries), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(made.out.String())
	r := newBroker(t)
	c := begin(t, "", "console", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--users-file", file, "--nats-url", r.URL)
	c.err.says(t, `"msg":"web pages"`)
	addresses := regexp.MustCompile(`"address":"([^"]+)"`).FindAllStringSubmatch(c.err.String(), -1)
	admin, pages := addresses[0][1], addresses[1][1]
	contains(t, get(t, "http://"+admin+"/readyz"), "ready\nok    broker\nok    users")
	page := func() (int, string) {
		req, err := http.NewRequest(http.MethodGet, "http://"+pages+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	status, text := page()
	if status != http.StatusOK || !strings.Contains(text, "The path of an event") {
		t.Errorf("the page of the user is %d\n%s", status, text)
	}
	if resp, err := http.PostForm("http://"+pages+"/", url.Values{"name": {"prober"}, "password": {token + "x"}}); err != nil {
		t.Error(err)
	} else if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong log-in is answered %d; want 401", resp.StatusCode)
	}
	contains(t, get(t, "http://"+admin+"/metrics"), `headgate_console_log_ins_total{outcome="failed",process="console"} 1`)
	write(headgate(t, 0, "console", "user", "anna", "--token").out.String())
	streamtest.Wait(t, func() bool { status, _ := page(); return status != http.StatusOK }, "the user that is removed is seen to be gone")
	if strings.Contains(c.err.String(), token) {
		t.Errorf("the log has a token: %s", &c.err)
	}
	c.stop()
	c.exit(0)
}

func TestConsoleUser_HashesThePassword(t *testing.T) {
	t.Parallel()
	hash := regexp.MustCompile(`password: "([^"]+)"`)
	c := begin(t, "correct horse battery\n", "console", "user", "anna", "--rights", "view,operate").exit(0)
	contains(t, c.out.String(), "  - name: anna\n    password: ")
	contains(t, c.out.String(), "    rights: [view, operate]\n")
	if err := bcrypt.CompareHashAndPassword([]byte(hash.FindStringSubmatch(c.out.String())[1]), []byte("correct horse battery")); err != nil {
		t.Errorf("the hash is not that of the password: %v", err)
	}
	c = begin(t, "", "console", "user", "anna").exit(0)
	made := strings.TrimSpace(c.err.String()[strings.LastIndex(c.err.String(), " "):])
	if err := bcrypt.CompareHashAndPassword([]byte(hash.FindStringSubmatch(c.out.String())[1]), []byte(made)); err != nil {
		t.Errorf("the hash is not that of the password that was made: %v", err)
	}
	contains(t, begin(t, "short\n", "console", "user", "anna").exit(2).err.String(), "12 to 72 bytes")
}

func TestConsole_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"":                                       "--users-file or --user-header is required",
		"--users-file none":                      "no such file",
		"--user-header X-User":                   "--user-header needs --trusted-proxy",
		"--user-header X-User --trusted-proxy x": "is not a network",
		"--user-header X-User --trusted-proxy 10.0.0.0/8 --proxy-rights admin": "is not a right",
		"--listen here":             "--listen",
		"--listen :9090":            "both :9090",
		"--session-age 1s":          "at least 1m",
		"--tls-cert x":              "--tls-cert and --tls-key",
		"--monitor-url nats-1:8222": "http://nats-1:8222",
		"user a/b":                  "a name must be",
		"user anna --rights all":    "is not a right",
	} {
		contains(t, headgate(t, 2, append([]string{"console"}, strings.Fields(args)...)...).err.String(), says)
	}
}
