package console

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
)

// redriveRate is how many events an action gives in a second, as headgate replay does by default.
const redriveRate = 100

// An actionKind has the fields of its form, and prepares it.
type actionKind struct {
	fields  []string
	prepare func(ctx context.Context, c *Console, f form) (*action, error)
}

var filterFields = []string{"worker", "type", "company", "connection", "id", "since", "until"}

// actionKinds are all actions.
var actionKinds map[string]actionKind

func init() { // prepare refers to the kinds by way of the console
	actionKinds = map[string]actionKind{
		"replay":      {filterFields, prepareReplay},
		"dead-replay": {append([]string{"number", "cause", "again"}, filterFields...), prepareDeadReplay},
		"release":     {[]string{"number", "type"}, prepareRelease},
		"pause":       {[]string{"worker", "for"}, preparePause},
		"resume":      {[]string{"worker"}, prepareResume},
		"plan-resume": {[]string{"plan", "step", "operation"}, preparePlan(plan.Resume)},
		"plan-retry":  {[]string{"plan", "step"}, preparePlan(plan.Retry)},
		"plan-skip":   {[]string{"plan", "step", "record"}, preparePlan(plan.Skip)},
		"plan-cancel": {[]string{"plan"}, preparePlan(plan.Cancel)},
	}
}

// form are the fields of an action.
type form struct{ url.Values }

// duration parses a positive duration, also of days.
func duration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q must be a duration, such as 90m or 3d", text)
	}
	return d, nil
}

// times returns since and until.
func (f form) times(now time.Time) (since, until time.Time, err error) {
	since, errSince := readTime("since", f.Get("since"), now)
	until, errUntil := readTime("until", f.Get("until"), now)
	return since, until, errors.Join(errSince, errUntil)
}

// pattern returns the field type.
func (f form) pattern() (codat.Pattern, error) {
	p := codat.Pattern(f.Get("type"))
	if p == "" {
		return p, nil
	}
	return p, p.Validate()
}

// numbers returns the field number, which can be repeated.
func (f form) numbers() ([]uint64, error) {
	var all []uint64
	for _, text := range f.Values["number"] {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is not the number of a message", text)
		}
		all = append(all, n)
	}
	return all, nil
}

// flags returns the fields of a filter as flags of the command. Times are absolute, so that the command chooses the same later.
func (f form) flags(since, until time.Time, names ...string) (words []string) {
	for _, name := range names {
		for _, value := range f.Values[name] {
			words = append(words, "--"+name, value)
		}
	}
	if !since.IsZero() {
		words = append(words, "--since", since.UTC().Format(time.RFC3339Nano))
	}
	if !until.IsZero() {
		words = append(words, "--until", until.UTC().Format(time.RFC3339Nano))
	}
	return words
}

