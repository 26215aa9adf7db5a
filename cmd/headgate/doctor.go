package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// doctorCmd examines the installation. It changes nothing.
type doctorCmd struct {
	Only   []string      `name:"only" env:"-" placeholder:"CODE" help:"Make only the checks with these codes; * stands for any characters: HG-NATS-*."`
	List   bool          `name:"list" env:"-" help:"List the checks and make none."`
	Wait   time.Duration `name:"wait" env:"-" help:"Examine again every two seconds until nothing fails and NATS answers, for this long at most."`
	Format string        `name:"format" env:"-" default:"" enum:",nagios,prometheus" help:"Print for a monitoring system instead: nagios is one line and the exit codes of its plugins, 0 ok, 1 warning, 2 critical, 3 unknown; prometheus is metrics in text form."`
	Strict bool          `name:"strict" env:"-" help:"Count a warning as a failure."`
	Bundle string        `name:"bundle" env:"-" type:"path" placeholder:"FILE" help:"Also write an archive (tar.gz) for a support case to this new file. It has no payload, no key and no name of a company."`

	MonitorURL   []string          `name:"monitor-url" placeholder:"URL" help:"Monitoring address of a NATS server, such as http://nats-1:8222; give one for each server."`
	MetricsURL   []string          `name:"metrics-url" placeholder:"URL" help:"Metrics of a process, such as http://ingress:9090/metrics; give one for each process."`
	ServerMemory process.ByteSize  `name:"server-memory" env:"-" placeholder:"SIZE" help:"Memory that each NATS server may use, such as 2GiB."`
	SecretFile   process.FileNames `name:"secret-file" placeholder:"FILE" help:"File of the signing secrets, as the ingress has it."`
	MaxBody      process.ByteSize  `name:"max-body" default:"1MiB" help:"Largest body of the ingress."`
	Spec         []string          `name:"spec" env:"-" sep:"none" type:"existingfile" placeholder:"FILE" help:"What the --spec of a worker that is not built in printed: compare its objects too."`
	Codat        api.Settings      `embed:""`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a command line that cannot be used. Wrong settings of NATS are a finding.
func (c *doctorCmd) Validate() error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Wait < 0 {
		return fmt.Errorf("--wait must not be negative (got %s)", c.Wait)
	}
	if err := doctor.ValidateOnly(c.Only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if c.Codat.Enabled() {
		if err := c.Codat.Validate(); err != nil {
			return err
		}
	}
	if c.Bundle != "" {
		if _, err := os.Lstat(c.Bundle); err == nil {
			return fmt.Errorf("--bundle: %s exists: give the name of a new file", c.Bundle)
		}
	}
	if err := errors.Join(validateAddresses("--monitor-url", c.MonitorURL), validateAddresses("--metrics-url", c.MetricsURL)); err != nil {
		return err
	}
	_, err := c.layout()
	return err
}

// validateAddresses returns an error for an address of a NATS server's monitoring port, or of metrics, that cannot be one.
func validateAddresses(flag string, addresses []string) error {
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Contains(u.Path, "@") || flag == "--monitor-url" && u.RawQuery+u.Fragment != "" {
			return fmt.Errorf("%s must be a URL, such as http://nats-1:8222 or http://ingress:9090/metrics (got %q)", flag, withoutUser(address))
		}
	}
	return nil
}

func (c *doctorCmd) layout() (stream.Layout, error) {
	own, err := readSpecs(c.Spec)
	if err != nil {
		return stream.Layout{}, err
	}
	l := stream.Layout{Source: c.Source, Workers: append(builtinSpecs(), own...)}
	return l, l.Validate()
}

// errUnwell makes the exit code 1.
var errUnwell = errors.New("something is wrong")

