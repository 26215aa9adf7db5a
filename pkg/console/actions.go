package console

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// actionsPath is where actions are previewed and confirmed, by POST.
	actionsPath = "/actions/"
	// previewAge is how long a preview can be confirmed.
	previewAge = 5 * time.Minute
	// previewTime bounds the time to choose what an action is for.
	previewTime = 30 * time.Second
	// maxPreviews are the previews that can be confirmed at a time. With more the oldest is forgotten.
	maxPreviews = 20
	// typedAbove is the number of items above which a confirmation has the number typed.
	typedAbove = 1000
	// maxActionForm is the largest body of a form, in bytes.
	maxActionForm = 256 << 10
)

// An action is what a form asks for, prepared: nothing is done before run.
type action struct {
	kind    string
	id      string // of its job
	title   string
	text    string   // what it does, and to how many
	notes   []string // what to know before
	command string   // the headgate command that does the same
	lands   string   // address of what a redrive is about; "" for many
	count   int
	run     func(ctx context.Context, o *operator.Operator, progress func(done, total int)) (outcome, error)
}

// previews are the actions that wait for a confirmation, by their tokens. A token is for one user and one form, once.
type previews struct {
	mu  sync.Mutex
	all []preview // oldest first
}

type preview struct {
	token, user, form string
	expires           time.Time
	action            *action
}

// add keeps an action until its preview expires, and returns its token.
func (p *previews) add(user, form string, a *action, now time.Time) (token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = slices.DeleteFunc(p.all, func(one preview) bool { return !now.Before(one.expires) })
	if len(p.all) >= maxPreviews {
		p.all = p.all[1:]
	}
	token = rand.Text()
	p.all = append(p.all, preview{token, user, form, now.Add(previewAge), a})
	return token
}

// find returns the action of a token for a user and a form.
func (p *previews) find(token, user, form string, now time.Time) (*action, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		if one.token == token && one.user == user && one.form == form && now.Before(one.expires) {
			return one.action, true
		}
	}
	return nil, false
}

// use forgets a token, and reports whether it was known.
func (p *previews) use(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.all)
	p.all = slices.DeleteFunc(p.all, func(one preview) bool { return one.token == token })
	return len(p.all) < before
}

// mayAct reports whether a user may act here.
func (c *Console) mayAct(u User) bool { return c.Operator != nil && u.Operate }

// requireOperate answers a user who may not act.
func (c *Console) requireOperate(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case c.Operator == nil:
		c.fail(w, r, problem{Status: http.StatusForbidden, Title: "This console only reads", Text: "It carries out no action.", Cure: "Start it with --operate, or use the headgate command."})
	case !userOf(r).Operate:
		c.fail(w, r, problem{Status: http.StatusForbidden, Title: "You may not act", Text: "The action needs the right operate.", Cure: "Ask those who run Headgate for the right, or to do it."})
	default:
		return true
	}
	return false
}

// actionForm reads the form of an action: its fields that the kind has and that are not empty.
func actionForm(w http.ResponseWriter, r *http.Request) (kind string, fields url.Values, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxActionForm)
	if err := r.ParseForm(); err != nil {
		return "", nil, err
	}
	kind = r.PostForm.Get("kind")
	known, ok := actionKinds[kind]
	if !ok {
		return "", nil, fmt.Errorf("%q is not an action", kind)
	}
	fields = url.Values{}
	for _, name := range known.fields {
		for _, value := range r.PostForm[name] {
			if value = strings.TrimSpace(value); value != "" {
				fields.Add(name, value)
			}
		}
	}
	return kind, fields, nil
}

// prepare returns the action of a form.
func (c *Console) prepare(ctx context.Context, kind string, fields url.Values) (*action, error) {
	ctx, cancel := context.WithTimeout(ctx, previewTime)
	defer cancel()
	a, err := actionKinds[kind].prepare(ctx, c, form{fields})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("it was not chosen within %v what the action is for: narrow the choice, for example to a shorter time, or use the headgate command: %w", previewTime, err)
	}
	if err != nil {
		return nil, err
	}
	a.kind = kind
	if a.id == "" {
		a.id = operator.NewRedriveID()
	}
	return a, nil
}

