package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every part runs, with real processes and too short to mean anything; what is accepted is stored.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "figures.json")
	o, err := parse([]string{
		"--only", "ingress,cluster,forgery,worker,writes,start,memory,ordered,find,replay,console", "--quick", "--json", file, "--dir", t.TempDir(),
		"--ingress", "gogc400=GOGC=400",
	})
	if err != nil {
		t.Fatal(err)
	}
	o.slice, o.events, o.writes, o.ids = 100*time.Millisecond, 8000, 8000, 2000
	var out strings.Builder
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"plain", "bound", "gogc400", "KV claims", "worker-writes", "ordered worker", "with forgeries", "slow bodies", byCompany, lastLetters, replayNumbers, coldStart, deadGiven, "500 viewers", "Numbers to reach"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not speak of %s:\n%s", want, out.String())
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) < 100 || len(r.Targets) == 0 {
		t.Errorf("the file has %d figures and %d targets; want all", len(r.Figures), len(r.Targets))
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{"--only nothing", "--rounds 0", "--slice 1ms", "--rate 0", "--events 1", "--writes 1", "--ids 1", "--fsync sometimes"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("parse(%s) = nil; want an error", args)
		}
	}
	for _, extra := range []string{"UPPER=", "x=/nowhere/at/all"} {
		if _, _, err := parseExtra(extra); err == nil {
			t.Errorf("parseExtra(%s) = nil; want an error", extra)
		}
	}
}

func TestJudge(t *testing.T) {
	in := closedCase(64, false)
	tests := []struct {
		name         string
		ingress, cpu float64
		want         [2]string
	}{
		{"faster than asked", 160, 60, [2]string{"stretch", "stretch"}},
		{"as fast as it must be", 135, 75, [2]string{"must", "must"}},
		{"slower", 134, 76, [2]string{"missed", "missed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReport(options{rounds: 1})
			r.add(in, "plain", perSecond, 100)
			r.add(in, "ingress", perSecond, tt.ingress)
			r.add(in, "plain", cpuBoth, 100)
			r.add(in, "ingress", cpuBoth, tt.cpu)
			got := r.judge()
			if len(got) != 2 || got[0].Verdict != tt.want[0] || got[1].Verdict != tt.want[1] {
				t.Errorf("judge() = %+v; want %v and nothing that was not measured", got, tt.want)
			}
		})
	}
}

func TestReportTakesTheMedianOfRounds(t *testing.T) {
	r := newReport(options{})
	for _, v := range []float64{3, 100, 2} {
		r.add("a case", "plain", perSecond, v)
		r.add("a case", "ingress", perSecond, 2*v)
	}
	if got := r.median("a case", "ingress", perSecond); got != 6 {
		t.Errorf("median() = %v; want 6", got)
	}
	if got := r.ratio("a case", "ingress", "plain", perSecond); got != 2 {
		t.Errorf("ratio() = %v; want 2", got)
	}
	if got := r.median("a case", "bound", perSecond); !math.IsNaN(got) {
		t.Errorf("median() of nothing = %v; want NaN", got)
	}
}

func TestShort(t *testing.T) {
	tests := []struct {
		v    float64
		want string
	}{{12345.6, "12346"}, {99.94, "99.9"}, {1.234, "1.23"}, {0, "0"}, {20, "20"}, {math.NaN(), ""}}
	for _, tt := range tests {
		if got := short(tt.v); got != tt.want {
			t.Errorf("short(%v) = %q; want %q", tt.v, got, tt.want)
		}
	}
}
