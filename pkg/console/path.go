package console

import (
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/state"
)

// A level says how a value is to be taken. It is shown as a shape, a word and a colour.
type level string

const (
	good    level = "ok"
	waiting level = "wait" // a person may want to look at it
	alarm   level = "bad"  // an alert rule fires, or would
	neutral level = "none"
)

// A station is a part of the path of an event.
type station struct {
	Name, Href string
	Big, Unit  string // the value that counts most
	Rows       []row
	Trend      template.HTML
	Alarm      bool
	Empty      string // what to do about a station without values
}

// A row is a value with its name. Href leads to what is counted.
type row struct {
	Name, Value, Href string
	Level             level
}

// A workerRow is what the path shows of a worker.
type workerRow struct {
	Name                      string
	State                     string
	Level                     level
	Lag                       uint64
	InFlight, Instances, Dead int
	DeadMore                  bool
	Parked                    uint64
	Oldest                    *time.Duration
	OldestAlarm               bool
	Text                      string
}

// A pathView is what the first page shows.
type pathView struct {
	Loading, Stale bool
	Age            time.Duration
	Problem        string
	Stations       []station
	Workers        []workerRow
	Findings       []finding
	More           int // findings that are not shown
}

// servePath shows the path of an event.
func (c *Console) servePath(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, "path", c.pathOf(c.hub.facts(r.Context())))
}

// pathOf is the path as the hub knows it.
func (c *Console) pathOf(f facts) pathView {
	now := c.Now()
	p := pathView{Loading: f.seen.IsZero(), Stale: f.stale(now), Age: f.age(now), Problem: f.survey.problem}
	if f.err != nil {
		p.Problem = f.err.Error()
	}
	if p.Loading {
		return p
	}
	p.Workers = c.workerRows(f)
	findings := c.findings(f, p.Workers)
	p.Stations = []station{c.codatStation(f), c.ingressStation(f), c.streamStation(f), workersStation(f, p.Workers), c.stateStation(f)}
	for i := range p.Stations {
		p.Stations[i].Alarm = slices.ContainsFunc(findings, func(n finding) bool { return n.Level == alarm && n.Station == p.Stations[i].Name })
	}
	const shown = 10
	p.Findings = findings[:min(len(findings), shown)]
	p.More = len(findings) - len(p.Findings)
	return p
}

func (c *Console) codatStation(f facts) station {
	s := station{Name: "Codat", Href: "/events", Unit: "since the last event"}
	now, last := c.Now(), f.survey.snapshot.LastEvent
	s.Big = "–"
	if !last.IsZero() {
		s.Big = span(now.Sub(last).Round(time.Second))
	} else {
		s.Unit, s.Empty = "no event yet", "Send one: headgate send connection.connected"
	}
	if silent := f.survey.expected.kind[state.SilentType]; f.survey.expected.watched {
		s.Rows = append(s.Rows, row{Name: "silent types", Value: count(silent), Href: "/missing#silent", Level: levelIf(silent > 0, waiting)})
	}
	rates := f.survey.ingress.rates
	label := "requests a second over the last minute"
	if len(rates) == 0 {
		rates, label = f.rates, "events a second over the last minute"
	}
	s.Trend = area(label, rates, false)
	if in := f.survey.ingress; in.asked {
		signed := 0.0
		for reason, n := range in.lastHour {
			if reason != "path" && reason != "method" {
				signed += n
			}
		}
		text := "no request yet"
		switch {
		case signed >= 2 && in.accepted15 == 0:
			text = "refuses: Codat disables the endpoint after 5 days"
		case in.outcomes["accepted"]+in.outcomes["duplicate"] > 0:
			text = "accepts"
		}
		s.Rows = append(s.Rows, row{Name: "the endpoint", Value: text})
	}
	return s
}

// levelIf is a level when it holds, and neutral otherwise.
func levelIf(holds bool, l level) level {
	if holds {
		return l
	}
	return neutral
}