// Run examines, and prints the report.
func (c *doctorCmd) Run(ctx context.Context, t *terminal) error {
	if c.List {
		return checkList.print(t, listFlags{outputFlags: c.outputFlags}, all(doctor.Checks()))
	}
	o, done, err := c.options(t)
	if err != nil {
		return err
	}
	defer done()
	r, err := c.examine(ctx, o)
	if err != nil {
		return err
	}
	if c.Bundle != "" {
		if err := writeBundle(c.Bundle, r, o); err != nil {
			return fmt.Errorf("--bundle: %w", err)
		}
		fmt.Fprintf(t.err, "%s has the archive: read it before you send it\n", c.Bundle)
	}
	if err := c.print(t, r); err != nil {
		return err
	}
	return c.result(r)
}

// waitEvery is the time between two examinations.
const waitEvery = 2 * time.Second

// examine examines until nothing fails and nothing lacks an answer, or the time to wait is over.
func (c *doctorCmd) examine(ctx context.Context, o doctor.Options) (*doctor.Report, error) {
	late := time.Now().Add(c.Wait)
	for {
		r, err := doctor.Examine(ctx, o)
		if err != nil || !c.fails(r) && r.Unanswered == nil || time.Until(late) < waitEvery {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(waitEvery):
		}
	}
}

func (c *doctorCmd) fails(r *doctor.Report) bool {
	return r.Counts[doctor.Fail] > 0 || c.Strict && r.Counts[doctor.Warn] > 0
}

// result is the error that makes the exit code. When NATS was not reached, it is that of the connection; when nothing fails, but a check
// lacks an answer, that of the request.
func (c *doctorCmd) result(r *doctor.Report) error {
	connection := slices.ContainsFunc(r.Results, func(one doctor.Result) bool { return one.Code == "HG-NATS-001" && one.Status == doctor.Fail })
	switch {
	case c.Format == "nagios":
		if state := c.nagiosState(r); state > 0 {
			return exitWith{state, fmt.Errorf("%w: the line above says what", errUnwell)}
		}
		return nil
	case connection:
		return r.Unanswered
	case c.fails(r):
		return fmt.Errorf("%w: %s, %s", errUnwell, plural(r.Counts[doctor.Fail], "failure"), plural(r.Counts[doctor.Warn], "warning"))
	}
	return r.Unanswered
}

// options are what to examine. done closes the client of Codat's API.
func (c *doctorCmd) options(t *terminal) (o doctor.Options, done func(), err error) {
	layout, err := c.layout()
	if err != nil {
		return o, nil, err
	}
	warnings, err := unknownVariables()
	if err != nil {
		return o, nil, err
	}
	var unknown []string
	for _, w := range warnings {
		name, _, _ := strings.Cut(strings.TrimPrefix(w, "unknown environment variable "), ":")
		unknown = append(unknown, name)
	}
	o = doctor.Options{
		Source: c.Source, NATS: c.NATS, Layout: layout, Monitors: c.MonitorURL, ServerMemory: int64(c.ServerMemory), MaxBody: int64(c.MaxBody),
		Variables: unknown, SecretFiles: c.SecretFile, CodatKeyFile: c.Codat.CodatKeyFile, MaxEndpoints: api.MaxWebhooks, Only: c.Only,
		Connect: func(ctx context.Context) (jetstream.JetStream, func(), error) {
			// What the user may not do is a finding, and no line of a log.
			nc, err := c.connect(ctx, &terminal{in: t.in, out: t.out, err: io.Discard})
			if err != nil {
				return nil, nil, err
			}
			return nc, nc.close, nil
		},
	}
	if len(c.MetricsURL) > 0 {
		o.Processes = c.scrapeAll
	}
	if !c.Codat.Enabled() {
		return o, func() {}, nil
	}
	client, err := api.New(c.Codat, prometheus.NewRegistry())
	if err != nil {
		return o, nil, process.Misconfigured(err)
	}
	o.Endpoints = func(ctx context.Context) ([]doctor.Endpoint, error) {
		all, err := client.Webhooks(ctx)
		endpoints := make([]doctor.Endpoint, len(all))
		for i, w := range all {
			endpoints[i] = doctor.Endpoint{ID: w.ID, Disabled: w.Disabled, Types: w.EventTypes}
		}
		return endpoints, err
	}
	return o, client.Close, nil
}

