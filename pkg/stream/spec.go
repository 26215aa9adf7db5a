package stream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

// specJSON is a WorkerSpec in JSON.
type specJSON struct {
	Name          string            `json:"name"`
	Types         []codat.Pattern   `json:"types"`
	State         []string          `json:"state,omitempty"`
	Reads         []string          `json:"reads,omitempty"`
	StateMaxAge   map[string]string `json:"state_max_age,omitempty"`
	Requests      []string          `json:"requests,omitempty"`
	AckWait       string            `json:"ack_wait,omitempty"`
	MaxAckPending int               `json:"max_ack_pending,omitempty"`
	Begin         string            `json:"begin,omitempty"`
}

// MarshalJSON returns the spec as ParseSpec reads it: {"name", "types", "state", "reads", "state_max_age",
// "requests", "ack_wait", "max_ack_pending", "begin"}. Durations are as time.ParseDuration reads them; begin is "new", "all" or a time in
// RFC 3339.
func (w WorkerSpec) MarshalJSON() ([]byte, error) {
	s := specJSON{
		Name: w.Name, Types: w.Types, State: w.State, Reads: w.Reads, Requests: w.Requests, MaxAckPending: w.MaxAckPending, Begin: w.Begin.String(),
	}
	for state, age := range w.StateMaxAge {
		if s.StateMaxAge == nil {
			s.StateMaxAge = map[string]string{}
		}
		s.StateMaxAge[state] = age.String()
	}
	if w.AckWait != 0 {
		s.AckWait = w.AckWait.String()
	}
	return json.Marshal(s)
}

// ParseSpec reads a spec that a worker's --spec printed, and validates it. An unknown field is an error: a later version
// wrote it, and what it asks for would be missing.
func ParseSpec(data []byte) (WorkerSpec, error) {
	var s specJSON
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return WorkerSpec{}, fmt.Errorf("not what a worker's --spec prints: %w", err)
	}
	if d.More() {
		return WorkerSpec{}, fmt.Errorf("not what a worker's --spec prints: something follows the spec of %s", s.Name)
	}
	w := WorkerSpec{Name: s.Name, Types: s.Types, State: s.State, Reads: s.Reads, Requests: s.Requests, MaxAckPending: s.MaxAckPending}
	for state, text := range s.StateMaxAge {
		age, err := time.ParseDuration(text)
		if err != nil {
			return WorkerSpec{}, fmt.Errorf("worker %s: state_max_age of %s must be a duration, as 2160h: %w", s.Name, state, err)
		}
		if w.StateMaxAge == nil {
			w.StateMaxAge = map[string]time.Duration{}
		}
		w.StateMaxAge[state] = age
	}
	if s.AckWait != "" {
		wait, err := time.ParseDuration(s.AckWait)
		if err != nil {
			return WorkerSpec{}, fmt.Errorf("worker %s: ack_wait must be a duration, as 1m0s: %w", s.Name, err)
		}
		w.AckWait = wait
	}
	switch s.Begin {
	case "", "new":
	case "all":
		w.Begin = BeginAll()
	default:
		from, err := time.Parse(time.RFC3339, s.Begin)
		if err != nil {
			return WorkerSpec{}, fmt.Errorf("worker %s: begin must be new, all or a time as 2026-11-30T12:00:00Z: %w", s.Name, err)
		}
		w.Begin = BeginFrom(from)
	}
	if len(w.Types) == 0 {
		return WorkerSpec{}, fmt.Errorf("worker %s: types must name the events that it handles", s.Name)
	}
	return w, w.Validate()
}

// Subjects are the subjects to which the worker's process publishes, requests among them: its NATS user needs permission
// for these and no others, and to answer what it hears on RequestSubjects. It subscribes to these in the queue group of its
// name, and to _INBOX_<name>.>.
func (w WorkerSpec) Subjects(s Source) []string {
	var all []string
	for _, stream := range []string{s.Stream(), s.ParkedStream()} {
		consumer := stream + "." + w.Name
		all = append(all,
			"$JS.API.CONSUMER.INFO."+consumer,
			"$JS.API.CONSUMER.MSG.NEXT."+consumer,
			"$JS.ACK."+consumer+".>",
			"$JS.ACK.*.*."+consumer+".>", // as servers to come name it
		)
	}
	all = append(all, s.ParkedFilter(w.Name), s.DeadFilter(w.Name))
	for _, shared := range []string{s.ParkedStream(), s.DeadStream()} {
		all = append(all, "$JS.API.STREAM.INFO."+shared) // how much of it the worker holds
	}
	buckets := []string{s.ClaimsBucket(w.Name)}
	for _, state := range w.State {
		buckets = append(buckets, s.StateBucket(state))
	}
	for _, bucket := range buckets {
		all = append(all, "$JS.API.STREAM.INFO.KV_"+bucket, "$JS.API.DIRECT.GET.KV_"+bucket+".>", "$KV."+bucket+".>")
	}
	for _, state := range w.Reads {
		bucket := s.StateBucket(state)
		all = append(all, "$JS.API.STREAM.INFO.KV_"+bucket, "$JS.API.DIRECT.GET.KV_"+bucket+".>")
	}
	return append(all, "$KV."+s.WorkersBucket()+"."+w.Name+".>")
}

// RequestSubjects are the subjects of the requests that the worker answers. Each replica subscribes to them in the queue group
// of the worker's name, so that one of them gets each request.
func (w WorkerSpec) RequestSubjects(s Source) []string {
	var all []string
	for _, r := range w.Requests {
		all = append(all, string(s)+"."+r)
	}
	return all
}
