package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/headgate/headgate/workers"
)

// An Expectation is an independent count: which events were sent, and which effects workers had. What it says nothing
// about is not compared.
type Expectation struct {
	sent    map[string]bool
	effects map[string]*effects // by worker
}

// effects are what is known of one worker's from elsewhere.
type effects struct {
	count map[workers.Key]int
}

// ReadExpectation reads lines. A line is a webhook-id: that event was sent; or a JSON object with a webhook_id, which
// with a worker, and a redrive if it was one, says that this worker's handler had its effect once. Empty lines are
// skipped. The same event may be sent twice; an effect may not be had twice.
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
		var said struct {
			WebhookID string `json:"webhook_id"`
			Worker    string `json:"worker"`
			Redrive   string `json:"redrive"`
		}
		if err := json.Unmarshal(line, &said); err != nil || said.WebhookID == "" {
			return nil, fmt.Errorf("line %d is neither a webhook-id nor a JSON object with a webhook_id", n)
		}
		if said.Worker == "" {
			x.sent[said.WebhookID] = true
			continue
		}
		if x.effects[said.Worker] == nil {
			x.effects[said.Worker] = &effects{map[workers.Key]int{}}
		}
		x.effects[said.Worker].count[workers.Key{WebhookID: said.WebhookID, Redrive: said.Redrive}]++
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(x.sent)+len(x.effects) == 0 {
		return nil, errors.New("it is empty")
	}
	return x, nil
}

// of are the effects of a worker; nil when nothing is said of them.
func (x *Expectation) of(worker string) *effects {
	if x == nil {
		return nil
	}
	return x.effects[worker]
}

// stored compares what was sent with what was stored until began. What is in the quarantine is stored too.
func (x *Expectation) stored(l *ledger, began time.Time) []Exception {
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
	for _, e := range l.events {
		compare(e.id, l.types[e.typ], e.sequence, time.Unix(0, e.stored))
	}
	for _, q := range l.quarantined {
		compare(q.WebhookID, "", q.Sequence, q.Stored)
	}
	for id := range x.sent {
		if !have[id] {
			wrong = append(wrong, Exception{Kind: NotStored, WebhookID: id})
		}
	}
	return wrong
}

// has reports whether an effect is expected, or nothing is said of any.
func (f *effects) has(k workers.Key) bool { return f == nil || f.count[k] > 0 }
