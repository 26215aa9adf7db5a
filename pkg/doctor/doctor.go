// Package doctor examines an installation: its settings and keys, NATS, the streams, consumers and workers of a source, the
// endpoints at Codat, and the processes whose metrics it is given. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// Version is the version of a Report as JSON. It changes when a reader of the version before would misread it.
const Version = 1

// Options say what to examine. What is nil or empty leads to checks that are skipped, and say why.
type Options struct {
	Source stream.Source
	NATS   stream.NATS
	// Connect connects to NATS; done ends the connection.
	Connect func(context.Context) (js jetstream.JetStream, done func(), err error)
	// Layout is what headgate provision would make.
	Layout   stream.Layout
	Monitors []string // monitoring addresses of the NATS servers
	// ServerMemory is how many bytes of memory each NATS server may use; 0 when unknown.
	ServerMemory int64
	MaxBody      int64    // largest body in bytes that the ingress takes
	Variables    []string // names of environment variables that no program of Headgate reads
	SecretFiles  []string // files or folders of the signing secrets of the endpoints
	CodatKeyFile string   // file of the API key of Codat; "" without one
	// Endpoints returns the endpoints at Codat; nil without an API key.
	Endpoints func(context.Context) ([]Endpoint, error)
	// MaxEndpoints is how many endpoints Codat allows.
	MaxEndpoints int
	// Processes returns what the processes of Headgate export as metrics; nil when no address of one is known.
	Processes func(context.Context) []Process
	// Only are the codes of the checks to make, as patterns of path.Match; all when it is empty.
	Only []string
}

// An Endpoint is an endpoint that Codat posts to.
type Endpoint struct {
	ID       string
	Disabled bool     // by Codat, after five days of failures
	Types    []string // of events; none are all
}

// A Process is what one process of Headgate exports.
type Process struct {
	Address string // host and port
	Err     error  // why it did not answer
	Metrics []Metric
}

// A Metric is one value of a process.
type Metric struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// A Status is the result of a check.
type Status string

// The statuses, from the least to the most severe.
const (
	Skipped Status = "skipped" // it could not be examined: the reason says why
	OK      Status = "ok"
	Warn    Status = "warn" // for the same day
	Fail    Status = "fail" // events are lost, refused or late, or soon will be
)

// Statuses are all statuses.
var Statuses = []Status{Skipped, OK, Warn, Fail}

// A Result is what a check has found.
type Result struct {
	Code      string `json:"code"` // stable: a later version has the same code for the same check
	Check     string `json:"check"`
	Status    Status `json:"status"`
	Measured  string `json:"measured,omitempty"`
	Detail    string `json:"detail,omitempty"` // what another program says of it, such as a NATS server
	Threshold string `json:"threshold"`
	Reason    string `json:"reason,omitempty"` // why it is skipped
	Cure      string `json:"cure,omitempty"`   // of a warning or failure
	Runbook   string `json:"runbook"`          // the section of docs/operate.md
}

// A Report is the result of an examination.
type Report struct {
	Version int            `json:"version"`
	Source  stream.Source  `json:"source"`
	At      time.Time      `json:"at"`
	Counts  map[Status]int `json:"counts"`
	Results []Result       `json:"results"`

	// Unanswered is why NATS was not reached or did not answer in time, and nil when every check that needs an answer has it.
	Unanswered error `json:"-"`
	snapshot   inspect.Snapshot
	changes    []stream.Change
	server     serverInfo
}

// Worst returns the most severe status of the results.
func (r *Report) Worst() Status {
	worst := Skipped
	for _, one := range r.Results {
		if slices.Index(Statuses, one.Status) > slices.Index(Statuses, worst) {
			worst = one.Status
		}
	}
	return worst
}

// Runbook is the page whose sections the checks name.
const Runbook = "docs/operate.md"

// A Check is the description of a check.
type Check struct {
	Code      string `json:"code"`
	Name      string `json:"check"`
	Threshold string `json:"threshold"`
	Anchor    string `json:"anchor"`
}