// list returns the address of a list with the filters of the form that have a value.
func (f form) list(path string, query url.Values, names ...string) string {
	for _, name := range names {
		if v := f.Get(name); v != "" {
			query.Set(name, v)
		}
	}
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// command returns a command line for a POSIX shell.
func command(words ...string) string {
	line := "headgate"
	for _, w := range words {
		line += " " + operator.ShellWord(w)
	}
	return line
}

func prepareReplay(ctx context.Context, c *Console, f form) (*action, error) {
	since, until, errTimes := f.times(c.Now())
	pattern, errType := f.pattern()
	if err := errors.Join(errTimes, errType, stream.ValidateWorker(f.Get("worker"))); err != nil {
		return nil, err
	}
	if until.IsZero() { // what is stored later was not counted
		until = c.Now()
	}
	o := operator.EventsOptions{
		Worker: f.Get("worker"), IDs: f.Values["id"], Company: f.Get("company"), Connection: f.Get("connection"), Type: pattern, Since: since, Until: until,
	}
	s, err := c.Operator.SelectEvents(ctx, o)
	if err != nil {
		return nil, err
	}
	a := redriveAction(s, append([]string{"replay"}, f.flags(since, until, "worker", "type", "company", "connection", "id")...))
	a.title = "Give events to " + o.Worker + " again"
	a.lands = f.list("/events", url.Values{}, "type", "company", "connection", "since")
	if one := s.Numbers(); len(one) == 1 {
		a.lands = fmt.Sprintf("/events/%d", one[0])
	}
	a.text = "Gives to " + o.Worker + " again " + s.Summary() + ". At most " + strconv.Itoa(redriveRate) + " a second; the handler runs although an event is done or dead."
	return a, nil
}

func prepareDeadReplay(ctx context.Context, c *Console, f form) (*action, error) {
	since, until, errTimes := f.times(c.Now())
	pattern, errType := f.pattern()
	numbers, errNumbers := f.numbers()
	if err := errors.Join(errTimes, errType, errNumbers); err != nil {
		return nil, err
	}
	words := []string{"dead", "replay"}
	if f.Get("again") != "" {
		words = append(words, "--again")
	}
	o := operator.LettersOptions{Numbers: numbers, Again: f.Get("again") != ""}
	if len(numbers) > 0 {
		words = append(words, f.Values["number"]...)
	} else {
		if until.IsZero() { // what is given up later was not counted
			until = c.Now()
		}
		o.Filter = deadletter.Filter{
			Worker: f.Get("worker"), Company: f.Get("company"), Connection: f.Get("connection"), Cause: f.Get("cause"), Type: pattern, IDs: f.Values["id"], Since: since, Until: until,
		}
		words = append(words, f.flags(since, until, "worker", "type", "company", "connection", "cause", "id")...)
	}
	s, err := c.Operator.SelectLetters(ctx, o)
	if err != nil {
		return nil, err
	}
	a := redriveAction(s, words)
	a.title = "Give dead letters again"
	a.lands = f.list("/dead", url.Values{"all": {"yes"}}, "worker", "type", "company", "cause", "since")
	if len(numbers) == 1 {
		a.title, a.lands = "Give a dead letter again", fmt.Sprintf("/dead/%d", numbers[0])
	}
	a.text = "Gives to their workers again " + s.Summary() + ". At most " + strconv.Itoa(redriveRate) + " a second."
	if left := s.LeftOutSummary(); left != "" {
		a.notes = append(a.notes, left+": they are not open. headgate dead replay --again gives them too.")
	}
	return a, nil
}

// redriveAction returns the redrive of a selection, which the words of a command choose too.
func redriveAction(s *operator.Selection, words []string) *action {
	a := &action{id: operator.NewRedriveID(), count: s.Len(), command: command(words...)}
	a.run = func(ctx context.Context, o *operator.Operator, progress func(done, total int)) (outcome, error) {
		r, err := o.Redrive(ctx, s, operator.RedriveOptions{ID: a.id, Rate: redriveRate, Progress: progress})
		out := outcome{Text: fmt.Sprintf("redrive %s: %d of %d given again", r.Redrive, r.Given, r.Chosen), Lands: a.lands}
		if r.Before > 0 {
			out.Text += fmt.Sprintf(", %d given before", r.Before)
		}
		if err != nil && r.Chosen > r.Given+r.Before+r.NotGiven {
			out.Again = a.command + " --redrive-id " + a.id
		}
		return out, err
	}
	return a
}

func prepareRelease(ctx context.Context, c *Console, f form) (*action, error) {
	numbers, err := f.numbers()
	if err == nil && len(numbers) != 1 {
		err = errors.New("number: give the number of one message")
	}
	typ := f.Get("type")
	if err == nil {
		_, err = c.Source.EventSubject(typ)
	}
	if err == nil {
		_, err = inspect.Quarantined(ctx, c.JS, c.Source, numbers[0])
	}
	if err != nil {
		return nil, err
	}
	number, words := numbers[0], []string{"quarantine", "release", f.Get("number"), "--type", typ}
	a := &action{
		title: "Release from the quarantine", count: 1,
		text: fmt.Sprintf("Stores message %d of the quarantine as an event of the type %s: the same id, signature and bytes. A message can be released only once.", number, typ),
	}
	if !codat.Known(typ) {
		a.notes = append(a.notes, "Headgate does not know the type "+typ+".")
		words = append(words, "--unknown-type")
	}
	a.command = command(words...)
	a.run = func(ctx context.Context, o *operator.Operator, _ func(done, total int)) (outcome, error) {
		r, err := o.Release(ctx, number, typ)
		if err != nil {
			return outcome{}, err
		}
		out := outcome{Text: fmt.Sprintf("released %d as %s, sequence %d", r.Number, r.Type, r.Sequence), Lands: fmt.Sprintf("/events/%d", r.Sequence)}
		if !r.Readable {
			out.Text += "; its body is not a JSON object: a worker that takes it will make a dead letter of it"
		}
		return out, nil
	}
	return a, nil
}

func preparePause(_ context.Context, c *Console, f form) (*action, error) {
	worker, until, how := f.Get("worker"), time.Time{}, "until it is resumed"
	if err := stream.ValidateWorker(worker); err != nil {
		return nil, err
	}
	words := []string{"pause", worker}
	if f.Get("for") != "" {
		d, err := duration(f.Get("for"))
		if err != nil {
			return nil, fmt.Errorf("for: %w", err)
		}
		until = c.Now().Add(d).UTC().Truncate(time.Second)
		how = "until " + until.Format("2006-01-02 15:04:05 UTC")
		words = append(words, "--until", until.Format(time.RFC3339))
	}
	return &action{
		title: "Pause " + worker, count: 1, command: command(words...),
		text: "Pauses " + worker + " " + how + ": the server delivers it nothing, also over restarts. Handlers that run go on; events wait, for as long as the stream keeps them.",
		run: func(ctx context.Context, o *operator.Operator, _ func(done, total int)) (outcome, error) {
			return outcome{Text: worker + " is paused " + how, Lands: "/workers/" + worker}, o.Pause(ctx, worker, until)
		},
	}, nil
}

func prepareResume(_ context.Context, _ *Console, f form) (*action, error) {
	worker := f.Get("worker")
	if err := stream.ValidateWorker(worker); err != nil {
		return nil, err
	}
	return &action{
		title: "Resume " + worker, count: 1, command: command("resume", worker),
		text: "Ends the pause of " + worker + ": the server delivers it its events again.",
		run: func(ctx context.Context, o *operator.Operator, _ func(done, total int)) (outcome, error) {
			return outcome{Text: worker + " receives its events again", Lands: "/workers/" + worker}, o.Resume(ctx, worker)
		},
	}, nil
}

// preparePlan returns what prepares an action on a write plan.
func preparePlan(kind plan.ActionKind) func(context.Context, *Console, form) (*action, error) {
	return func(ctx context.Context, c *Console, f form) (*action, error) {
		does := plan.Action{Kind: kind, Plan: f.Get("plan"), Step: f.Get("step"), Operation: f.Get("operation"), Record: f.Get("record")}
		r, err := plan.Get(ctx, c.JS, c.Source, does.Plan)
		if err != nil {
			return nil, err
		}
		words := []string{"plans", string(kind), does.Plan}
		if does.Step != "" {
			words = append(words, does.Step)
		}
		if does.Operation != "" {
			words = append(words, "--operation", does.Operation)
		}
		if does.Record != "" {
			words = append(words, "--record", does.Record)
		}
		a := &action{title: planTitle(kind) + " " + does.Plan, count: 1, command: command(words...), text: planText(does), notes: []string{"The plan is " + string(r.Status) + "."}}
		a.run = func(ctx context.Context, o *operator.Operator, _ func(done, total int)) (outcome, error) {
			reply, err := o.ActOnPlan(ctx, does)
			return outcome{Text: fmt.Sprintf("%s of %s accepted: the plan is %s", kind, does.Plan, reply.Status), Lands: "/plans/" + url.PathEscape(does.Plan)}, err
		}
		return a, nil
	}
}

func planTitle(kind plan.ActionKind) string {
	switch kind {
	case plan.Resume:
		return "Resume the plan"
	case plan.Retry:
		return "Retry a step of the plan"
	case plan.Skip:
		return "Skip a step of the plan"
	}
	return "Cancel the plan"
}

// planText says what an action on a plan does.
func planText(a plan.Action) string {
	switch a.Kind {
	case plan.Resume:
		switch {
		case a.Operation != "":
			return "Takes the push operation " + a.Operation + " for what the step " + a.Step + " has made."
		case a.Step != "":
			return "Looks again for what became of the step " + a.Step + "."
		}
		return "Looks again for what became of the unknown steps of the plan."
	case plan.Retry:
		return "Pushes the step " + a.Step + " again. If it has happened, it happens twice."
	case plan.Skip:
		if a.Record != "" {
			return "Goes on without the step " + a.Step + "; steps that refer to it get the record " + a.Record + "."
		}
		return "Goes on without the step " + a.Step + "."
	}
	return "Starts no further step of the plan. What is pushed goes on."
}
