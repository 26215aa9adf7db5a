package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// routesOf writes a file of one route to an endpoint that keeps the webhook-ids of what it verifies.
func routesOf(t testing.TB, folder string) (file string, verified chan string) {
	t.Helper()
	secret := filepath.Join(folder, "relay-secret")
	if err := makeKey(secret); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := svix.NewWebhook(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	verified = make(chan string, 100)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && receiver.Verify(body, r.Header) == nil {
			verified <- r.Header.Get("webhook-id")
		}
	}))
	t.Cleanup(endpoint.Close)
	file = filepath.Join(folder, "routes.yml")
	route := "routes:\n- {name: crm, url: \"" + endpoint.URL + "\", secret_files: [" + secret + "], allow_private: [127.0.0.0/8]}\n"
	if err := os.WriteFile(file, []byte(route), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, verified
}

func TestDev_RunsTheRoutesOfTheRelay(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	routes, verified := routesOf(t, folder)
	c := spawn(t, folder, append([]string{"dev", "--relay-routes", routes}, anyPorts...)...)
	for range startExamples {
		if id := <-verified; !strings.HasPrefix(id, "msg_") {
			t.Errorf("the webhook-id is %q", id)
		}
	}
	streamtest.Wait(t, func() bool { return strings.Contains(c.out.String(), "by relay-crm, attempt 1") }, "the screen shows the route")
}

func TestServe_RunsTheRoutesOfTheRelay(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	routes, verified := routesOf(t, folder)
	key := filepath.Join(folder, "key")
	if err := makeKey(key); err != nil {
		t.Fatal(err)
	}
	c := begin(t, "", serveArgs(filepath.Join(folder, "data"), key, "--relay-routes", routes)...)
	a := listens(t, &c.err)
	headgate(t, 0, "send", "connection.connected", "--to", a.webhook, "--secret-file", key)
	<-verified
	contains(t, get(t, a.admin+"/readyz"), "worker-relay-crm/claims", "worker-relay-crm/relay files")
}

func TestRelayRoutes_AreReadBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	key := filepath.Join(folder, "key")
	if err := makeKey(key); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(folder, "routes.yml")
	if err := os.WriteFile(bad, []byte("routes:\n- {name: crm, address: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		append([]string{"dev", "--data", filepath.Join(folder, "dev"), "--relay-routes", bad}, anyPorts...),
		serveArgs(filepath.Join(folder, "serve"), key, "--relay-routes", bad),
	} {
		contains(t, headgate(t, 2, command...).err.String(), `--relay-routes: `+bad+`: line 2: unknown field "address": remove it, or write one of name, url`)
	}
	for _, name := range []string{"dev", "serve"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
			t.Errorf("%s has made its data folder", name)
		}
	}
}
