package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The table of checks is made of the checks.
func TestOperate_HasDoctorTable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("\n| code | check | wanted | section |\n|---|---|---|---|\n")
	for _, c := range doctor.Checks() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | [#%s](#%s) |\n", c.Code, c.Name, c.Threshold, c.Anchor, c.Anchor)
	}
	b.WriteString("\n")
	generated(t, "doctor", b.String())
}

// Each section that a check names is on the page.
func TestDoctor_RunbooksExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(operate)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(operate) != filepath.Base(doctor.Runbook) {
		t.Errorf("the runbook is %s; want %s", doctor.Runbook, operate)
	}
	headings := anchors(string(text))
	for _, c := range doctor.Checks() {
		if !headings[c.Anchor] {
			t.Errorf("%s: %s has no section #%s", c.Code, operate, c.Anchor)
		}
	}
}

// hostile is a report with text that a terminal would obey, and with each status.
func hostile() *doctor.Report {
	return &doctor.Report{
		Version: 1, Source: "codat", At: noon,
		Counts: map[doctor.Status]int{doctor.OK: 1, doctor.Warn: 1, doctor.Fail: 1, doctor.Skipped: 1},
		Results: []doctor.Result{
			{Code: "HG-NATS-001", Check: "connection to NATS", Status: doctor.OK, Measured: "connected", Threshold: "a server accepts this user", Runbook: "docs/operate.md#doctor-nats"},
			{
				Code: "HG-SRV-002", Check: "health", Status: doctor.Fail, Measured: "nats-1\x1b[2J|\nHEADGATE OK \"\u202e", Detail: "\x1b[1A", Threshold: "each is healthy",
				Cure: "restart\x1b[2J", Runbook: "docs/operate.md#headgateserverunhealthy",
			},
			{Code: "HG-EVT-003", Check: "silent types", Status: doctor.Warn, Measured: "株式会社.\x07", Threshold: "no type is silent", Cure: "look", Runbook: "docs/operate.md#headgatetypesilent"},
			{Code: "HG-COD-001", Check: "API of Codat", Status: doctor.Skipped, Reason: "no key", Threshold: "it answers", Runbook: "docs/operate.md#the-endpoints-at-codat"},
		},
	}
}

func TestDoctor_PrintsForPeopleAndMonitoring(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		width  int
		format string
		output string
	}{
		{"terminal", 100, "", "table"},
		{"wide", 100, "", "wide"},
		{"pipe", 0, "", "table"},
		{"id", 0, "", "id"},
		{"json", 0, "", "json"},
		{"nagios", 0, "nagios", "table"},
		{"prometheus", 0, "prometheus", "table"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, talk screen
			term := terminal{out: &out, err: &talk, width: tt.width}
			c := doctorCmd{Format: tt.format, outputFlags: outputFlags{Output: tt.output}}
			if err := c.print(term.printable(), hostile()); err != nil {
				t.Fatal(err)
			}
			golden(t, "doctor_"+tt.name, out.String()+"--- beside it\n"+talk.String())
			if strings.ContainsAny(out.String()+talk.String(), "\x1b\x07\u202e") {
				t.Error("a terminal obeys what it prints")
			}
			if tt.format == "nagios" && strings.Count(out.String(), "\n") != 1 {
				t.Errorf("it prints %q; want one line", &out)
			}
		})
	}
}

func TestDoctor_Result(t *testing.T) {
	t.Parallel()
	report := func(statuses ...doctor.Status) *doctor.Report {
		r := &doctor.Report{Counts: map[doctor.Status]int{}}
		for _, s := range statuses {
			r.Counts[s]++
			r.Results = append(r.Results, doctor.Result{Code: "HG-STR-001", Status: s})
		}
		return r
	}
	unreached := report(doctor.OK)
	unreached.Unanswered = errNotReached
	unreached.Counts[doctor.Fail]++
	unreached.Results = append(unreached.Results, doctor.Result{Code: "HG-NATS-001", Status: doctor.Fail})
	for _, tt := range []struct {
		name   string
		c      doctorCmd
		report *doctor.Report
		want   int
	}{
		{"ok", doctorCmd{}, report(doctor.OK, doctor.Skipped), 0},
		{"warn", doctorCmd{}, report(doctor.OK, doctor.Warn), 0},
		{"warn, strict", doctorCmd{Strict: true}, report(doctor.OK, doctor.Warn), 1},
		{"fail", doctorCmd{}, report(doctor.OK, doctor.Warn, doctor.Fail), 1},
		{"no connection", doctorCmd{}, unreached, 3},
		{"nagios, ok", doctorCmd{Format: "nagios"}, report(doctor.OK, doctor.Skipped), 0},
		{"nagios, warn", doctorCmd{Format: "nagios"}, report(doctor.Warn), 1},
		{"nagios, warn, strict", doctorCmd{Format: "nagios", Strict: true}, report(doctor.Warn), 2},
		{"nagios, fail", doctorCmd{Format: "nagios"}, report(doctor.Warn, doctor.Fail), 2},
		{"nagios, no connection", doctorCmd{Format: "nagios"}, unreached, 2},
		{"nagios, nothing examined", doctorCmd{Format: "nagios"}, report(doctor.Skipped), 3},
	} {
		if got := exitCode(t.Context(), tt.c.result(tt.report)); got != tt.want {
			t.Errorf("%s: exit %d; want %d", tt.name, got, tt.want)
		}
	}
}

