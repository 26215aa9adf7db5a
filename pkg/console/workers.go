package console

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// serveWorkers lists the workers.
func (c *Console) serveWorkers(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, "workers", c.pathOf(c.hub.facts(r.Context())))
}

// A workerView is what the page of a worker shows.
type workerView struct {
	workerRow
	Stale     bool
	Age       time.Duration
	Problem   string
	Types     []string // of the events that its consumer takes
	Consumer  *jetstream.ConsumerInfo
	Pause     stream.Pause
	Trends    []trend
	Processes []processRow
	Groups    []errorGroup
	More      bool // dead letters of the last day were too many to count
	Actions   []button
}

// A trend is a value over the last minute.
type trend struct {
	Name, Now string
	Line      template.HTML
}

// A processRow is a running process of a worker.
type processRow struct {
	inspect.Instance
	State stateWord
}

// An errorGroup are the recent dead letters of a worker with the same type and error.
type errorGroup struct {
	deadGroup
	Href string
}

// serveWorker shows one worker.
func (c *Console) serveWorker(w http.ResponseWriter, r *http.Request) {
	f, name := c.hub.facts(r.Context()), r.PathValue("name")
	if !slices.Contains(f.workerNames(), name) {
		c.fail(w, r, problem{
			Status: http.StatusNotFound, Title: "No such worker", Text: "No consumer and no process has this name, as far as the console has seen.",
			Cure: "Workers lists those that are known. headgate provision makes the consumer of a new one.",
		})
		return
	}
	instances, err := inspect.Instances(r.Context(), c.JS, c.Source)
	v := c.workerView(f, name)
	if err != nil {
		v.Problem = err.Error()
	}
	for _, i := range instances {
		if i.Worker == name {
			v.Processes = append(v.Processes, processRow{i, instanceState(i)})
		}
	}
	v.Actions = c.pauseButtons(userOf(r), name, v.Consumer != nil, v.Pause.Paused)
	c.render(w, r, "worker", v)
}

// workerView is a worker as the hub knows it.
func (c *Console) workerView(f facts, name string) workerView {
	now := c.Now()
	v := workerView{workerRow: c.workerRow(f, name), Consumer: f.consumers[name], Stale: f.stale(now), Age: f.age(now), More: f.survey.dead.more}
	if f.err != nil {
		v.Problem = f.err.Error()
	}
	if v.Consumer != nil {
		v.Pause = stream.PauseOf(v.Consumer)
		for _, subject := range v.Consumer.Config.FilterSubjects {
			if typ := c.Source.TypeOf(subject); typ != "" && c.Source.WorkerOf(subject) == "" { // not its redrives
				v.Types = append(v.Types, typ)
			}
		}
	}
	v.Trends = c.hub.trendsOf(name)
	for _, g := range f.survey.dead.groups {
		if g.Worker == name {
			v.Groups = append(v.Groups, errorGroup{g, lettersOf(g)})
		}
	}
	return v
}

// lettersOf is the address of the dead letters of a group.
func lettersOf(g deadGroup) string {
	return "/dead?" + url.Values{"worker": {g.Worker}, "type": {g.Type}, "error": {g.Reason}}.Encode()
}

// instanceState is what a process does.
func instanceState(i inspect.Instance) stateWord {
	switch {
	case i.CannotClaim != "":
		return stateWord{"cannot claim", alarm}
	case !i.Paused.IsZero():
		return stateWord{"breaker open", waiting}
	}
	return stateWord{"running", good}
}

// trendsOf are the lag, the deliveries in flight and the parked events of a worker over the last minute.
func (h *hub) trendsOf(name string) []trend {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lag, inFlight, parked []float64
	for _, m := range h.past {
		if info := m.consumers[name]; info != nil {
			lag, inFlight = append(lag, float64(info.NumPending)), append(inFlight, float64(info.NumAckPending))
		}
		if info := m.parked[name]; info != nil {
			parked = append(parked, float64(info.NumPending)+float64(info.NumAckPending))
		}
	}
	var all []trend
	for _, one := range []struct {
		name   string
		values []float64
	}{{"lag", lag}, {"in flight", inFlight}, {"parked", parked}} {
		if n := len(one.values); n > 0 {
			now := count(int(one.values[n-1]))
			all = append(all, trend{one.name, now, area(one.name+" over the last minute, now "+now, one.values, false)})
		}
	}
	return all
}

// pauseButtons pause a worker, and end its pause, for those who may act.
func (c *Console) pauseButtons(u User, name string, provisioned, paused bool) []button {
	if c.Operator == nil || !u.Operate || !provisioned {
		return nil
	}
	worker := []field{{"worker", name}}
	if paused {
		return []button{{Label: "Resume", Kind: "resume", Fields: worker, Command: command("resume", name)}}
	}
	return []button{{
		Label: "Pause", Kind: "pause", Fields: worker, Command: command("pause", name),
		Inputs: []input{{Name: "for", Label: "for", Placeholder: "until it is resumed, or 2h"}},
	}}
}