// defaultMaxBody is that of the ingress.
const defaultMaxBody = 1 << 20

// examineOnce makes the checks for another command. connect is nil for a connection of its own.
func (c *doctorCmd) examineOnce(ctx context.Context, connect func(context.Context) (jetstream.JetStream, func(), error)) (*doctor.Report, error) {
	o, done, err := c.options(&terminal{out: io.Discard, err: io.Discard, now: time.Now})
	if err != nil {
		return nil, err
	}
	defer done()
	if connect != nil {
		o.Connect = connect
	}
	return doctor.Examine(ctx, o)
}

// scrapeAll reads the metrics of each process.
func (c *doctorCmd) scrapeAll(ctx context.Context) []doctor.Process {
	var all []doctor.Process
	for _, address := range c.MetricsURL {
		u, err := url.Parse(address)
		if err != nil {
			continue // Validate has parsed it
		}
		p := doctor.Process{Address: u.Host}
		families, err := scrape(ctx, address)
		p.Err = err
		for _, f := range families {
			for _, m := range f.GetMetric() {
				p.Metrics = append(p.Metrics, doctorMetric(f.GetName(), m))
			}
		}
		all = append(all, p)
	}
	return all
}

func doctorMetric(name string, m *dto.Metric) doctor.Metric {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	return doctor.Metric{Name: name, Labels: labels, Value: m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()}
}