// doctored decodes the report of a command.
func doctored(t testing.TB, c *command) map[string]doctor.Result {
	t.Helper()
	var r doctor.Report
	if err := json.Unmarshal([]byte(c.out.String()), &r); err != nil {
		t.Fatalf("%v in %s%s", err, &c.out, &c.err)
	}
	all := map[string]doctor.Result{}
	for _, one := range r.Results {
		all[one.Code] = one
	}
	return all
}

func TestDoctor_ExaminesWithoutNATS(t *testing.T) {
	t.Parallel()
	unsafe := monitor(t, 200, `{"server_name":"nats-1","version":"2.15.2","jetstream":{"config":{"max_storage":1000},"stats":{"storage":10},"meta":{"leader":"nats-1"}}}`)
	c := headgate(t, 3, "doctor", "-o", "json", "--nats-url", "nats://user:hunter2@127.0.0.1:1", "--connect-timeout", "100ms", "--monitor-url", unsafe)
	all := doctored(t, c)
	for code, want := range map[string]doctor.Status{"HG-NATS-001": doctor.Fail, "HG-NATS-003": doctor.Skipped, "HG-STR-001": doctor.Skipped, "HG-SET-002": doctor.OK, "HG-SRV-003": doctor.Fail} {
		if all[code].Status != want {
			t.Errorf("%s = %+v; want %s", code, all[code], want)
		}
	}
	contains(t, c.err.String(), "cannot reach NATS at nats://127.0.0.1:1")
	if strings.Contains(c.out.String()+c.err.String(), "hunter2") {
		t.Errorf("it shows the password: %s%s", &c.out, &c.err)
	}
}

func TestDoctor_RefusesWrongUsage(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"--only HG-NOTHING":                  "headgate doctor --list",
		"--only [":                           "--only",
		"--wait=-1s":                         "--wait must not be negative",
		"--format xml":                       "--format",
		"--bundle " + there:                  "exists",
		"--monitor-url http://u:hunter2@":    "--monitor-url",
		"--metrics-url ftp://u:hunter2@host": "--metrics-url",
	} {
		c := headgate(t, 2, strings.Fields("doctor "+args)...)
		contains(t, c.err.String(), says)
		if strings.Contains(c.err.String(), "hunter2") {
			t.Errorf("it shows the password: %s", &c.err)
		}
	}
	c := headgate(t, 2, "doctor", "--only", "HG-SET-002,HG-NATS-001", "--nats-creds", there+"/none")
	contains(t, c.out.String(), "fail\tHG-SET-002", "fail\tHG-NATS-001")
}

func TestDoctor_ListsChecks(t *testing.T) {
	t.Parallel()
	if lines := headgate(t, 0, "doctor", "--list").out.lines(); len(lines) != len(doctor.Checks()) {
		t.Errorf("it lists %d checks; want %d", len(lines), len(doctor.Checks()))
	}
}

