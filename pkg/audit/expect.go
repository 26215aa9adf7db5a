package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/headgate/headgate/pkg/claims"
)

// An Expectation is an independent count: which events were sent, and which effects the handlers of workers had. Only
// what it names is compared.
type Expectation struct {
	sent    map[string]bool
	effects map[string]*effects // by worker
}

// effects are the effects of one worker.
type effects struct {
	count map[claims.Key]int
}

// ReadExpectation reads one expectation from each line. A webhook-id, or a JSON object with a webhook_id, is an event that
// was sent. A JSON object with a webhook_id and a worker, and with a redrive if it was one, is one effect of this worker's
// handler. Empty lines are skipped. An event may occur more than once; an effect may not.
func ReadExpectation(r io.Reader) (*Expectation, error) {
	x := &Expectation{sent: map[string]bool{}, effects: map[string]*effects{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' {
			x.sent[string(line)] = true
			continue
		}
		var object struct {
			WebhookID string `json:"webhook_id"`
			Worker    string `json:"worker"`
			Redrive   string `json:"redrive"`
		}
		if err := json.Unmarshal(line, &object); err != nil || object.WebhookID == "" {
			return nil, fmt.Errorf("line %d is neither a webhook-id nor a JSON object with a webhook_id", n)
		}
		if object.Worker == "" {
			x.sent[object.WebhookID] = true
			continue
		}
		if x.effects[object.Worker] == nil {
			x.effects[object.Worker] = &effects{map[claims.Key]int{}}
		}
		x.effects[object.Worker].count[claims.Key{WebhookID: object.WebhookID, Redrive: object.Redrive}]++
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(x.sent)+len(x.effects) == 0 {
		return nil, errors.New("it has no lines")
	}
	return x, nil
}

// effectsOf returns the effects of a worker; nil when none are expected, which means no comparison.
func (x *Expectation) effectsOf(worker string) *effects {
	if x == nil {
		return nil
	}
	return x.effects[worker]
}

// compareStored compares what was sent with what was stored until began, the quarantine included.
func (x *Expectation) compareStored(log *eventLog, began time.Time) []Exception {
	if x == nil || len(x.sent) == 0 {
		return nil
	}
	var wrong []Exception
	have := map[string]bool{}
	compare := func(id, typ string, sequence uint64, at time.Time) {
		have[id] = true
		if !x.sent[id] && at.Before(began) {
			wrong = append(wrong, Exception{Kind: NotExpected, Sequence: sequence, Type: typ, WebhookID: id})
		}
	}
	for _, e := range log.events {
		compare(e.id, log.types[e.typ], e.sequence, time.Unix(0, e.stored))
	}
	for _, q := range log.quarantined {
		compare(q.WebhookID, "", q.Sequence, q.Stored)
	}
	for id := range x.sent {
		if !have[id] {
			wrong = append(wrong, Exception{Kind: NotStored, WebhookID: id})
		}
	}
	return wrong
}

// expected reports whether an effect is expected. It is true without a comparison.
func (f *effects) expected(k claims.Key) bool { return f == nil || f.count[k] > 0 }