// Checks returns the descriptions of all checks in the order of a report.
func Checks() []Check {
	all := make([]Check, len(checks))
	for i, c := range checks {
		all[i] = Check{c.code, c.name, c.threshold, c.anchor}
	}
	return all
}

// ValidateOnly returns an error for a pattern that matches the code of no check.
func ValidateOnly(patterns []string) error {
	for _, p := range patterns {
		matches := func(c check) bool {
			ok, err := path.Match(p, c.code)
			return ok && err == nil
		}
		if !slices.ContainsFunc(checks, matches) {
			return fmt.Errorf("no check has a code like %q: headgate doctor --list lists them", p)
		}
	}
	return nil
}

// A need is what a check examines. Without it the check is skipped.
type need int

const (
	nothing need = iota
	connection
	account    // JetStream answers
	streams    // the state of streams
	eventsKept // the stream of the events exists and answers
	consumers  // the state of consumers
	instances  // the entries of running workers
	messages   // when single messages were stored
	servers    // the monitoring addresses of the servers
	provision  // the differences to what provision makes
	expected   // the records of headgate watch
	quotaTold  // the record of the quota
	codatAPI
	processes // the metrics of processes
)

// A check examines one thing.
type check struct {
	code, name, threshold, anchor string
	needs                         need
	examine                       func(*facts) finding
}

// checks are all checks, in the order in which a cause comes before what follows from it.
var checks = slices.Concat(settingsChecks, keyChecks, natsChecks, serverChecks, clockChecks, streamChecks, consumerChecks, workerChecks, eventChecks, codatChecks, processChecks)

// A finding is the result of a check without its description.
type finding struct {
	status                         Status
	measured, detail, reason, cure string
}

func ok(measured string) finding { return finding{status: OK, measured: measured} }
func warn(measured, cure string) finding {
	return finding{status: Warn, measured: measured, cure: cure}
}

func fail(measured, cure string) finding {
	return finding{status: Fail, measured: measured, cure: cure}
}
func skip(reason string) finding { return finding{status: Skipped, reason: reason} }

// graded is a failure when failed holds, a warning when warned holds, and otherwise ok.
func graded(failed, warned bool, measured, cure string) finding {
	switch {
	case failed:
		return fail(measured, cure)
	case warned:
		return warn(measured, cure)
	}
	return ok(measured)
}

// Examine makes the checks. What cannot be examined is skipped; it returns an error only when ctx has ended.
func Examine(ctx context.Context, o Options) (*Report, error) {
	f := gather(ctx, o)
	defer f.close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return f.report(), nil
}

// report makes the checks.
func (f *facts) report() *Report {
	r := &Report{Version: Version, Source: f.Source, At: f.now.UTC(), Counts: map[Status]int{}, snapshot: f.snapshot, changes: f.changes, server: f.server}
	for _, s := range Statuses {
		r.Counts[s] = 0
	}
	scrub := newScrubber(f.Options)
	for _, c := range checks {
		if !f.makes(c.code) {
			continue
		}
		found := skip(f.reason(c.needs))
		if found.reason == "" || c.needs == nothing {
			found = c.examine(f)
		}
		if r.Unanswered == nil {
			r.Unanswered = f.unanswered(c)
		}
		r.Counts[found.status]++
		r.Results = append(r.Results, Result{
			Code: c.code, Check: c.name, Status: found.status, Measured: scrub.text(found.measured), Detail: scrub.text(found.detail), Threshold: c.threshold,
			Reason: scrub.text(found.reason), Cure: scrub.text(found.cure), Runbook: Runbook + "#" + c.anchor,
		})
	}
	return r
}

// makes reports whether a check is among those to make.
func (o Options) makes(code string) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, func(p string) bool {
		matches, err := path.Match(p, code)
		return matches && err == nil
	})
}

// listed returns the names in order, at most five of them.
func listed(names []string) string {
	const most = 5
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if more := len(names) - most; more > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// span returns a duration for people: with two units at most.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + span(-d)
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