// A previewView is what the page of a preview shows.
type previewView struct {
	Title, Text, Command, Kind, Token string
	Notes                             []string
	Fields                            []field
	Count                             int
	Typed                             bool // the number must be typed
	Wrong                             bool // another number was typed
}

// A field is a hidden field of a form.
type field struct{ Name, Value string }

func fieldsOf(values url.Values) (all []field) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			all = append(all, field{name, value})
		}
	}
	return all
}

func viewPreview(a *action, fields url.Values, token string) previewView {
	return previewView{
		Title: a.title, Text: a.text, Notes: a.notes, Command: a.command, Kind: a.kind, Token: token, Fields: fieldsOf(fields),
		Count: a.count, Typed: a.count > typedAbove,
	}
}

// servePreview says what an action would do. It does nothing.
func (c *Console) servePreview(w http.ResponseWriter, r *http.Request) {
	if !c.requireOperate(w, r) {
		return
	}
	kind, fields, err := actionForm(w, r)
	if err != nil {
		c.fail(w, r, problem{Status: http.StatusBadRequest, Title: "No such action", Text: err.Error()})
		return
	}
	a, err := c.prepare(r.Context(), kind, fields)
	if err != nil {
		c.fail(w, r, problem{Status: http.StatusUnprocessableEntity, Title: "Nothing was done", Text: err.Error()})
		return
	}
	token := ""
	if a.count > 0 {
		token = c.previews.add(userOf(r).Name, kind+"?"+fields.Encode(), a, c.Now())
	}
	c.render(w, r, "preview", viewPreview(a, fields, token))
}

// serveConfirm starts the action of a preview.
func (c *Console) serveConfirm(w http.ResponseWriter, r *http.Request) {
	if !c.requireOperate(w, r) {
		return
	}
	kind, fields, err := actionForm(w, r)
	if err != nil {
		c.fail(w, r, problem{Status: http.StatusBadRequest, Title: "No such action", Text: err.Error()})
		return
	}
	user, token := userOf(r).Name, r.PostForm.Get("token")
	a, ok := c.previews.find(token, user, kind+"?"+fields.Encode(), c.Now())
	if !ok {
		c.fail(w, r, problem{
			Status: http.StatusConflict, Title: "Nothing was done", Text: "The preview has expired, was confirmed before, or is of another user or another choice.",
			Cure: "Look at a new preview, and confirm it within 5 minutes.",
		})
		return
	}
	if a.count > typedAbove && digits(r.PostForm.Get("typed")) != strconv.Itoa(a.count) {
		v := viewPreview(a, fields, token)
		v.Wrong = true
		c.renderStatus(w, r, http.StatusUnprocessableEntity, "preview", v)
		return
	}
	if !c.previews.use(token) { // another request was faster
		http.Redirect(w, r, "/jobs/"+a.id, http.StatusSeeOther)
		return
	}
	j, err := c.jobs.start(user, a, c.Operator, c.Log)
	if err != nil {
		c.fail(w, r, problem{Status: http.StatusServiceUnavailable, Title: "Nothing was done", Text: err.Error()})
		return
	}
	c.land(w, r, j)
}

// land leads to what a job has made of one thing, when it is done soon, and otherwise to its page, which counts and has a link to the list.
func (c *Console) land(w http.ResponseWriter, r *http.Request, j *job) {
	wait := time.NewTimer(quickJob)
	defer wait.Stop()
	select {
	case <-j.ended:
	case <-wait.C:
	case <-r.Context().Done():
	}
	if v := j.view(); !v.Running && v.Error == "" && v.Total == 1 && href(v.Outcome.Lands) != "" {
		http.Redirect(w, r, v.Outcome.Lands, http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, "/jobs/"+j.ID, http.StatusSeeOther)
}

// digits returns a number without what groups its digits.
func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == ',' || r == '.' || r == '\'' {
			return -1
		}
		return r
	}, s)
}

// A button is a form that previews an action.
type button struct {
	Label, Kind string
	Fields      []field
	Inputs      []input
	Command     string
	// Form is the id of the form, for the fields of a page that belong to it; it may be empty.
	Form string
}

