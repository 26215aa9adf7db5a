package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quiet are the queries of the dashboard that have no data while nothing is wrong, with what they show.
var quiet = map[string]string{
	`min by (source) (headgate_watchdog_up{source=~"$source"}) == 0`:                                                                              "a watchdog that cannot look",
	`sum by (source) (headgate_codat_endpoint_disabled{source=~"$source"}) > 0`:                                                                   "an endpoint that Codat has disabled",
	`max by (stream, server) (headgate_stream_replica_lag{source=~"$source"}) > 0`:                                                                "a copy that is behind, in a cluster",
	`max by (stream) (headgate_stream_copy_deleted{source=~"$source"}) - min by (stream) (headgate_stream_copy_deleted{source=~"$source"}) > 0`:   "copies that differ, in a cluster",
	`max by (stream) (headgate_stream_copy_messages{source=~"$source"}) - min by (stream) (headgate_stream_copy_messages{source=~"$source"}) > 0`: "copies that differ, in a cluster",
}

// programs are processes that end with the test.
type programs struct {
	*testing.T
	dir string
}

// build builds a program of the product's module.
func (p programs) build(name, pkg string) string {
	p.Helper()
	bin := filepath.Join(p.dir, name)
	cmd := exec.CommandContext(p.Context(), "go", "build", "-pgo=off", "-o", bin, pkg)
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// start runs a program until the test ends, with an environment beside that of the test. Its output is logged when the test fails.
func (p programs) start(env []string, name string, args ...string) {
	p.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, append(os.Environ(), env...), &out, &out
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // that it ends early is seen by what does not answer
	}()
	p.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-ended
		}
		if p.Failed() {
			text := out.String()
			p.Logf("%s %s:\n%s", name, strings.Join(args, " "), text[max(0, len(text)-2000):])
		}
	})
}

// run runs a program that has to succeed.
func (p programs) run(name string, args ...string) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), name, args...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// file writes a file and returns its name.
func (p programs) file(name, text string) string {
	p.Helper()
	name = filepath.Join(p.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	return name
}

// wait returns when cond holds.
func (p programs) wait(what string, cond func() bool) {
	p.Helper()
	late := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			p.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// addresses are free addresses of this machine.
func addresses(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all
}

// answers reports whether a URL is answered 200.
func answers(ctx context.Context, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// scrape starts a Headgate with everything that has metrics: headgate serve with a route of the relay and Codat's API, and a headgate
// watch of a nats-server. It returns the address of a Prometheus that scrapes both, and a function that sends events, good and bad ones.
func (p programs) scrape() (prometheus string, send func()) {
	p.Helper()
	headgate, server := p.build("headgate", "./cmd/headgate"), p.build("nats-server", "github.com/nats-io/nats-server/v2")
	secret := p.file("key", "whsec_aGVhZGdhdGUtZGFzaGJvYXJkLXRlc3Qta2V5\n")
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	p.Cleanup(endpoint.Close)
	routes := p.file("routes.yml", "routes:\n- { name: test, url: "+endpoint.URL+", secret_files: [key], allow_private: [127.0.0.0/8] }\n")
	a := addresses(p.T, 11)
	public, admin, nats, codat, monitored, monitor, watch, web := a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]

	p.start(nil, headgate, "dev", "--no-examples", "--with-codat", "--codat-listen", codat, "--data", "codat",
		"--listen", a[8], "--admin-listen", a[9], "--nats-listen", a[10])
	p.wait("Codat's stand-in is ready", func() bool { return answers(p.Context(), "http://"+a[9]+"/readyz") })
	p.start([]string{"HEADGATE_CODAT_URL=http://" + codat, "HEADGATE_CODAT_KEY_FILE=" + filepath.Join(p.dir, "codat", "codat-key")},
		headgate, "serve", "--data-dir", filepath.Join(p.dir, "serve"), "--secret-file", secret, "--relay-routes", routes,
		"--listen", public, "--admin-listen", admin, "--nats-listen", nats, "--drain-delay", "0s")
	host, port, _ := strings.Cut(monitored, ":")
	p.start(nil, server, "-js", "-sd", filepath.Join(p.dir, "jetstream"), "-a", host, "-p", port, "-m", strings.TrimPrefix(monitor, host+":"))
	p.wait("nats-server is ready", func() bool { return answers(p.Context(), "http://"+monitor+"/healthz") })
	p.run(headgate, "provision", "--nats-url", "nats://"+monitored)
	p.start(nil, headgate, "watch", "--nats-url", "nats://"+monitored, "--monitor-url", "http://"+monitor, "--admin-listen", watch, "--interval", "1s")

	rules, err := filepath.Abs(filepath.Join(monitoring, "rules.yml"))
	if err != nil {
		p.Fatal(err)
	}
	config := p.file("prometheus.yml", fmt.Sprintf(`global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [ %q ]
scrape_configs: [ { job_name: headgate, static_configs: [ { targets: [ %q, %q ] } ] } ]
`, rules, admin, watch))
	p.start(nil, "prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(p.dir, "tsdb"), "--web.listen-address", web)
	for _, ready := range []string{admin + "/readyz", watch + "/readyz", web + "/-/ready"} {
		p.wait(ready, func() bool { return answers(p.Context(), "http://"+ready) })
	}

	// A type and members that the catalog does not have are counted too.
	to := []string{"--to", "http://" + public + "/webhooks/codat", "--secret-file", secret}
	unknown := p.file("unknown.json", `{"eventType":"spaceships.landed","payload":{}}`)
	changed := []string{"send", "connection.connected", "--set", "payload.connection.status=Teleported", "--set", "payload.spaceship=1"}
	return "http://" + web, func() {
		p.Helper()
		for _, args := range [][]string{{"send", "--all"}, {"send", "--file", unknown}, changed, {"send", "connection.connected", "--forge"}} {
			p.run(headgate, append(args, to...)...)
		}
	}
}

// Every query of the dashboard has data of a Headgate that runs, but for those that show a fault.
func TestDashboard_HasDataOfARunningHeadgate(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Fatal("prometheus is not installed: apt-get install prometheus (or apt-get download prometheus && dpkg -x, and put its usr/bin into PATH)")
	}
	text, err := os.ReadFile(filepath.Join(monitoring, "grafana/dashboards/headgate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	p := programs{t, t.TempDir()}
	prometheus, send := p.scrape()
	send()
	has := func(query string) bool {
		resp, err := http.Get(prometheus + "/api/v1/query?query=" + url.QueryEscape(strings.NewReplacer("$__rate_interval", "5m", "$source", ".*").Replace(query)))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var answer struct {
			Status string
			Data   struct{ Result []any }
		}
		return json.NewDecoder(resp.Body).Decode(&answer) == nil && answer.Status == "success" && len(answer.Data.Result) > 0
	}
	p.wait("the first events are in the metrics", func() bool {
		return has("headgate_relay_requests_total > 0") && has("headgate_codat_api_calls_total > 0") && has("headgate_ingress_unknown_values_total > 0")
	})
	send() // a rate is of a counter that grows
	known := map[string]bool{}
	for _, panel := range board.Panels {
		for _, q := range panel.Targets {
			known[q.Expr] = true
			if quiet[q.Expr] == "" {
				p.wait(fmt.Sprintf("data of the panel %q: %s", panel.Title, q.Expr), func() bool { return has(q.Expr) })
			}
		}
	}
	for query, shows := range quiet {
		switch {
		case !known[query]:
			t.Errorf("no panel asks for %s, %s", shows, query)
		case has(query):
			t.Errorf("the dashboard shows %s, although nothing is wrong: %s", shows, query)
		}
	}
}
