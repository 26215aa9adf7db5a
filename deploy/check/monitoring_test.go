package check_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"sigs.k8s.io/yaml"
)

// promtool runs Prometheus' own check; it must succeed, and what it says is returned.
func promtool(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatal("promtool is not there: apt-get install prometheus (or apt-get download prometheus && dpkg -x, and put its usr/bin into PATH)")
	}
	out, err := exec.Command("promtool", args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", filepath.Join(monitoring, "rules.yml"))
	promtool(t, "check", "config", "--syntax-only", filepath.Join(monitoring, "prometheus.yml"))
	for _, name := range []string{"rules_test.yml", "rules_days_test.yml"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promtool(t, "test", "rules", filepath.Join(monitoring, name))
		})
	}
}

// Every query of the dashboard is one that Prometheus can read.
func TestDashboard(t *testing.T) {
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
	type rule struct {
		Record string            `json:"record"`
		Expr   string            `json:"expr"`
		Labels map[string]string `json:"labels"`
	}
	var rules []rule
	fill := strings.NewReplacer("$__rate_interval", "5m", "$source", "codat")
	for i, p := range board.Panels {
		for _, q := range p.Targets {
			name := strings.Map(func(r rune) rune {
				if unicode.IsLetter(r) {
					return r
				}
				return '_'
			}, p.Title)
			rules = append(rules, rule{fmt.Sprintf("panel_%d_%s_%d", i, name, len(rules)), fill.Replace(q.Expr), nil})
		}
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := promtool(t, "check", "rules", name); !strings.Contains(said, fmt.Sprintf("%d rules found", len(rules))) {
		t.Errorf("promtool says %s; want %d rules", said, len(rules))
	}
}

// prometheusrule.yaml is rules.yml with a head. UPDATE=1 writes it.
func TestPrometheusRuleIsTheRules(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(monitoring, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.NewBufferString("# rules.yml as the Prometheus operator takes it. Made by: UPDATE=1 make check-deploy\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: headgate\nspec:\n")
	_, groups, ok := strings.Cut(string(rules), "groups:\n")
	if !ok {
		t.Fatal("rules.yml has no groups")
	}
	want.WriteString("  groups:\n")
	for line := range strings.Lines(groups) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		want.WriteString(line)
	}
	name := filepath.Join(monitoring, "prometheusrule.yaml")
	got, err := os.ReadFile(name)
	if err == nil && bytes.Equal(got, want.Bytes()) {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s is not rules.yml: run UPDATE=1 make check-deploy", name)
	}
	if err := os.WriteFile(name, want.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