func (c *Console) ingressStation(f facts) station {
	in := f.survey.ingress
	s := station{Name: "Ingress", Href: "/refused", Big: "–", Unit: "requests/s"}
	if !in.asked {
		s.Empty = "Not measured: give the console the address of each ingress's metrics with --metrics-url."
		return s
	}
	if n := len(in.rates); n > 0 {
		s.Big = perSecond(in.rates[n-1])
	}
	refused := 0.0
	for _, n := range in.lastHour {
		refused += n
	}
	s.Rows = []row{
		{Name: "instances", Value: count(in.instances)},
		{Name: "accepted", Value: count(int(in.outcomes["accepted"])), Href: "/events"},
		{Name: "duplicates", Value: count(int(in.outcomes["duplicate"]))},
		{Name: "refused in an hour", Value: count(int(refused)), Href: "/refused", Level: levelIf(refused > 0, waiting)},
		{Name: "99 of 100 within", Value: short(in.slowest)},
	}
	s.Trend = area("requests a second over the last minute", in.rates, false)
	return s
}

// short is a duration, and a dash for none.
func short(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return span(d)
}

// perSecond is a number a second, with a decimal below 10.
func perSecond(n float64) string {
	if n < 9.95 && n > 0 {
		return fmt.Sprintf("%.1f", n)
	}
	return count(int(n + 0.5))
}

func (c *Console) streamStation(f facts) station {
	st := f.survey.stream(c.Source.Stream())
	s := station{Name: "Stream", Href: "/events", Big: "0", Unit: "stored/s"}
	if n := len(f.rates); n > 0 {
		s.Big = perSecond(mean(f.rates[max(0, n-3):]))
	}
	var stored uint64
	for _, n := range f.stored {
		stored += n
	}
	s.Rows = []row{{Name: "events", Value: count(stored), Href: "/events"}}
	for _, g := range busiest(f.typeRates, 2) {
		s.Rows = append(s.Rows, row{Name: g, Value: perSecond(f.typeRates[g]) + "/s", Href: "/events?type=" + url.QueryEscape(g)})
	}
	if st.MaxBytes > 0 {
		s.Rows = append(s.Rows, row{Name: "full", Value: fmt.Sprintf("%.1f%% of %s", 100*float64(st.Bytes)/float64(st.MaxBytes), byteSize(st.MaxBytes)), Level: levelIf(float64(st.Bytes) > 0.7*float64(st.MaxBytes), alarm)})
	}
	if !st.First.IsZero() {
		s.Rows = append(s.Rows, row{Name: "oldest", Value: span(c.Now().Sub(st.First).Round(time.Second))})
	}
	if st.Answered {
		s.Rows = append(s.Rows, row{Name: "replicas", Value: fmt.Sprintf("%d of %d", st.ReplicasCurrent, st.Replicas), Level: levelIf(st.ReplicasCurrent < st.Replicas, alarm)})
	}
	if text := fsync(f.survey.snapshot.Servers); text != "" {
		s.Rows = append(s.Rows, row{Name: "on disk before ack", Value: text})
	}
	s.Trend = area("events stored a second over the last minute", f.rates, false)
	return s
}

// fsync says whether the servers write to their disks before they acknowledge; "" when none says it.
func fsync(servers []inspect.Server) string {
	said, always := 0, 0
	for _, s := range servers {
		if s.SyncAlways != nil {
			said++
			if *s.SyncAlways {
				always++
			}
		}
	}
	switch {
	case said == 0:
		return ""
	case always == said:
		return "yes"
	}
	return fmt.Sprintf("%d of %d servers", always, said)
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}

// busiest are the types with the most events, at most n.
func busiest(rates map[string]float64, n int) []string {
	types := slices.Sorted(maps.Keys(rates))
	slices.SortStableFunc(types, func(a, b string) int {
		switch {
		case rates[a] > rates[b]:
			return -1
		case rates[a] < rates[b]:
			return 1
		}
		return 0
	})
	return types[:min(n, len(types))]
}

func workersStation(f facts, workers []workerRow) station {
	s := station{Name: "Workers", Href: "/workers", Big: "0", Unit: "deliveries/s", Trend: area("deliveries a second over the last minute", f.settled, false)}
	if len(workers) == 0 {
		s.Empty = "No worker is provisioned: run headgate provision, and start one."
	}
	if n := len(f.settled); n > 0 {
		s.Big = perSecond(mean(f.settled[max(0, n-3):]))
	}
	const shown = 5
	for _, w := range workers[:min(shown, len(workers))] {
		s.Rows = append(s.Rows, row{Name: w.Name, Value: w.Text, Href: "/workers/" + url.PathEscape(w.Name), Level: w.Level})
	}
	if more := len(workers) - shown; more > 0 {
		s.Rows = append(s.Rows, row{Name: fmt.Sprintf("%d more", more), Href: "/workers"})
	}
	return s
}

