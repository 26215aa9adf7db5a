package doctor

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
)

// The thresholds are those of the alerts.
func TestThresholds_AreThoseOfAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/monitoring/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	exprs := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			exprs[r.Alert] += " " + strings.Join(strings.Fields(r.Expr), " ") + " "
		}
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()) }
	days := func(d time.Duration) string { return fmt.Sprintf("%.0f * 86400", d.Hours()/24) }
	for _, tt := range []struct{ alert, number string }{
		{"HeadgateStreamFilling", fmt.Sprintf("> %v ", fillWarn)},
		{"HeadgateStreamFilling", fmt.Sprintf("> %v ", fillFail)},
		{"HeadgateReplicaBehind", fmt.Sprintf("> %v ", replicaLag)},
		{"HeadgateAckPending", fmt.Sprintf("> %v ", placesUsed)},
		{"HeadgateBreakerOpen", "> " + seconds(breakerOpen) + " "},
		{"HeadgateOldestUnsettled", "> " + seconds(unsettledWarn) + " "},
		{"HeadgateOldestUnsettled", "> " + seconds(unsettledFail) + " "},
		{"HeadgateOldestUnsettled", fmt.Sprintf("> %v ", unsettledPart)},
		{"HeadgateDeadLetters", "dead_letters_new:1h > 0 "},
		{"HeadgateDeadLetters", fmt.Sprintf("dead_letters_new:1h > %d ", deadFail)},
		{"HeadgateParkedLong", "> " + seconds(parkedLong) + " "},
		{"HeadgateSilent", "> " + days(silentFail) + " "},
		{"HeadgateNoFirstEvent", "> " + seconds(noFirst) + " "},
		{"HeadgateQuarantine", "[1d]"},
		{"HeadgateClockSkew", "> " + seconds(clockWarn) + " "},
		{"HeadgateCertificateEnds", "< " + days(certificateWarn) + " "},
		{"HeadgateCertificateEnds", "< " + days(certificateFail) + " "},
		{"HeadgateAcceptSlow", "> " + seconds(slowAnswer) + " "},
	} {
		if !strings.Contains(exprs[tt.alert], tt.number) {
			t.Errorf("%s has no %q in%s", tt.alert, tt.number, exprs[tt.alert])
		}
	}
	if deadWindow != time.Hour || quarantine != 24*time.Hour {
		t.Error("the windows of dead letters and of the quarantine are not those of the alerts")
	}
}

