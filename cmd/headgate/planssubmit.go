package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/process"
)

type plansSubmitCmd struct {
	File         string `arg:"" type:"existingfile" help:"File with the plan as JSON; - is standard input."`
	CheckOptions bool   `name:"check-options" env:"-" help:"Ask Codat what the platform requires of each record that a step creates, and submit nothing when a member is missing. It needs --codat-key-file."`

	Codat        api.Settings `embed:""`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a setting of Codat's API that cannot be used, when it is to be called.
func (c *plansSubmitCmd) Validate() error {
	switch {
	case !c.CheckOptions:
		return nil
	case !c.Codat.Enabled():
		return errors.New("--check-options needs --codat-key-file")
	}
	return c.Codat.Validate()
}

// A submittedPlan is what plans submit prints as JSON.
type submittedPlan struct {
	ID     string      `json:"id"`
	Steps  int         `json:"steps"`
	New    bool        `json:"new"` // it was not submitted before
	Status plan.Status `json:"status"`
}

// Run submits a plan that has no faults.
func (c *plansSubmitCmd) Run(ctx context.Context, t *terminal) error {
	text, err := readPlan(t, c.File)
	if err != nil {
		return err
	}
	p, err := plan.Parse(text)
	if err == nil && c.CheckOptions {
		err = c.checkOptions(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("nothing was submitted: %w", err)
	}
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		reply, err := o.SubmitPlan(ctx, p)
		if err != nil {
			return err
		}
		s := submittedPlan{p.ID, len(p.Steps), reply.New, reply.Status}
		return c.printRecord(t, s, s.ID, func() error {
			line := fmt.Sprintf("submitted %s: %s", s.ID, plural(s.Steps, "step"))
			if !s.New {
				line = fmt.Sprintf("%s was submitted before: it is %s", s.ID, s.Status)
			}
			_, err := fmt.Fprintln(t.out, line)
			return err
		})
	})
}

// checkOptions returns an error that names each member which the platform requires of a record and which its step lacks.
func (c *plansSubmitCmd) checkOptions(ctx context.Context, p plan.Plan) error {
	client, err := api.New(c.Codat, prometheus.NewRegistry())
	if err != nil {
		return process.Misconfigured(err)
	}
	defer client.Close()
	options := map[codat.DataType]api.Option{}
	var faults []error
	for _, s := range p.Steps {
		if s.Kind != plan.Create {
			continue
		}
		option, known := options[s.DataType]
		if !known {
			option, err = client.Options(ctx, api.Target{Company: p.Company, Connection: p.Connection, DataType: s.DataType})
			if err != nil {
				return fmt.Errorf("step %q: options of %s: %w", s.Name, s.DataType, err)
			}
			options[s.DataType] = option
		}
		var body any
		if err := json.Unmarshal(s.Body, &body); err != nil {
			return fmt.Errorf("step %q: body: %w", s.Name, err)
		}
		for _, path := range missingMembers(option, body, "body") {
			faults = append(faults, fmt.Errorf("step %q: %s: it is missing, and the platform requires it", s.Name, path))
		}
	}
	return errors.Join(faults...)
}

// missingMembers returns the paths of the members that an option requires and a value lacks, in the order of their names. Of
// an array, the properties of the option are those of its elements.
func missingMembers(o api.Option, value any, path string) []string {
	var missing []string
	switch v := value.(type) {
	case []any:
		for i, element := range v {
			missing = append(missing, missingMembers(o, element, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(o.Properties)) {
			property := o.Properties[name]
			member, has := v[name]
			switch {
			case has && member != nil:
				missing = append(missing, missingMembers(property, member, path+"."+name)...)
			case property.Required:
				missing = append(missing, path+"."+name)
			}
		}
	}
	return missing
}
