package writes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
)

// The record of the largest plan, all of whose steps have failed for the longest reasons, is smaller than the largest message.
func TestPlans_RecordOfTheLargestPlanFitsIntoAMessage(t *testing.T) {
	p := plan.Plan{ID: strings.Repeat("i", 128), Company: "c", Connection: "k"}
	size := plan.MaxBytes/plan.MaxSteps - 300
	for i := range plan.MaxSteps {
		body := fmt.Appendf(nil, `{"a":%q}`, strings.Repeat("x", size))
		p.Steps = append(p.Steps, plan.Step{Name: fmt.Sprintf("%064d", i), Kind: plan.Create, DataType: codat.DataBankTransactions, Body: body})
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	r, err := plan.NewRecord(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("y", maxText)
	remark := state.WriteRemark{Item: strings.Repeat("z", maxName), Message: long, Validator: strings.Repeat("z", maxName)}
	var remarks []state.WriteRemark
	for range maxRemarks {
		remarks = append(remarks, remark)
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		s.Push = &plan.Push{Key: strings.Repeat("k", 36), Hash: strings.Repeat("h", 64), By: nonce()}
		s.PushOperationKey, s.Record = strings.Repeat("p", 36), strings.Repeat("r", 36)
		fail(s, &state.WriteReason{Message: long, Errors: remarks, Warnings: remarks}, time.Now())
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const largest = 1 << 20
	if len(text) > largest-1<<10 {
		t.Errorf("the record has %d bytes; want less than the largest message, %d", len(text), largest)
	}
}
