package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/pkg/watchdog"
)

func TestExpected_ListsRecords(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	kv, err := r.JS.KeyValue(t.Context(), source.StateBucket(stream.ExpectedState))
	if err != nil {
		t.Fatal(err)
	}
	due := time.Date(2026, 2, 3, 10, 0, 0, 0, time.UTC)
	for _, e := range []state.Expected{
		{Kind: state.StaleRead, Due: due, Last: due.Add(-time.Hour), Company: "c-1", Connection: "k-1", DataType: "invoices"},
		{Kind: state.SilentType, Due: due, Type: "read.completed"},
		{Kind: state.OverdueWrite, Due: due, PushOperationKey: "p-1", Company: "c-2", DataType: "bills\x1b"},
	} {
		key, err := e.Key()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(e)
		if err == nil {
			_, err = kv.Put(t.Context(), key, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Put(t.Context(), "learned.read.completed", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	c := r.headgate(0, "expected")
	contains(t, c.out.String(), "silent\t"+due.UTC().Format(time.RFC3339)+"\t-\tread.completed\t", "\t"+`bills\x1b`+"\tc-2\t-\tp-1\n", "\tinvoices\tc-1\tk-1\t-\n")
	contains(t, c.err.String(), "3 records")
	for args, want := range map[string]string{
		"":                              "overdue silent stale",
		"--kind silent":                 "silent",
		"--type read.>":                 "silent",
		"--type bills.>":                "",
		"--connection k-1":              "stale",
		"--until 2026-02-01":            "",
		"--since 2026-02-01 --limit 2":  "overdue silent",
		"--kind silent --kind stale":    "silent stale",
		"--company c-1":                 "stale",
		"--company c-1 --kind overdue":  "",
		"--company c-2 --kind=overdue ": "overdue",
	} {
		var got []string
		for _, e := range decode[state.Expected](t, r.headgate(0, append([]string{"expected", "--json"}, strings.Fields(args)...)...).out.lines()) {
			got = append(got, string(e.Kind))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("expected %s = %q; want %q", args, got, want)
		}
	}
	contains(t, r.headgate(0, "expected", "--company=c-3").err.String(), "headgate watch, or headgate serve, writes the records")
	contains(t, r.headgate(2, "expected", "--kind=late").err.String(), `no kind is "late": use silent, overdue or stale`)
}

// A watched is a watchdog with its metrics, as headgate watch runs it.
type watched struct {
	*testing.T
	dog      *watchdog.Watchdog
	shown    *metricsView
	log      watchdogLog
	logged   *observer.ObservedLogs
	registry *prometheus.Registry
}

func watchWith(t *testing.T, r *broker, a *codatAccount) *watched {
	t.Helper()
	core, logged := observer.New(zap.DebugLevel)
	s := watchdogSettings{}
	if _, err := process.Parse("watch", "", &s, a.flags()); err != nil {
		t.Fatal(err)
	}
	o, closeClient, err := s.options(source, process.New("watch", zap.New(core)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeClient)
	w := &watched{T: t, dog: watchdog.New(r.JS, o), shown: new(metricsView), log: watchdogLog{log: zap.New(core)}, logged: logged, registry: prometheus.NewPedanticRegistry()}
	w.registry.MustRegister(w.shown)
	return w
}

// look looks until no request took too long, and returns the metrics.
func (w *watched) look(now time.Time) metricValues {
	w.Helper()
	report, err := w.dog.Look(w.Context(), now)
	for errors.Is(err, context.DeadlineExceeded) && w.Context().Err() == nil {
		report, err = w.dog.Look(w.Context(), now)
	}
	if err != nil {
		w.Fatalf("Look = %v", err)
	}
	w.shown.showReport(source, report, err == nil)
	w.log.changes(report, err)
	return gatherValues(w, w.registry)
}

// The whole way: an endpoint that answers 500 for five days is disabled by the stand-in, the metric says so, and an operator
// enables it.
func TestWatch_ShowsDisabledEndpointAndItsReturn(t *testing.T) {
	t.Parallel()
	r := newBroker(t, stream.WorkerSpec{Name: "companies", Types: []codat.Pattern{"company.created", "company.deleted"}})
	clock := codattest.NewClock(time.Now())
	server, err := codattest.Start(codattest.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	a := &codatAccount{server, t, filepath.Join(t.TempDir(), "codat-key")}
	a.setKey(codattest.DefaultKey)
	// Nothing listens there.
	id := a.AddEndpoint(codattest.Endpoint{URL: "http://127.0.0.1:1/", EventTypes: []string{"company.created", "read.completed"}})
	w := watchWith(t, r, a)
	disabled := fmt.Sprintf("codat_endpoint_disabled{endpoint=%q}", id)
	now := time.Now()
	w.look(now).wants(t, metricValues{
		"watchdog_up{}": 1, "codat_endpoints{}": 1, disabled: 0, "codat_endpoints_unanswered_seconds{}": 0,
		`codat_types_not_subscribed{needed="true"}`: 1, `codat_types_not_subscribed{needed="false"}`: 58,
		`expected{kind="silent"}`: 0, `expected{kind="overdue"}`: 0, `expected{kind="stale"}`: 0,
	})
	for range 14 { // an attempt every half day fails
		a.Emit("company.created", "", []byte("{}"))
		clock.Advance(12 * time.Hour)
	}
	w.look(now).wants(t, metricValues{disabled: 1})
	a.SetDisabled(id, false)
	w.look(now).wants(t, metricValues{disabled: 0})
	for _, want := range []string{"an endpoint is disabled at Codat: nothing is delivered to it", "an endpoint is enabled again", "no endpoint at Codat has types that a consumer takes"} {
		if n := w.logged.FilterMessage(want).Len(); n != 1 {
			t.Errorf("%d lines of the log say %q; want one", n, want)
		}
	}

	a.setKey("refused")
	refused := "Codat does not say which endpoints there are; it is asked again every five minutes"
	streamtest.Wait(t, func() bool { return w.logged.FilterMessage("Codat's API key reloaded").Len() > 0 }, "the key to be read again")
	w.look(now)
	if n := w.logged.FilterMessage(refused).Len(); n != 1 {
		t.Fatalf("%d lines of the log say that Codat does not answer; want one", n)
	}
	if err := fmt.Sprint(w.logged.FilterMessage(refused).All()[0].ContextMap()["error"]); !strings.Contains(err, "401") {
		t.Errorf("Codat's answer is %s; want 401", err)
	}
	w.look(now.Add(4*time.Hour)).wants(t, metricValues{"codat_endpoints_unanswered_seconds{}": 4 * 3600, disabled: 0, "watchdog_up{}": 1})
	if n := w.logged.FilterMessage(refused).Len(); n != 1 {
		t.Errorf("%d lines of the log say that Codat does not answer; want one", n)
	}
}

func TestWatch_RefusesWatchdogSettings(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"--ignore-type company..created":                                "--ignore-type",
		"--stale-reads-after 5m":                                        "--stale-reads-after must be at least 1h",
		"--codat-key-file /nowhere/key":                                 "/nowhere/key",
		"--codat-key-file /nowhere/key --codat-url http://api.codat.io": "--codat-url must begin with https://",
	} {
		c := headgate(t, 2, append([]string{"watch", "--admin-listen", "127.0.0.1:0"}, strings.Fields(args)...)...)
		contains(t, c.err.String(), says)
	}
}
