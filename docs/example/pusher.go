package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
)

// A pusher submits the plans of expenses and follows them. Any number of processes may do so at once.
type pusher struct {
	expenses            expenses
	nc                  *nats.Conn
	js                  jetstream.JetStream
	source              stream.Source
	company, connection string
	wake                chan struct{} // there is a new expense
}

// run advances every open expense each second, and when there is a new one, until ctx ends. It reads the records of plans and
// does not watch them: a watch is a consumer, which the account of a team at NATS may not make.
func (p pusher) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := p.round(ctx); err != nil && ctx.Err() == nil {
			log.Printf("expenses wait: %v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-p.wake:
		}
	}
}

// round returns the first of its errors: most concern every expense.
func (p pusher) round(ctx context.Context) (first error) {
	open, err := p.expenses.open(ctx)
	if err != nil {
		return err
	}
	for _, e := range open {
		if err := p.advance(ctx, e); err != nil && first == nil {
			first = fmt.Errorf("%s: %w", e.Plan, err)
		}
	}
	return first
}

// advance submits the plan of a draft, and of another expense stores what the record of its plan says. A process that was
// killed after it submitted a plan leaves a draft, and the same plan is submitted again, which changes nothing.
func (p pusher) advance(ctx context.Context, e expense) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if e.Status == draft {
		_, err := plan.Submit(ctx, p.nc, p.source, p.planOf(e))
		switch {
		case err == nil, errors.Is(err, plan.ErrConflict): // in a conflict, another version of this program has submitted it
			return p.expenses.update(ctx, e.ID, outcome{Status: inProgress})
		case errors.Is(err, plan.ErrRefused):
			return p.expenses.update(ctx, e.ID, outcome{Status: failed, Reason: err.Error()})
		}
		return err
	}
	r, err := plan.Get(ctx, p.js, p.source, e.Plan)
	switch {
	case err == nil:
		return p.expenses.update(ctx, e.ID, outcomeOf(r))
	case errors.Is(err, plan.ErrNotFound) && e.Status == failed: // it was refused above
		return nil
	}
	return err
}

// planOf returns the plan of an expense. It follows from the row and the settings, so that it is the same each time.
func (p pusher) planOf(e expense) plan.Plan {
	type object = map[string]any
	body := func(o object) json.RawMessage {
		text, _ := json.Marshal(o) // of strings and numbers, which cannot fail; Submit refuses a plan without a body
		return text
	}
	const currency = "GBP"
	return plan.Plan{ID: e.Plan, Company: p.company, Connection: p.connection, Steps: []plan.Step{
		{Name: "account", Kind: plan.Create, DataType: codat.DataChartOfAccounts, Body: body(object{
			"name": literal(e.Account), "type": "Expense", "status": "Active", "currency": currency,
		})},
		// The reference makes this step wait for the account.
		{Name: "cost", Kind: plan.Create, DataType: codat.DataDirectCosts, Body: body(object{
			"reference": e.ID, "note": literal(e.Description), "issueDate": e.CreatedAt.UTC().Format(time.DateOnly), "currency": currency,
			"lineItems": []object{{
				"description": literal(e.Description), "quantity": 1, "unitAmount": e.Amount, "subTotal": e.Amount, "taxAmount": 0,
				"totalAmount": e.Amount, "accountRef": object{"id": "${steps.account.record.id}"},
			}},
			"paymentAllocations": []object{}, "subTotal": e.Amount, "taxAmount": 0, "totalAmount": e.Amount,
		})},
	}}
}

// literal returns a user's text for the body of a plan, where ${ begins a reference.
func literal(text string) string { return strings.ReplaceAll(text, "${", "$${") }

// outcomeOf returns what the record of a plan says of its expense.
func outcomeOf(r plan.Record) outcome {
	o := outcome{Status: inProgress}
	for _, s := range r.Steps {
		switch s.Name {
		case "account":
			o.AccountRecord = s.Record
		case "cost":
			o.CostRecord, o.PushOperationKey = s.Record, s.PushOperationKey
		}
		switch s.State {
		case plan.Failed:
			o.Status, o.Reason = failed, s.Name+": "+reason(s)
		case plan.Cancelled:
			o.Status, o.Reason = failed, s.Name+": an operator cancelled it"
		case plan.Unknown: // it may have happened, and an operator decides
			o.Reason = s.Name + ": " + s.Evidence
		case plan.Done, plan.Skipped:
			if s.Name == "cost" {
				o.Status = complete
			}
		}
	}
	return o
}

// reason is why a step was refused, for the user.
func reason(s plan.StepRecord) string {
	if s.Reason == nil {
		return "no reason is known"
	}
	texts := []string{s.Reason.Message}
	for _, e := range s.Reason.Errors {
		if !slices.Contains(texts, e.Message) {
			texts = append(texts, e.Message)
		}
	}
	return strings.Join(texts, "; ")
}