func (c *Console) stateStation(f facts) station {
	st := f.survey.states
	s := station{Name: "State", Href: "/connections", Big: "–", Unit: "connections linked"}
	if st.connections == nil && st.writes == nil {
		s.Empty = "No worker keeps state yet: start worker-connections, worker-writes and worker-reads."
		return s
	}
	s.Big = count(st.connections["Linked"])
	for _, status := range []string{"PendingAuth", "Deauthorized", "Suspect"} {
		if n := st.connections[status]; n > 0 {
			s.Rows = append(s.Rows, row{Name: status, Value: count(n), Href: "/connections?status=" + status})
		}
	}
	overdue, stale := f.survey.expected.kind[state.OverdueWrite], f.survey.expected.kind[state.StaleRead]
	s.Rows = append(s.Rows,
		row{Name: "writes pending", Value: count(st.writes["Pending"]), Href: "/writes?status=Pending"},
		row{Name: "writes overdue", Value: count(max(overdue, st.writes["Overdue"])), Href: "/writes?status=Overdue", Level: levelIf(overdue > 0, waiting)},
		row{Name: "reads stale", Value: count(stale), Href: "/missing#stale", Level: levelIf(stale > 0, waiting)},
		row{Name: "plans held", Value: count(st.plans["held"]), Href: "/plans?status=held", Level: levelIf(st.plans["held"] > 0, waiting)})
	return s
}

// workerRows are the workers with what they do now.
func (c *Console) workerRows(f facts) []workerRow {
	var all []workerRow
	for _, name := range f.workerNames() {
		all = append(all, c.workerRow(f, name))
	}
	return all
}

func (c *Console) workerRow(f facts, name string) workerRow {
	w := workerRow{Name: name, State: "running", Level: good, Dead: f.survey.dead.byWorker[name], DeadMore: f.survey.dead.more}
	consumer := f.survey.consumer(c.Source.Stream(), name)
	w.Oldest = consumer.OldestUnsettled
	w.OldestAlarm = w.Oldest != nil && *w.Oldest > time.Hour
	running := false
	var instance inspect.Worker
	if i := slices.IndexFunc(f.survey.snapshot.Workers, func(x inspect.Worker) bool { return x.Name == name }); i >= 0 {
		instance, running = f.survey.snapshot.Workers[i], true
	}
	w.Instances = instance.Instances
	info := f.consumers[name]
	if info != nil {
		w.Lag, w.InFlight = info.NumPending, info.NumAckPending
	}
	if p := f.parked[name]; p != nil {
		w.Parked = p.NumPending + uint64(p.NumAckPending)
	}
	switch {
	case info == nil:
		w.State, w.Level = "not provisioned", waiting
	case info.Paused:
		w.State, w.Level = "paused by an operator", waiting
	case instance.PausedFor > 0:
		w.State, w.Level = "breaker open for "+span(instance.PausedFor.Round(time.Second)), levelIf(true, waiting)
	case instance.CannotClaim > 0:
		w.State, w.Level = "cannot claim", alarm
	case !running || instance.Instances == 0:
		w.State, w.Level = "no process", waiting
	}
	if w.OldestAlarm || instance.PausedFor > 15*time.Minute {
		w.Level = alarm
	}
	w.Text = workerText(w)
	return w
}

// workerText is what a worker does in a few words.
func workerText(w workerRow) string {
	if w.State != "running" {
		return w.State
	}
	if w.Lag == 0 && w.InFlight == 0 {
		return "idle"
	}
	var parts []string
	if w.Lag > 0 {
		parts = append(parts, "lag "+count(w.Lag))
	}
	if w.InFlight > 0 {
		parts = append(parts, count(w.InFlight)+" in flight")
	}
	return strings.Join(parts, ", ")
}