// An input is a field that the user fills in: a choice where there are options.
type input struct {
	Name, Label, Placeholder string
	Options                  []string
	Required                 bool
}

// replayButtons give what the fields choose to one of the workers again, for those who may act.
func (c *Console) replayButtons(u User, workers []string, fields ...field) (all []button) {
	if !c.mayAct(u) {
		return nil
	}
	for _, w := range workers {
		words := []string{"replay", "--worker", w}
		for _, f := range fields {
			words = append(words, "--"+f.Name, f.Value)
		}
		if len(fields) == 0 {
			words = append(words, "--all")
		}
		all = append(all, button{Label: "Give to " + w + " again", Kind: "replay", Fields: append([]field{{"worker", w}}, fields...), Command: command(words...)})
	}
	return all
}

// beginButtons are the actions that no other page is needed for, for those who may act.
func (c *Console) beginButtons(ctx context.Context, u User) ([]button, error) {
	if !c.mayAct(u) {
		return nil, nil
	}
	provisioned, err := stream.Workers(ctx, c.JS, c.Source)
	if err != nil || len(provisioned) == 0 {
		return nil, err
	}
	worker := input{Name: "worker", Label: "worker"}
	for _, w := range provisioned {
		worker.Options = append(worker.Options, w.Name)
	}
	since := input{Name: "since", Label: "since", Placeholder: "2h, 7d"}
	number := input{Name: "number", Label: "number", Required: true}
	return []button{
		{Label: "Pause", Kind: "pause", Inputs: []input{worker, {Name: "for", Label: "for", Placeholder: "90m, 3d"}}, Command: "headgate pause WORKER"},
		{Label: "Resume", Kind: "resume", Inputs: []input{worker}, Command: "headgate resume WORKER"},
		{Label: "Give events again", Kind: "replay", Inputs: []input{worker, {Name: "type", Label: "type", Placeholder: "*.write.*"}, {Name: "company", Label: "company"}, since}, Command: "headgate replay --worker WORKER"},
		{Label: "Give dead letters again", Kind: "dead-replay", Inputs: []input{worker, {Name: "cause", Label: "cause"}, since}, Command: "headgate dead replay --worker WORKER"},
		{Label: "Give one dead letter again", Kind: "dead-replay", Inputs: []input{number}, Command: "headgate dead replay NUMBER"},
		{Label: "Release from the quarantine", Kind: "release", Inputs: []input{number, {Name: "type", Label: "as type", Placeholder: "connection.connected", Required: true}}, Command: "headgate quarantine release NUMBER --type TYPE"},
	}, nil
}

// planButtons are what a person can decide about a plan, for those who may act.
func (c *Console) planButtons(u User, r plan.Record) (all []button) {
	if !c.mayAct(u) || r.Status == plan.StatusDone || r.Status == plan.StatusCancelled {
		return nil
	}
	id := field{"plan", r.Plan.ID}
	var failed []string
	unknown := false
	for i, s := range r.Plan.Steps {
		switch r.Steps[i].State {
		case plan.Unknown:
			unknown = true
			failed = append(failed, s.Name)
		case plan.Failed:
			failed = append(failed, s.Name)
		}
	}
	if unknown {
		all = append(all, button{Label: "Look again for unknown steps", Kind: "plan-resume", Fields: []field{id}, Command: command("plans", "resume", id.Value)})
	}
	if len(failed) > 0 {
		step := input{Name: "step", Label: "step", Options: failed}
		all = append(
			all,
			button{Label: "Push again", Kind: "plan-retry", Fields: []field{id}, Inputs: []input{step}, Command: command("plans", "retry", id.Value) + " STEP"},
			button{Label: "Go on without", Kind: "plan-skip", Fields: []field{id}, Inputs: []input{step, {Name: "record", Label: "record", Placeholder: "id, for steps that refer to it"}}, Command: command("plans", "skip", id.Value) + " STEP"},
		)
	}
	return append(all, button{Label: "Cancel the plan", Kind: "plan-cancel", Fields: []field{id}, Command: command("plans", "cancel", id.Value)})
}
