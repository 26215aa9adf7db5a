package nats_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/console"
)

// consoleToken is of the user of the console.
const consoleToken = "a token of the test of permissions"

// serves runs the console as both of its roles, looks at its pages, and acts as the one that may. The server refuses nothing.
func serves(t *testing.T, in installation, n *node) {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users.yml")
	entry := "users:\n- name: anna\n  token: " + console.HashToken(consoleToken) + "\n  rights: [view, payload, operate]\n"
	if err := os.WriteFile(users, []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	for role, operates := range map[string]bool{"console": false, "console-operator": true} {
		address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		args := []string{"console", "serve", "--listen", address, "--admin-listen", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "--users-file", users}
		if operates {
			args = append(args, "--operate")
		}
		cmd, says := begin(t, in.as(n, role), args...)
		ask := func(method, path string, fields url.Values) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(fields.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+consoleToken)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return 0, err.Error()
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return 0, err.Error()
			}
			return resp.StatusCode, string(text)
		}
		wait(t, func() bool {
			status, text := ask(http.MethodGet, "/", nil)
			return status == http.StatusOK && strings.Contains(text, "connections")
		}, "the console shows the path, as "+role)
		visits(t, role, func(path string) (int, string) { return ask(http.MethodGet, path, nil) })
		ask(http.MethodPost, "/doctor", nil)
		var report string
		wait(t, func() bool {
			_, report = ask(http.MethodGet, "/doctor", nil)
			return strings.Contains(report, "HG-NATS-001")
		}, "the console has examined, as "+role)
		if strings.Contains(report, "may not subscribe") {
			t.Errorf("as %s the checks have no answers:\n%s", role, report)
		}
		for _, fields := range []url.Values{
			{"kind": {"replay"}, "worker": {"connections"}, "type": {"connection.connected"}},
			{"kind": {"pause"}, "worker": {"connections"}, "for": {"1h"}},
			{"kind": {"resume"}, "worker": {"connections"}},
		} {
			status, text := ask(http.MethodPost, "/actions/preview", fields)
			if !operates {
				if status != http.StatusForbidden {
					t.Errorf("an action of the console that only reads: status %d; want 403", status)
				}
				continue
			}
			token := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(text)
			if token == nil {
				t.Fatalf("the preview of %v: %d\n%s", fields, status, text)
			}
			fields.Set("token", token[1])
			if status, text := ask(http.MethodPost, "/actions/confirm", fields); status >= http.StatusBadRequest || strings.Contains(text, `role="alert"`) {
				t.Errorf("%v is answered %d\n%s", fields, status, text)
			}
		}
		interrupt(t, cmd, says)
	}
}

// visits asks for every page that a page leads to.
func visits(t *testing.T, role string, get func(path string) (int, string)) {
	t.Helper()
	left, seen := []string{"/"}, map[string]bool{}
	for len(left) > 0 && len(seen) < 40 {
		path := left[0]
		left = left[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		status, text := get(path)
		if status != http.StatusOK || strings.Contains(text, "ermission") {
			t.Errorf("%s as %s: status %d\n%s", path, role, status, text)
		}
		for _, found := range regexp.MustCompile(`href="(/[^"#&]*)"`).FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(found[1], "/static/") {
				left = append(left, found[1])
			}
		}
	}
}