// What is worse than a warning, and what is not yet one.
func TestExamine_GradesByThresholds(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	oldest := func(age time.Duration) func(*facts) {
		return func(f *facts) {
			for i := range f.snapshot.Consumers {
				if f.snapshot.Consumers[i].OldestUnsettled != nil {
					f.snapshot.Consumers[i].OldestUnsettled = &age
				}
			}
		}
	}
	stream := func(name string, change func(*inspect.Stream)) func(*facts) {
		return func(f *facts) {
			if s := f.stream(name); s != nil {
				change(s)
			}
		}
	}
	fill := func(part float64) func(*facts) {
		return stream("CODAT", func(s *inspect.Stream) { s.Bytes = uint64(part * float64(s.MaxBytes)) })
	}
	none := func(age time.Duration) func(*facts) {
		return func(f *facts) { f.snapshot.LastEvent, f.snapshot.Created = time.Time{}, f.now.Add(-age) }
	}
	for _, tt := range []struct {
		code string
		seen func(*facts)
		want Status
	}{
		{"HG-WRK-005", oldest(59 * time.Minute), OK},
		{"HG-WRK-005", oldest(13 * time.Hour), Fail},
		{"HG-WRK-005", func(f *facts) {
			oldest(45 * time.Minute)(f)
			stream("CODAT", func(s *inspect.Stream) { s.MaxAge = time.Hour })(f)
		}, Fail},
		{"HG-STR-006", fill(0.69), OK},
		{"HG-STR-006", fill(0.8), Warn},
		{"HG-STR-006", fill(0.9), Fail},
		{"HG-STR-004", stream("CODAT", func(s *inspect.Stream) { s.ReplicaLag = map[string]uint64{"b": 1000} }), OK},
		{"HG-STR-004", stream("CODAT", func(s *inspect.Stream) { s.ReplicaLag = map[string]uint64{"b": 1001} }), Warn},
		{"HG-STR-009", stream("CODAT", func(s *inspect.Stream) { s.MaxAge = 0 }), OK},
		{"HG-WRK-006", func(f *facts) { f.letters["connections"] = 100 }, Warn},
		{"HG-WRK-006", func(f *facts) { f.letters["connections"] = 101 }, Fail},
		{"HG-EVT-001", none(59 * time.Minute), OK},
		{"HG-EVT-001", none(2 * time.Hour), Warn},
		{"HG-EVT-001", none(4 * 24 * time.Hour), Fail},
		{"HG-NATS-003", func(f *facts) { f.server.version = "2.14.9" }, Warn},
		{"HG-NATS-003", func(f *facts) { f.server.version = "v3.0.0" }, OK},
		{"HG-NATS-003", func(f *facts) { f.server.version = "main" }, Warn},
		{"HG-NATS-007", func(f *facts) { f.server.account.Store, f.server.account.Limits.MaxStore = 90, 100 }, Fail},
		{"HG-NATS-007", func(f *facts) {
			f.server.account.Tiers = map[string]jetstream.Tier{"R1": {}, "R3": {Store: 75, Limits: jetstream.AccountLimits{MaxStore: 100}}}
		}, Warn},
		{"HG-NATS-006", func(f *facts) { f.unsaid = 1 }, Skipped},
		{"HG-SRV-008", func(f *facts) { f.snapshot.Servers = f.snapshot.Servers[:1] }, Skipped},
		{"HG-SRV-009", func(f *facts) { f.snapshot.Servers = f.snapshot.Servers[:1] }, Skipped},
		{"HG-KEY-002", func(f *facts) { f.keys = []keyFile{{name: "key", problem: "no such file"}} }, Skipped},
		{"HG-KEY-003", func(f *facts) { f.keys = []keyFile{{name: "key", problem: "no such file"}} }, Skipped},
		{"HG-SET-003", func(f *facts) { f.NATS.NATSCreds = "no-such-file" }, Skipped},
		{"HG-WRK-006", stream("CODAT_DEAD", func(s *inspect.Stream) { s.Answered = false }), Skipped},
		{"HG-CLK-001", func(f *facts) { f.server.clock = -6 * time.Minute }, Fail},
		{"HG-COD-003", func(f *facts) { f.endpoints = nil }, Fail},
		{"HG-COD-002", func(f *facts) { f.endpoints = nil }, Skipped},
		{"HG-EVT-002", func(f *facts) { n := uint64(3); f.snapshot.Quarantined, f.quarantined = &n, f.now.Add(-25*time.Hour) }, OK},
		{"HG-WRK-001", func(f *facts) {
			f.instances, f.idle = nil, map[string]uint64{"CODAT connections": 2}
			for i := range f.snapshot.Consumers {
				f.snapshot.Consumers[i].AckPending = 2
			}
		}, Warn},
		{"HG-PRC-004", func(f *facts) { f.processes[0].Metrics[4].Value = float64(f.now.Add(2 * 24 * time.Hour).Unix()) }, Fail},
	} {
		in.until(tt.seen, func(r *Report) []string {
			if got := statuses(r)[tt.code]; got != tt.want {
				return []string{fmt.Sprintf("%s is %s; want %s", tt.code, got, tt.want)}
			}
			return nil
		})
		in.describe() // the next one begins with what was there
	}
}

// Without headgate watch nobody looks for what has not come.
func TestExamine_SkipsWhatNothingHasLookedFor(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	for name, change := range map[string]func(*inspect.Stream){
		"never":               func(s *inspect.Stream) { s.LastSequence = 0 },
		"not for three hours": func(s *inspect.Stream) { s.Last = s.Last.Add(-3 * time.Hour) },
	} {
		look := func(f *facts) {
			if s := f.stream("KV_CODAT_expected"); s != nil {
				change(s)
			}
			f.missing[expected] = f.readExpected(in.Context())
		}
		in.until(look, func(r *Report) (problems []string) {
			for _, one := range r.Results {
				if skipped := one.Code >= "HG-EVT-003" && one.Code <= "HG-EVT-005"; skipped != (one.Status == Skipped) {
					problems = append(problems, fmt.Sprintf("it has looked %s: %+v; want it skipped: %t", name, one, skipped))
				}
			}
			return problems
		})
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Microsecond: "1.5ms", 2340 * time.Millisecond: "2.3s", 90 * time.Second: "1m30s", 25 * time.Hour: "1d1h", -3 * time.Hour: "-3h0m",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s; want %s", d, got, want)
		}
	}
}
