package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/writes"
)

const monitoring = "../../deploy/monitoring"

// A registered metric is one that a program has, also when it has no value yet.
type registered struct {
	help, program string
	labels        []string // beside process, and those that Prometheus adds
}

// A recorder is a registry that keeps what is registered.
type recorder struct {
	prometheus.Registerer
	program string

	mu  sync.Mutex
	all map[string]registered
}

// A desc says what it is in a text, and nowhere else.
var descText = regexp.MustCompile(`^Desc{fqName: "([^"]+)", help: "(.*?)",(?: unit: "[^"]*",)? constLabels: {(.*)}, variableLabels: {(.*)}}$`)

func (r *recorder) Register(c prometheus.Collector) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			return fmt.Errorf("cannot read %s", d)
		}
		labels := regexp.MustCompile(`="[^"]*"`).ReplaceAllString(m[3], "") + "," + m[4]
		r.all[m[1]] = registered{strings.ReplaceAll(m[2], `\"`, `"`), r.program, regexp.MustCompile(`\w+`).FindAllString(labels, -1)}
	}
	return r.Registerer.Register(c)
}

func (r *recorder) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// exported are the metrics of all programs by their names: of real ones, that run until they are ready.
func exported(t testing.TB) map[string]registered {
	t.Helper()
	file, _ := routesOf(t, t.TempDir())
	relays := relayRoutes{RelayRoutes: file}
	specs, err := relays.specs()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := relays.parts(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	parts = append(parts, ingressPart, newPart("watch", func(ctx context.Context, w *watchCmd, p *process.Process) error { return w.watch(ctx, p) }))
	s := streamtest.New(t, specs...)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("whsec_"+strings.Repeat("a2V5", 8)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	apiKey := filepath.Join(t.TempDir(), "api-key")
	if err := os.WriteFile(apiKey, []byte("key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]registered{
		"headgate_build_info": {"Always 1; the labels say what was built.", "all", []string{"version", "goversion"}},
		"headgate_ready":      {"1 when the process is ready, 0 when /readyz says why it is not.", "all", nil},
	}
	for _, part := range parts {
		args := []string{"--nats-url", s.URL}
		if part.name == ingressPart.name {
			args = append(args, "--listen", "127.0.0.1:0", "--secret-file", key, "--drain-delay", "0s")
		}
		if part.name == "worker-"+writes.Name {
			args = append(args, "--codat-key-file", apiKey)
		}
		p := process.New(part.name, zap.NewNop())
		program := part.name
		if program != ingressPart.name && program != "watch" {
			program = "worker"
		}
		p.Metrics = &recorder{Registerer: p.Metrics, program: program, all: all}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- part.run(ctx, args, p) }()
		streamtest.Wait(t, func() bool { return p.Health.Ready() == nil }, part.name+" is ready")
		cancel()
		if err := <-ended; err != nil {
			t.Fatalf("%s: %v", part.name, err)
		}
	}
	return all
}

// rules are those of a file, by the parts that are looked at here.
type rules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Record, Alert, Expr, For string
			Labels, Annotations      map[string]string
		}
	}
}