// writeBundle writes the archive to a new file that only its owner can read.
func writeBundle(name string, r *doctor.Report, o doctor.Options) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	p := doctor.Program{Version: process.Version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Settings: []string{}}
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "HEADGATE_") || strings.HasPrefix(name, "NATS_") {
			p.Settings = append(p.Settings, name)
		}
	}
	slices.Sort(p.Settings)
	if err := errors.Join(r.WriteBundle(f, o, p), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

var checkList = listing[doctor.Check]{
	noun: "check",
	id:   func(c doctor.Check) string { return c.Code },
	columns: []column[doctor.Check]{
		{name: "CODE", cell: func(c doctor.Check) cell { return textCell(c.Code) }},
		{name: "CHECK", cell: func(c doctor.Check) cell { return textCell(c.Name) }},
		{name: "WANTED", cell: func(c doctor.Check) cell { return textCell(c.Threshold) }},
	},
}

var resultList = listing[doctor.Result]{
	noun: "check",
	id:   func(r doctor.Result) string { return r.Code },
	columns: []column[doctor.Result]{
		{name: "STATUS", cell: func(r doctor.Result) cell { return stateCell(string(r.Status), statusColors[r.Status]) }},
		{name: "CODE", cell: func(r doctor.Result) cell { return idCell(r.Code) }},
		{name: "CHECK", cell: func(r doctor.Result) cell { return textCell(r.Check) }},
		{name: "MEASURED", cell: func(r doctor.Result) cell { return textCell(cmp.Or(r.Measured, r.Reason)) }},
		{name: "DETAIL", wide: true, cell: func(r doctor.Result) cell { return textCell(r.Detail) }},
		{name: "WANTED", wide: true, cell: func(r doctor.Result) cell { return textCell(r.Threshold) }},
		{name: "CURE", wide: true, cell: func(r doctor.Result) cell { return textCell(r.Cure) }},
		{name: "SEE", wide: true, cell: func(r doctor.Result) cell { return textCell(r.Runbook) }},
	},
}

var statusColors = map[doctor.Status]color{doctor.OK: green, doctor.Warn: yellow, doctor.Fail: red}

// all is a scan of a list that is there.
func all[T any](items []T) func(func(T) error) error {
	return func(each func(T) error) error {
		for _, v := range items {
			if err := each(v); err != nil {
				return err
			}
		}
		return nil
	}
}

// print prints the report. People also get the cures, beside it.
func (c *doctorCmd) print(t *terminal, r *doctor.Report) error {
	switch {
	case c.Format == "nagios":
		return c.printNagios(t.out, r)
	case c.Format == "prometheus":
		return printDoctorMetrics(t.out, r)
	case c.format() == outputJSON:
		return printJSON(t.out, r)
	}
	if err := resultList.print(t, listFlags{outputFlags: c.outputFlags}, all(r.Results)); err != nil || !c.forPeople() {
		return err
	}
	for _, one := range r.Results {
		if one.Cure != "" {
			fmt.Fprint(t.err, cureText(one))
		}
	}
	fmt.Fprintf(t.err, "%d ok, %d warn, %d fail, %d skipped\n", r.Counts[doctor.OK], r.Counts[doctor.Warn], r.Counts[doctor.Fail], r.Counts[doctor.Skipped])
	return nil
}

// cureText is what people read of a warning or failure.
func cureText(r doctor.Result) string {
	text := fmt.Sprintf("%s %s: %s\n", r.Code, printable(r.Check), printable(r.Measured))
	rows := [][2]string{{"says", r.Detail}, {"want", r.Threshold}, {"cure", r.Cure}, {"see", r.Runbook}}
	for _, row := range rows {
		if row[1] != "" {
			text += fmt.Sprintf("    %-4s %s\n", row[0], printable(row[1]))
		}
	}
	return text
}

// nagiosState is the exit code of a plugin.
func (c *doctorCmd) nagiosState(r *doctor.Report) int {
	switch worst := r.Worst(); {
	case worst == doctor.Fail, worst == doctor.Warn && c.Strict:
		return 2
	case r.Unanswered != nil:
		return 3
	case worst == doctor.Warn:
		return 1
	case worst == doctor.OK:
		return 0
	}
	return 3
}

// printNagios prints one line: the state, what is wrong, and the counts as performance data.
func (c *doctorCmd) printNagios(w io.Writer, r *doctor.Report) error {
	var wrong []string
	for _, status := range []doctor.Status{doctor.Fail, doctor.Warn} {
		for _, one := range r.Results {
			if one.Status == status {
				text := one.Code + " " + one.Check + ": " + one.Measured
				wrong = append(wrong, strings.ReplaceAll(printable(text), "|", "/")) // what follows | is performance data
			}
		}
	}
	if wrong == nil {
		wrong = []string{plural(r.Counts[doctor.OK], "check") + " ok"}
	}
	state := []string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[c.nagiosState(r)]
	_, err := fmt.Fprintf(w, "HEADGATE %s - %s | ok=%d warn=%d fail=%d skipped=%d\n", state, strings.Join(wrong, "; "),
		r.Counts[doctor.OK], r.Counts[doctor.Warn], r.Counts[doctor.Fail], r.Counts[doctor.Skipped])
	return err
}

// printDoctorMetrics prints metrics in the text form of Prometheus, for the textfile collector.
func printDoctorMetrics(w io.Writer, r *doctor.Report) error {
	var b strings.Builder
	b.WriteString("# HELP headgate_doctor_check The status of a check of headgate doctor: the one with the value 1.\n# TYPE headgate_doctor_check gauge\n")
	for _, one := range r.Results {
		for _, status := range doctor.Statuses {
			value := 0
			if one.Status == status {
				value = 1
			}
			fmt.Fprintf(&b, "headgate_doctor_check{source=%q,code=%q,status=%q} %d\n", string(r.Source), one.Code, string(status), value)
		}
	}
	fmt.Fprintf(&b, "# HELP headgate_doctor_timestamp_seconds When headgate doctor examined.\n# TYPE headgate_doctor_timestamp_seconds gauge\nheadgate_doctor_timestamp_seconds{source=%q} %d\n", string(r.Source), r.At.Unix())
	_, err := io.WriteString(w, b.String())
	return err
}
