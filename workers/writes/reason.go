package writes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

// pushes is the call of Codat's API that the worker makes. It is an *api.Client.
type pushes interface {
	Push(ctx context.Context, company, key string) (api.PushOperation, error)
}

// The limits of a reason keep a record, which has it twice, far below the largest message.
const (
	maxRemarks = 20
	maxText    = 2 << 10 // bytes of a message
	maxName    = 256     // bytes
	maxMinutes = 366 * 24 * 60
)

// askReason asks Codat's API why a write failed or timed out, and adds the answer to its record. It asks nothing when the
// answer is there, without an API key, and for an operation that the API does not know. An API that does not answer concerns
// the reason and not the record: the error counts an attempt, and does not pause the worker. A wait that Codat asks for
// is shorter than the worker's own pauses, which last longer than a day of a used-up quota.
func (s Store) askReason(ctx context.Context, r state.Write) error {
	if s.pushes == nil || r.Company == "" || r.Status != codat.Failed && r.Status != codat.TimedOut {
		return nil
	}
	if r.Asked != nil && rank(r.Asked.Status) >= rank(r.Status) {
		return nil
	}
	operation, err := s.pushes.Push(ctx, r.Company, r.PushOperationKey)
	switch {
	case errors.Is(err, api.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("reason of the write: %w", err)
	case rank(operation.Status) < rank(r.Status):
		return fmt.Errorf("reason of the write: Codat's API says %q of a push operation that is %q by its event", operation.Status, r.Status)
	}
	return workers.UpdateRecord(ctx, s.writes, r.PushOperationKey, func(now state.Write) state.Write {
		now.PushOperationKey = r.PushOperationKey
		return withAnswer(now, answer(operation, time.Now()))
	})
}

// answer returns what the API says of a write.
func answer(o api.PushOperation, received time.Time) state.WriteFact {
	f := state.WriteFact{
		Received: received, Status: o.Status, Company: o.Company, Connection: o.Connection, DataType: o.DataType,
		Requested: o.Requested.Time, Completed: o.Completed.Time, TimeoutMinutes: min(max(o.TimeoutMinutes, 0), maxMinutes),
	}
	for _, change := range o.Changes {
		if f.Record == "" {
			f.Record, f.Attachment = change.Record.ID, change.AttachmentID
		}
	}
	reason := state.WriteReason{
		Message: limited(o.ErrorMessage, maxText), Errors: remarks(o.Validation.Errors), Warnings: remarks(o.Validation.Warnings),
	}
	if reason.Message != "" || reason.Errors != nil || reason.Warnings != nil {
		f.Reason = &reason
	}
	return f
}

func remarks(items []api.ValidationItem) (all []state.WriteRemark) {
	for _, item := range items[:min(len(items), maxRemarks)] {
		all = append(all, state.WriteRemark{
			Item: limited(item.ItemID, maxName), Message: limited(item.Message, maxText), Validator: limited(item.ValidatorName, maxName),
		})
	}
	return all
}

// limited returns a text, or its beginning.
func limited(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