func readRules(t testing.TB) rules {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(monitoring, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// queries are the expressions of all rules and of all panels, by where they stand.
func queries(t testing.TB) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, g := range readRules(t).Groups {
		for i, r := range g.Rules {
			all[fmt.Sprintf("rule %d %s", i, cmp.Or(r.Alert, r.Record))] = r.Expr
		}
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
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for i, q := range p.Targets {
			all[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = q.Expr
		}
	}
	for _, v := range board.Templating.List {
		all["variable "+v.Name] = v.Definition
	}
	if len(all) < 60 {
		t.Fatalf("there are %d queries; want all rules and panels", len(all))
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\bheadgate[_:][a-z0-9_:]+(?:\{([^}]*)\})?`)
	labelName  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
)

// Whatever the rules and the dashboard ask for is there: a metric that was renamed must not make an alert silent.
func TestMonitoring_AsksForExistingMetrics(t *testing.T) {
	t.Parallel()
	have := exported(t)
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				have[r.Record] = registered{labels: []string{"source"}}
			}
		}
	}
	for where, query := range queries(t) {
		for _, m := range metricName.FindAllStringSubmatch(query, -1) {
			name, _, _ := strings.Cut(m[0], "{")
			of, ok := have[name]
			if !ok {
				name = strings.TrimSuffix(name, "_bucket")
				of, ok = have[name]
			}
			if !ok {
				t.Errorf("%s asks for %s, which no program exports", where, m[0])
				continue
			}
			for _, l := range labelName.FindAllStringSubmatch(m[1], -1) {
				if !slices.Contains(append([]string{"process", "instance", "job", "le"}, of.labels...), l[1]) {
					t.Errorf("%s asks for the label %s of %s, which has %q", where, l[1], name, of.labels)
				}
			}
		}
	}
}

func TestMonitoring_AlertsAreComplete(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(operate)
	if err != nil {
		t.Fatal(err)
	}
	var tests string
	for _, name := range []string{"rules_test.yml", "rules_days_test.yml"} {
		text, err := os.ReadFile(filepath.Join(monitoring, name))
		if err != nil {
			t.Fatal(err)
		}
		tests += string(text)
	}
	alerts := map[string]bool{}
	for _, g := range readRules(t).Groups {
		// promtool evaluates groups that are in no order in any order.
		if n := strings.Count(tests, g.Name+",") + strings.Count(tests, g.Name+"]"); n != 2 {
			t.Errorf("the group %s is in %d of the 2 lines group_eval_order", g.Name, n)
		}
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts[r.Alert] = true
			if s := r.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", r.Alert)
			}
			want := "https://github.com/headgate/headgate/blob/main/docs/operate.md#" + strings.ToLower(r.Alert)
			if got := r.Annotations["runbook_url"]; got != want {
				t.Errorf("the runbook of %s is at %s; want %s", r.Alert, got, want)
			}
			for _, firing := range []string{"[{ value: ", "[] }"} {
				if !regexp.MustCompile(`alertname="` + r.Alert + `"[^\n]*exp_samples: ` + regexp.QuoteMeta(firing)).MatchString(tests) {
					t.Errorf("%s has no test with exp_samples: %s", r.Alert, firing)
				}
			}
		}
	}
	sections := map[string]bool{}
	for _, section := range strings.Split(string(page), "\n### ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		if !strings.HasPrefix(name, "Headgate") {
			continue
		}
		if sections[name] {
			t.Errorf("%s has two runbooks", name)
		}
		sections[name] = true
		for _, part := range []string{"**Meaning.** ", "**Impact.** ", "**Diagnosis.** ", "**Mitigation.** "} {
			if !strings.Contains(text, "\n"+part) {
				t.Errorf("the runbook of %s has no %s", name, part)
			}
		}
		if !alerts[name] {
			t.Errorf("the runbook of %s is one of no alert", name)
		}
	}
	for name := range alerts {
		if !sections[name] {
			t.Errorf("%s has no section in docs/operate.md", name)
		}
	}
}

// A panel without data says what may be missing: an empty one looks like nothing to worry about.
func TestDashboard_PanelsSayWhatIsMissingAndLinkToRunbooks(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(monitoring, "grafana/dashboards/headgate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID          int
			Type, Title string
			Links       []struct{ Title, URL string }
			Targets     []struct{ Expr string }
			FieldConfig struct{ Defaults struct{ NoValue string } }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	runbooks, ids, aged := map[string]bool{}, map[int]bool{}, false
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			runbooks[r.Annotations["runbook_url"]] = true
		}
	}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has the id of another one", p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.FieldConfig.Defaults.NoValue == "" {
			t.Errorf("panel %q says nothing when it has no data", p.Title)
		}
		if len(p.Links) == 0 {
			t.Errorf("panel %q links to no runbook", p.Title)
		}
		for _, l := range p.Links {
			if !runbooks[l.URL] {
				t.Errorf("panel %q links to %s, which is the runbook of no alert", p.Title, l.URL)
			}
		}
		for _, q := range p.Targets {
			if strings.Contains(q.Expr, "vector(") {
				t.Errorf("panel %q shows a number without data: %s", p.Title, q.Expr)
			}
			aged = aged || p.Type == "timeseries" && strings.HasPrefix(q.Expr, "max by (worker) (headgate_consumer_oldest_unsettled_seconds")
		}
	}
	if !aged {
		t.Error("no panel shows the age of the oldest unsettled event")
	}
}

// The table of metrics in docs/operate.md is what the programs register. UPDATE=1 writes it there.
func TestOperate_HasEveryMetric(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("\n| metric | of | labels | |\n|---|---|---|---|\n")
	all := exported(t)
	for _, name := range slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(strings.Compare(all[a].program, all[b].program), strings.Compare(a, b))
	}) {
		m := all[name]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, m.program, strings.Join(m.labels, ", "), m.help)
	}
	b.WriteString("\n")
	generated(t, "metrics", b.String())
}
