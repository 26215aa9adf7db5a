package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/operator"
)

const (
	maxRunning = 4   // jobs at once
	maxJobs    = 200 // jobs that are remembered
	// quickJob is how long a confirmation waits for its job, so that one that is done at once leads to what it made.
	quickJob = 2 * time.Second
	// jobRefresh is how often the page of a running job is loaded again, in seconds.
	jobRefresh = "2"
)

// errBusy means that as many jobs run as may.
var errBusy = fmt.Errorf("%d actions are running: wait until one has ended, or cancel one", maxRunning)

// jobs are the actions of this process. They go on when their viewer leaves, and end with the process.
type jobs struct {
	ctx context.Context
	end context.CancelFunc

	mu      sync.Mutex // guards what follows
	all     []*job     // newest first
	running sync.WaitGroup
}

func newJobs() *jobs {
	ctx, end := context.WithCancel(context.Background())
	return &jobs{ctx: ctx, end: end}
}

// A job is an action that runs or has run.
type job struct {
	ID, User, Text, Command string
	Began                   time.Time

	cancel context.CancelFunc
	ended  chan struct{}

	mu        sync.Mutex // guards what follows
	done      int
	total     int
	cancelled bool
	end       time.Time
	outcome   outcome
	err       error
}

// An outcome is what an action has done.
type outcome struct {
	Text  string // what it did
	Lands string // address of what it made; "" without one
	Again string // the command that goes on with what was not done; "" when nothing is left
}

// start runs an action until it is done, is cancelled, or the process ends.
func (all *jobs) start(user string, a *action, o *operator.Operator, log *zap.Logger) (*job, error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	running := 0
	for _, j := range all.all {
		if !j.hasEnded() {
			running++
		}
	}
	if running >= maxRunning {
		return nil, errBusy
	}
	if all.ctx.Err() != nil {
		return nil, errors.New("the console is stopping")
	}
	ctx, cancel := context.WithCancel(all.ctx)
	j := &job{ID: a.id, User: user, Text: a.text, Command: a.command, Began: time.Now(), total: a.count, cancel: cancel, ended: make(chan struct{})}
	all.all = slices.Insert(all.all, 0, j)
	if last := len(all.all) - 1; last >= maxJobs && all.all[last].hasEnded() {
		all.all = all.all[:last]
	}
	all.running.Go(func() {
		defer cancel()
		log.Info("action", zap.String("user", user), zap.String("kind", a.kind), zap.String("id", j.ID), zap.Int("count", a.count))
		result, err := a.run(ctx, o.As(user), j.progress)
		j.finish(result, err)
		log.Info("action ended", zap.String("user", user), zap.String("kind", a.kind), zap.String("id", j.ID), zap.Bool("failed", err != nil))
	})
	return j, nil
}

// stop ends all jobs, and returns when they have recorded what they did.
func (all *jobs) stop() {
	all.end()
	all.running.Wait()
}

// find returns the job of an id, or nil.
func (all *jobs) find(id string) *job {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, j := range all.all {
		if j.ID == id {
			return j
		}
	}
	return nil
}

// list returns all jobs, newest first.
func (all *jobs) list() []*job {
	all.mu.Lock()
	defer all.mu.Unlock()
	return slices.Clone(all.all)
}

func (j *job) progress(done, total int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done, j.total = done, total
}

func (j *job) finish(o outcome, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.outcome, j.err, j.end = o, err, time.Now()
	j.cancelled = j.cancelled && err != nil // it can have come too late
	close(j.ended)
}

func (j *job) hasEnded() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

// stop cancels a job on behalf of a user.
func (j *job) stop() {
	j.mu.Lock()
	j.cancelled = j.cancelled || j.end.IsZero()
	j.mu.Unlock()
	j.cancel()
}

// A jobView is a job as its page shows it.
type jobView struct {
	ID, User, Text, Command string
	Began, End              time.Time
	Done, Total             int
	Running, Cancelled      bool
	Outcome                 outcome
	Error                   string
	MayCancel               bool
}

// State says in a word how the job stands.
func (v jobView) State() string {
	switch {
	case v.Running && v.Cancelled:
		return "cancelling"
	case v.Running:
		return "running"
	case v.Cancelled:
		return "cancelled"
	case v.Error != "":
		return "failed"
	}
	return "done"
}

// Level is the colour and the mark of the state.
func (v jobView) Level() level {
	switch v.State() {
	case "done":
		return good
	case "failed":
		return alarm
	}
	return waiting
}

func (j *job) view() jobView {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := jobView{
		ID: j.ID, User: j.User, Text: j.Text, Command: j.Command, Began: j.Began, End: j.end, Done: j.done, Total: j.total,
		Running: j.end.IsZero(), Cancelled: j.cancelled, Outcome: j.outcome,
	}
	if j.err != nil {
		v.Error = j.err.Error()
	}
	return v
}

// A jobsView is what the page of all jobs shows.
type jobsView struct {
	Jobs  []jobView
	Begin []button
}

// serveJobs lists the jobs of this process, and has the forms that begin one.
func (c *Console) serveJobs(w http.ResponseWriter, r *http.Request) {
	var v jobsView
	var err error
	if v.Begin, err = c.beginButtons(r.Context(), userOf(r)); err != nil {
		c.unanswered(w, r, err)
		return
	}
	for _, j := range c.jobs.list() {
		v.Jobs = append(v.Jobs, j.view())
	}
	c.render(w, r, "jobs", v)
}

// serveJob shows one job. While it runs, the page is loaded again.
func (c *Console) serveJob(w http.ResponseWriter, r *http.Request) {
	j := c.jobs.find(r.PathValue("id"))
	if j == nil {
		c.fail(w, r, problem{
			Status: http.StatusNotFound, Title: "No such action", Text: "This process does not know the action: an action ends with its process, and the last " +
				fmt.Sprint(maxJobs) + " are remembered.", Cure: "The operators' records say what every action has done.",
		})
		return
	}
	v := j.view()
	v.MayCancel = v.Running && !v.Cancelled && c.mayAct(userOf(r))
	if v.Running {
		w.Header().Set("Refresh", jobRefresh)
	}
	c.render(w, r, "job", v)
}

// cancelJob cancels a job. What it is at is finished and recorded.
func (c *Console) cancelJob(w http.ResponseWriter, r *http.Request) {
	if !c.requireOperate(w, r) {
		return
	}
	if j := c.jobs.find(r.PathValue("id")); j != nil {
		j.stop()
	}
	http.Redirect(w, r, "/jobs/"+r.PathValue("id"), http.StatusSeeOther)
}
