package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
)

// plansCmd holds the commands on write plans.
type plansCmd struct {
	Submit plansSubmitCmd `cmd:"" help:"Hand a plan to worker-writes, which carries it out. The same plan again changes nothing."`
	List   plansListCmd   `cmd:"" help:"List the plans with their status, the one that changed longest ago first."`
	Show   plansShowCmd   `cmd:"" help:"Show one plan: its steps, each below those that it waits for, and what became of them."`
	Resume plansResumeCmd `cmd:"" help:"Look again for what became of the unknown steps of a plan, or name the push operation that one has made."`
	Retry  plansRetryCmd  `cmd:"" help:"Push a failed or unknown step again. If it has happened, it happens twice."`
	Skip   plansSkipCmd   `cmd:"" help:"Go on without a step."`
	Cancel plansCancelCmd `cmd:"" help:"Start no further step of a plan. What is pushed goes on."`
	Stop   plansStopCmd   `cmd:"" help:"Let no plan go on by itself, while worker-writes does not run: after a restore, it would push again what it has pushed since the backup. It needs the key of admin."`
}

type plansListCmd struct {
	Status       plan.Status `name:"status" env:"-" help:"Only plans with this status: running, held, done or cancelled."`
	Company      string      `name:"company" env:"-" help:"Only plans of the company with this id."`
	Connection   string      `name:"connection" env:"-" help:"Only plans over the connection with this id."`
	periodFlags  `embed:"" set:"when=submitted"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a status that no plan has.
func (c *plansListCmd) Validate() error {
	switch c.Status {
	case "", plan.StatusRunning, plan.StatusHeld, plan.StatusDone, plan.StatusCancelled:
		return nil
	}
	return fmt.Errorf("--status: no plan is %q: use running, held, done or cancelled", c.Status)
}

// A listedPlan is a line of plans list.
type listedPlan struct {
	ID         string             `json:"id"`
	Company    string             `json:"company"`
	Connection string             `json:"connection"`
	Status     plan.Status        `json:"status"`
	Submitted  time.Time          `json:"submitted"`
	Steps      map[plan.State]int `json:"steps"` // how many are in each state
}

// Run lists the plans.
func (c *plansListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	return planListing.print(t, c.listFlags, func(each func(listedPlan) error) error {
		return plan.List(ctx, nc, nc.source, func(r plan.Record) error {
			if !c.selects(r) {
				return nil
			}
			p := listedPlan{r.Plan.ID, r.Plan.Company, r.Plan.Connection, r.Status, r.Submitted, map[plan.State]int{}}
			for _, s := range r.Steps {
				p.Steps[s.State]++
			}
			return each(p)
		})
	})
}

// planStates are the states of steps in the order in which a line counts them.
var planStates = []plan.State{plan.Done, plan.Skipped, plan.Pending, plan.Pushing, plan.Waiting, plan.Failed, plan.Unknown, plan.Held, plan.Cancelled}

// selects reports whether a plan is listed.
func (c *plansListCmd) selects(r plan.Record) bool {
	return (c.Status == "" || c.Status == r.Status) && (c.Company == "" || c.Company == r.Plan.Company) &&
		(c.Connection == "" || c.Connection == r.Plan.Connection) && c.contains(r.Submitted)
}

var planListing = listing[listedPlan]{
	noun: "plan",
	id:   func(p listedPlan) string { return p.ID },
	columns: []column[listedPlan]{
		{name: "PLAN", cell: func(p listedPlan) cell { return textCell(p.ID) }},
		{name: "STATUS", cell: func(p listedPlan) cell { return stateCell(string(p.Status), planColors[p.Status]) }},
		{name: "SUBMITTED", cell: func(p listedPlan) cell { return timeCell(p.Submitted) }},
		{name: "COMPANY", cell: func(p listedPlan) cell { return idCell(p.Company) }},
		{name: "CONNECTION", wide: true, cell: func(p listedPlan) cell { return idCell(p.Connection) }},
		{name: "STEPS", cell: planSteps},
	},
}

var planColors = map[plan.Status]color{plan.StatusDone: green, plan.StatusRunning: yellow, plan.StatusHeld: red}

// planSteps says how many steps are in each state.
func planSteps(p listedPlan) cell {
	var counts []string
	for _, s := range planStates {
		if n := p.Steps[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return textCell(strings.Join(counts, ", "))
}

type plansShowCmd struct {
	ID           string `arg:"" help:"The plan's id."`
	Payload      bool   `name:"payload" env:"-" help:"Print the bodies and files of the steps too. They hold your customers' data."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run prints one plan.
func (c *plansShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	r, err := plan.Get(ctx, nc, nc.source, c.ID)
	if errors.Is(err, plan.ErrNotFound) {
		return fmt.Errorf("%w: headgate plans list lists them", err)
	}
	if err != nil {
		return err
	}
	return c.printRecord(t, c.shown(r), r.Plan.ID, func() error {
		if err := printPlan(t, r); err != nil || !c.Payload {
			return err
		}
		return printPlanBodies(t.out, r.Plan)
	})
}

// shown returns the record without what the steps push, unless it was requested.
func (c *plansShowCmd) shown(r plan.Record) plan.Record {
	if !c.Payload {
		r.Plan.Steps = slices.Clone(r.Plan.Steps)
		for i := range r.Plan.Steps {
			r.Plan.Steps[i].Body, r.Plan.Steps[i].File = nil, nil
		}
	}
	return r
}

// printPlan writes what a plan is, its graph, and what operators did to it.
func printPlan(t *terminal, r plan.Record) error {
	err := printRows(t.out, [][2]string{
		{"plan", r.Plan.ID},
		{"status", string(r.Status)},
		{"company", r.Plan.Company},
		{"connection", r.Plan.Connection},
		{"submitted", t.time(r.Submitted)},
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(t.out, "\n%s", newPlanGraph(r).text()); err != nil {
		return err
	}
	var b strings.Builder
	if r.Status == plan.StatusHeld {
		b.WriteString("\nNo further step starts until headgate plans retry, skip, resume or cancel.\n")
	}
	for i, a := range r.Actions {
		fmt.Fprintf(&b, "%s%s  %s", map[bool]string{true: "\n"}[i == 0], t.time(a.At), a.Kind)
		for _, one := range [][2]string{{"", a.Step}, {" record", a.Record}, {" operation", a.Operation}, {" by", a.By}} {
			if one[1] != "" {
				b.WriteString(one[0] + " " + printable(one[1]))
			}
		}
		b.WriteByte('\n')
	}
	_, err = io.WriteString(t.out, b.String())
	return err
}

// printPlanBodies writes what each step pushes, before its references are replaced.
func printPlanBodies(w io.Writer, p plan.Plan) error {
	for _, s := range p.Steps {
		if _, err := fmt.Fprintf(w, "\nstep %s\n", printable(s.Name)); err != nil {
			return err
		}
		var err error
		switch {
		case s.File != nil:
			_, err = fmt.Fprintf(w, "    file %s, %s, %s\n", printable(s.File.Name), printable(s.File.ContentType), plural(len(s.File.Content), "byte"))
		case len(s.Body) > 0:
			err = printBody(w, s.Body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planActionFlags are the flags of every action.
type planActionFlags struct {
	ID           string `arg:"" help:"The plan's id."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// act carries out an action, and prints the status of the plan.
func (c planActionFlags) act(ctx context.Context, t *terminal, a plan.Action) error {
	a.Plan = c.ID
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		reply, err := o.ActOnPlan(ctx, a)
		if errors.Is(err, plan.ErrNotFound) {
			return fmt.Errorf("%w: headgate plans list lists them", err)
		}
		if err != nil {
			return err
		}
		return c.printRecord(t, planResult{ID: c.ID, Status: reply.Status}, c.ID, func() error {
			_, err := fmt.Fprintf(t.out, "%s of %s accepted: the plan is %s\n", a.Kind, printable(c.ID), reply.Status)
			return err
		})
	})
}

// A planResult is what an action prints as JSON.
type planResult struct {
	ID     string      `json:"id"`
	Status plan.Status `json:"status"`
}

type plansResumeCmd struct {
	planActionFlags `embed:""`
	Step            string `arg:"" optional:"" help:"Only this step."`
	Operation       string `name:"operation" env:"-" placeholder:"KEY" help:"The key of the push operation that the step has made, as Codat's Portal shows it."`
}

// Validate returns an error for a push operation without a step.
func (c *plansResumeCmd) Validate() error {
	if c.Operation != "" && c.Step == "" {
		return errors.New("--operation: name the step that has made it")
	}
	return nil
}

// Run looks for what became of unknown steps.
func (c *plansResumeCmd) Run(ctx context.Context, t *terminal) error {
	return c.act(ctx, t, plan.Action{Kind: plan.Resume, Step: c.Step, Operation: c.Operation})
}

type plansRetryCmd struct {
	planActionFlags `embed:""`
	Step            string `arg:"" help:"The failed or unknown step."`
}

// Run pushes a step again.
func (c *plansRetryCmd) Run(ctx context.Context, t *terminal) error {
	return c.act(ctx, t, plan.Action{Kind: plan.Retry, Step: c.Step})
}

type plansSkipCmd struct {
	planActionFlags `embed:""`
	Step            string `arg:"" help:"The step."`
	Record          string `name:"record" env:"-" placeholder:"ID" help:"The id of the record, or of the attachment, that other steps get in place of what the step would have made."`
}

// Run goes on without a step.
func (c *plansSkipCmd) Run(ctx context.Context, t *terminal) error {
	return c.act(ctx, t, plan.Action{Kind: plan.Skip, Step: c.Step, Record: c.Record})
}

type plansCancelCmd struct {
	planActionFlags `embed:""`
}

// Run starts no further step.
func (c *plansCancelCmd) Run(ctx context.Context, t *terminal) error {
	return c.act(ctx, t, plan.Action{Kind: plan.Cancel})
}

// readPlan reads the text of a plan from a file, or from the input for "-".
func readPlan(t *terminal, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(t.in)
	}
	return os.ReadFile(file)
}