// The document is as the schema says.
func TestDoctor_JSONIsAsItsSchema(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/schemas/doctor.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("doctor.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("doctor.json")
	if err != nil {
		t.Fatal(err)
	}
	r := newBroker(t, builtinSpecs()...)
	c := r.headgate(0, "doctor", "-o", "json", "--wait", "2m")
	instance, err := jsonschema.UnmarshalJSON(strings.NewReader(c.out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(instance); err != nil {
		t.Errorf("%v in %s", err, &c.out)
	}
	if err := schema.Validate(map[string]any{"version": "1"}); err == nil {
		t.Error("the schema takes a document without results")
	}
}

// A check that could not be made has not passed, also when the check of the connection is not among those to make.
func TestDoctor_FailsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for args, code := range map[string]int{
		"--only HG-STR-001":                     3,
		"--only HG-STR-001,HG-SET-001":          3,
		"--only HG-STR-001 --format nagios":     3,
		"--only HG-SET-001":                     0,
		"--only HG-SET-001 --format nagios":     0,
		"--only HG-NATS-001":                    3,
		"--only HG-STR-001 --wait 2500ms":       3,
		"--only HG-STR-001 --format prometheus": 3,
	} {
		headgate(t, code, append(strings.Fields("doctor "+args), "--nats-url", "nats://127.0.0.1:1")...)
	}
}

func TestDoctor_WaitsUntilNothingFails(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	headgate(t, 1, "doctor", "--only", "HG-STR-001", "--nats-url", s.URL)
	c := begin(t, "", "doctor", "--only", "HG-STR-001", "--wait", "2m", "--nats-url", s.URL)
	headgate(t, 0, "provision", "--nats-url", s.URL)
	c.exit(0)
	contains(t, c.out.String(), "ok\tHG-STR-001")
}

// The endpoints and the metrics of processes are what Codat's stand-in and a process answer.
func TestDoctor_AsksCodatAndProcesses(t *testing.T) {
	t.Parallel()
	r := newBroker(t, builtinSpecs()...)
	key := filepath.Join(t.TempDir(), "codat")
	if err := os.WriteFile(key, []byte("codat-api-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	standIn, err := codattest.Start(codattest.Options{Key: "codat-api-key"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standIn.Close)
	id := standIn.AddEndpoint(codattest.Endpoint{URL: "https://user:hunter2@hooks.example.com/"})
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE headgate_ready gauge\nheadgate_ready 0\n# TYPE headgate_ingress_key_matches_total counter\nheadgate_ingress_key_matches_total{key=\"deadbeef\"} 3\n")
	}))
	t.Cleanup(metrics.Close)
	args := []string{"doctor", "-o", "json", "--only", "HG-COD-*,HG-PRC-*,HG-KEY-*", "--codat-key-file", key, "--codat-url", standIn.URL(), "--metrics-url", metrics.URL}
	all := doctored(t, r.headgate(1, args...))
	for code, want := range map[string]doctor.Status{"HG-COD-001": doctor.OK, "HG-COD-002": doctor.OK, "HG-PRC-001": doctor.OK, "HG-PRC-002": doctor.Fail, "HG-KEY-004": doctor.OK} {
		if all[code].Status != want {
			t.Errorf("%s = %+v; want %s", code, all[code], want)
		}
	}
	standIn.SetDisabled(id, true)
	if got := doctored(t, r.headgate(1, args...))["HG-COD-002"]; got.Status != doctor.Fail || !strings.Contains(got.Measured, id) {
		t.Errorf("HG-COD-002 = %+v; want it to fail with %s", got, id)
	}
}

// Text of other programs is escaped, and stays out of the archive.
func TestDoctor_EscapesForeignText(t *testing.T) {
	t.Parallel()
	r := newBroker(t, builtinSpecs()...)
	publish := func() {
		for _, version := range []string{"v1\x1b[2J", "v2\n\u202e"} {
			body, err := json.Marshal(inspect.Instance{Worker: "reads", Instance: version, Version: version, Seen: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.JS.Publish(t.Context(), fmt.Sprintf("$KV.CODAT_workers.reads.%x", version), body); err != nil {
				t.Fatal(err)
			}
		}
	}
	for format, code := range map[string]int{"": 0, "prometheus": 0, "nagios": 1} {
		streamtest.Wait(t, func() bool {
			publish() // an entry expires after a minute
			c := begin(t, "", "doctor", "-o", "wide", "--only", "HG-WRK-002", "--format="+format, "--nats-url", r.URL)
			<-c.ended
			text := c.out.String() + c.err.String()
			if strings.ContainsAny(text, "\x1b\u202e") {
				t.Fatalf("%q prints %q", format, text)
			}
			return c.code == code && strings.Contains(text, "HG-WRK-002")
		}, "the versions are noticed")
	}
}

// secrets are planted in every place that headgate doctor reads, or from which a text could come that it prints.
const (
	plantedKey      = "whsec_3UrFiHsCnvxXwb0MbJLvvCLtUvTLtvXI"
	plantedAPIKey   = "codat-api-key-9d2f"
	plantedPassword = "hunter2hunter2"
	plantedCompany  = "Wayne Enterprises"
)

// plant stores secrets in an installation, and returns the arguments with which doctor reads all of it.
func plant(t *testing.T, r *broker) []string {
	t.Helper()
	folder := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	publish := func(subject, body string, headers nats.Header) {
		if _, err := r.JS.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte(body), Header: headers}); err != nil {
			t.Fatal(err)
		}
	}
	text := plantedCompany + " " + plantedKey + " " + plantedPassword + " Bearer " + plantedAPIKey
	body := fmt.Sprintf(`{"companyName":%q}`, text)
	headers := nats.Header{"headgate-cause": {text}, "headgate-last-error": {text}, "headgate-company": {text}, "webhook-signature": {text}}
	for _, subject := range []string{"codat.events.company.created", "codat.quarantine", "codat.dead.reads.company.created", "codat.parked.reads.company.created"} {
		publish(subject, body, headers)
	}
	instance, err := json.Marshal(inspect.Instance{Worker: "reads", Instance: "a", Version: "v1", Host: plantedCompany, CannotClaim: text, Seen: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	publish("$KV.CODAT_workers.reads.a", string(instance), nil)
	publish("$KV.CODAT_connections.x.y", body, nil)
	publish("$KV.CODAT_expected.overdue.key-1", fmt.Sprintf(`{"kind":"overdue","pushOperationKey":%q,"company":%q,"due":"2026-01-01T00:00:00Z"}`, text, text), nil)

	standIn, err := codattest.Start(codattest.Options{Key: plantedAPIKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standIn.Close)
	standIn.AddEndpoint(codattest.Endpoint{URL: "https://user:" + plantedPassword + "@hooks.example.com/", CompanyTags: []string{"name:" + plantedCompany}})
	process := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE headgate_ready gauge\nheadgate_ready{process=%q} 0\n# TYPE headgate_worker_stuck_handlers gauge\nheadgate_worker_stuck_handlers{worker=%q} 1\n", text, plantedKey)
	}))
	t.Cleanup(process.Close)
	unhealthy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, `{"server_name":"nats-1","error":%q}`, text)
	}))
	t.Cleanup(unhealthy.Close)
	withPassword := func(address string) string {
		return strings.Replace(address, "://", "://user:"+plantedPassword+"@", 1)
	}
	return []string{
		"--nats-url", withPassword(r.URL), "--secret-file", write("keys", plantedKey+"\nnot a key "+plantedPassword+"\n"), "--codat-key-file", write("codat", plantedAPIKey+"\n"),
		"--codat-url", standIn.URL(), "--metrics-url", withPassword(process.URL), "--monitor-url", withPassword(unhealthy.URL),
		"--spec", write("spec.json", `{"name":"billing","types":["company.created"]}`),
	}
}

