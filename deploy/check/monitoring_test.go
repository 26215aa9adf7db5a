package check_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"sigs.k8s.io/yaml"
)

// patience bounds one run of promtool: the rules over days take it ten seconds on two idle cores.
const patience = 5 * time.Minute

// promtool runs Prometheus' own check and returns its output. A run that fails fails the test.
func promtool(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatal("promtool is not installed: apt-get install prometheus (or apt-get download prometheus && dpkg -x, and put its usr/bin into PATH)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "promtool", args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestRules_PassPromtool(t *testing.T) {
	t.Parallel()
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
func TestDashboard_HasQueriesThatPrometheusReads(t *testing.T) {
	t.Parallel()
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
