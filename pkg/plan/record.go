package plan

import (
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/state"
)

// StateName is the name of the state of the plans: the bucket is CODAT_plans for the source codat. The worker writes writes
// it. Its keys are the ids of the plans; keys that begin with OpenPrefix are the worker's own.
const StateName = "plans"

// OpenPrefix begins the keys of the worker's lists of open plans, those that go on without an action. The id of a plan has no dot. A list is
// a JSON object: the ids, and what the worker keeps of each.
const OpenPrefix = "open."

// A Record is a plan and what became of it so far.
type Record struct {
	Plan      Plan         `json:"plan"`
	Hash      string       `json:"hash"` // of the plan
	Submitted time.Time    `json:"submitted"`
	Status    Status       `json:"status"`
	Steps     []StepRecord `json:"steps"` // of the same place in Plan.Steps
	// Cancelled says that no further step starts.
	Cancelled bool `json:"cancelled,omitempty"`
	// Generation counts the actions and the outcomes of unknown steps, and Actions has the last 20 actions.
	Generation int      `json:"generation"`
	Actions    []Action `json:"actions,omitempty"`
}

// Status is what a plan is doing.
type Status string

// The statuses of a plan.
const (
	StatusRunning   Status = "running"
	StatusHeld      Status = "held" // a step is failed or unknown: no further step starts until an action
	StatusDone      Status = "done" // every step is done or skipped
	StatusCancelled Status = "cancelled"
)

// State is where a step is.
type State string

// The states of a step.
const (
	Waiting   State = "waiting"   // for the steps before it, or for Codat
	Pushing   State = "pushing"   // the intent is recorded, and the answer is not known yet
	Pending   State = "pending"   // Codat has made a push operation
	Done      State = "done"      // the push operation is Success
	Failed    State = "failed"    // Codat or the platform refused it: Reason says why
	Unknown   State = "unknown"   // it may have happened: Evidence says what is known
	Held      State = "held"      // a step of the plan is failed or unknown
	Skipped   State = "skipped"   // by an action
	Cancelled State = "cancelled" // by an action
)

// A StepRecord is what became of a step.
type StepRecord struct {
	Name  string    `json:"name"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Try counts the idempotency keys with which the step was pushed. The first is 1.
	Try int `json:"try,omitempty"`
	// Refusals counts the tries in a row that Codat answered 5xx and that made nothing.
	Refusals int `json:"refusals,omitempty"`
	// Push is the newest try.
	Push *Push `json:"push,omitempty"`
	// NotBefore is when the step is looked at again, and Wait says why it waits.
	NotBefore time.Time `json:"not_before,omitzero"`
	Wait      string    `json:"wait,omitempty"`

	PushOperationKey string             `json:"push_operation_key,omitempty"`
	Record           string             `json:"record,omitempty"`     // its id on the platform
	Attachment       string             `json:"attachment,omitempty"` // its id
	Reason           *state.WriteReason `json:"reason,omitempty"`     // of a failed step; its texts can be personal data
	// Evidence is what is known of an unknown step, and of one whose push operation was found in Codat's history.
	Evidence string `json:"evidence,omitempty"`
}

// A Push is one intent to write, recorded before the call that it intends.
type Push struct {
	Key    string    `json:"key"`  // the idempotency key, a GUID; an update and a delete have none at Codat
	Hash   string    `json:"hash"` // SHA-256 of the bytes that are sent
	Began  time.Time `json:"began"`
	Called time.Time `json:"called"` // when the newest call began
	Calls  int       `json:"calls"`
	// Refused is the status of an answer that Codat remembers for the key, so that another call cannot tell what happened.
	Refused int `json:"refused,omitempty"`
	// By is the process that calls, and Lease is until when no other does.
	By    string    `json:"by"`
	Lease time.Time `json:"lease,omitzero"`
}

// NewRecord returns the record of a valid plan that was submitted now.
func NewRecord(p Plan, now time.Time) (Record, error) {
	hash, err := p.Hash()
	r := Record{Plan: p, Hash: hash, Submitted: now.UTC(), Status: StatusRunning}
	for _, s := range p.Steps {
		r.Steps = append(r.Steps, StepRecord{Name: s.Name, State: Waiting, Since: now.UTC()})
	}
	return r, err
}

// Resolved returns step i with its references replaced by what the steps before it have made. The error names a reference
// to what a step has not made.
func (r Record) Resolved(i int) (Step, error) {
	return r.Plan.Steps[i].resolve(func(ref reference) (string, error) {
		var value string
		if j := r.Plan.index(ref.step); j >= 0 {
			value = r.Steps[j].Record
			if ref.what == "attachment" {
				value = r.Steps[j].Attachment
			}
		}
		if value == "" {
			return "", fmt.Errorf("${steps.%s.%s.id} has no value", ref.step, ref.what)
		}
		return value, nil
	})
}

// NeededBy returns the name of a step that refers to what a step makes, its record or its attachment, and "" when none does.
func (r Record) NeededBy(step string) (name, what string) {
	for _, s := range r.Plan.Steps {
		for _, ref := range s.references() {
			if ref.step == step {
				return s.Name, ref.what
			}
		}
	}
	return "", ""
}