func TestDoctor_BundleHasNoSecret(t *testing.T) {
	r := newBroker(t, builtinSpecs()...)
	t.Setenv("HEADGATE_SECRET", plantedKey)
	t.Setenv("HEADGATE_UNKNOWN", plantedPassword)
	name := filepath.Join(t.TempDir(), "case.tar.gz")
	c := headgate(t, 1, append([]string{"doctor", "-o", "wide", "--bundle", name}, plant(t, r)...)...)
	files := unpack(t, name)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive has the mode %v, %v; want that only its owner reads it", info.Mode(), err)
	}
	for _, want := range []string{"README.txt", "report.json", "snapshot.json", "provision.json", "program.json"} {
		if len(files["headgate-doctor/"+want]) == 0 {
			t.Errorf("the archive has no %s", want)
		}
	}
	contains(t, files["headgate-doctor/program.json"], "HEADGATE_SECRET")
	contains(t, files["headgate-doctor/snapshot.json"], `"CODAT_DEAD"`)
	contains(t, files["headgate-doctor/report.json"], "HG-SRV-002", "HEADGATE_UNKNOWN")
	files["what it prints"] = c.out.String() + c.err.String()
	for file, text := range files {
		for _, secret := range []string{plantedKey, strings.TrimPrefix(plantedKey, "whsec_"), plantedAPIKey, plantedPassword} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q:\n%s", file, secret, text)
			}
		}
		if file != "what it prints" && strings.Contains(text, plantedCompany) {
			t.Errorf("%s has the name of a company:\n%s", file, text)
		}
	}
}

// unpack returns the files of an archive.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(compressed); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}
