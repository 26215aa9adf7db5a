// Package stream is the contract on NATS between Headgate's processes and downstream services: the names of subjects,
// headers, streams, consumers and buckets, and the functions that provision, bind, publish, read and subscribe. Every name
// is defined here. A message is reported as stored only after its stream has acknowledged it.
package stream

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/codat"
)

// maxName is the longest name of a source, a worker or a state.
const maxName = 31

// Source names one Codat instance. The name is the first token of every subject and, in capitals, the beginning of every
// stream's name. The results of its methods are valid only for a source that Validate accepts.
type Source string

// Validate returns an error for a name that is not [a-z][a-z0-9-]{0,30} or ends with a dash, and for one whose streams could be those of
// another source.
func (s Source) Validate() error {
	if err := validateName("source", string(s)); err != nil {
		return err
	}
	for _, suffix := range []string{"-dead", "-parked", "-operator", "-claims"} {
		if strings.HasSuffix(string(s), suffix) {
			other := strings.TrimSuffix(string(s), suffix)
			return fmt.Errorf("source %q: its streams would collide with those of a source named %q: choose a name without %q at its end", s, other, suffix)
		}
	}
	return nil
}

// ValidateWorker refuses a name of a worker that is not [a-z][a-z0-9-]{0,30}, and one that ends with a dash, which no image and no
// object of Kubernetes does.
func ValidateWorker(name string) error {
	return validateName("worker", name)
}

// ExpectedState is the name of the state of what should have come and has not. headgate watch writes it, and no worker.
const ExpectedState = "expected"

// validateState returns an error for the name of a state whose bucket would be another one.
func validateState(name string) error {
	if err := validateName("state", name); err != nil {
		return err
	}
	if name == "workers" || name == "claims" || name == ExpectedState {
		return fmt.Errorf("state %q: Headgate uses the name itself: choose another", name)
	}
	return nil
}

// validateRequest returns an error for a request that is not a name and a name or "*", and for one whose subject a stream
// stores or may come to store.
func validateRequest(request string) error {
	kind, action, ok := strings.Cut(request, ".")
	if !ok || validateName("request", kind) != nil || action != "*" && validateName("request", action) != nil {
		return fmt.Errorf(`request %q: a request is two names with a dot between them, of which "*" may be the second: plans.submit, plans.*`, request)
	}
	if slices.Contains([]string{"events", "quarantine", "redrive", "parked", "dead", "operator"}, kind) {
		return fmt.Errorf("request %q: Headgate uses the subjects of %s itself: choose another", request, kind)
	}
	return nil
}

func validateName(kind, name string) error {
	bad := name == "" || len(name) > maxName || name[0] < 'a' || name[0] > 'z' || name[len(name)-1] == '-'
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		bad = (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}
	if bad {
		return fmt.Errorf("%s %q: a name is a small letter followed by up to %d small letters, digits or dashes, and no dash at its end", kind, name, maxName-1)
	}
	return nil
}

// Stream is the stream of the events, of the quarantine and of the redrives.
func (s Source) Stream() string {
	return strings.ToUpper(strings.ReplaceAll(string(s), "-", "_"))
}

// DeadStream is the stream of the dead letters.
func (s Source) DeadStream() string { return s.Stream() + "_DEAD" }

// ParkedStream is the stream of the events that wait long for their next attempt.
func (s Source) ParkedStream() string { return s.Stream() + "_PARKED" }

// OperatorStream is the stream with the record of operators' actions.
func (s Source) OperatorStream() string { return s.Stream() + "_OPERATOR" }

// WorkersBucket is the bucket with an entry for each running worker.
func (s Source) WorkersBucket() string { return s.Stream() + "_workers" }

// ClaimsBucket is the bucket of a worker's claims.
func (s Source) ClaimsBucket(worker string) string { return s.Stream() + "_claims_" + worker }

// StateBucket is the bucket of a state by its name, for example "connections".
func (s Source) StateBucket(name string) string { return s.Stream() + "_" + name }

// EventSubject is the subject of the events of a type. It returns codat.ErrBadType for what codat.ValidateType
// refuses.
func (s Source) EventSubject(typ string) (string, error) {
	if err := codat.ValidateType(typ); err != nil {
		return "", err
	}
	return string(s) + ".events." + typ, nil
}

// QuarantineSubject is the subject of verified requests that cannot be read as an event.
func (s Source) QuarantineSubject() string { return string(s) + ".quarantine" }

// OperatorSubject is the subject of the record of operators' actions.
func (s Source) OperatorSubject() string { return string(s) + ".operator" }

// PlansSubject is the subject of the requests about write plans that ask for an action: "submit", "resume", "retry", "skip"
// or "cancel". The worker writes answers them; no stream stores them.
func (s Source) PlansSubject(action string) string { return string(s) + ".plans." + action }

// FindSubject is the subject of the requests for the stored messages that have an id. headgate watch answers them; no stream
// stores them.
func (s Source) FindSubject() string { return string(s) + ".find" }

// RedriveSubject is the subject of a redrive: an event of a type that a worker is given again.
func (s Source) RedriveSubject(worker, typ string) string {
	return string(s) + ".redrive." + worker + "." + typ
}

// ParkedSubject is the subject of a worker's parked copy of an event of a type.
func (s Source) ParkedSubject(worker, typ string) string {
	return string(s) + ".parked." + worker + "." + typ
}

// DeadSubject is the subject of a worker's dead letters of a type.
func (s Source) DeadSubject(worker, typ string) string {
	return string(s) + ".dead." + worker + "." + typ
}

// EventFilter matches the events whose type a pattern chooses.
func (s Source) EventFilter(p codat.Pattern) string { return string(s) + ".events." + string(p) }

// RedriveFilter matches all redrives of a worker.
func (s Source) RedriveFilter(worker string) string { return string(s) + ".redrive." + worker + ".>" }

// ParkedFilter matches all parked copies of a worker.
func (s Source) ParkedFilter(worker string) string { return string(s) + ".parked." + worker + ".>" }

// DeadFilter matches all dead letters of a worker.
func (s Source) DeadFilter(worker string) string { return string(s) + ".dead." + worker + ".>" }

// TypeOf is the type in a subject of an event, a redrive, a parked event or a dead letter of this source, and "" for
// any other subject.
func (s Source) TypeOf(subject string) string {
	_, typ := s.split(subject)
	return typ
}

// WorkerOf is the worker in a subject of a redrive, a parked event or a dead letter of this source, and "" for any
// other subject.
func (s Source) WorkerOf(subject string) string {
	worker, _ := s.split(subject)
	return worker
}

func (s Source) split(subject string) (worker, typ string) {
	rest, ok := strings.CutPrefix(subject, string(s)+".")
	if !ok {
		return "", ""
	}
	kind, rest, _ := strings.Cut(rest, ".")
	switch kind {
	case "events":
		return "", rest
	case "redrive", "parked", "dead":
		if worker, typ, ok = strings.Cut(rest, "."); ok {
			return worker, typ
		}
	}
	return "", ""
}

// storesSubject reports whether a stream is the one that stores a subject of a source or of a bucket, and true for a
// subject that neither has. It does not allocate: it is called for each ack.
func storesSubject(stream, subject string) bool {
	if rest, ok := strings.CutPrefix(subject, "$KV."); ok {
		bucket, _, _ := strings.Cut(rest, ".")
		name, ok := strings.CutPrefix(stream, bucketPrefix)
		return ok && name == bucket
	}
	source, rest, _ := strings.Cut(subject, ".")
	kind, _, _ := strings.Cut(rest, ".")
	ok := true
	switch kind {
	case "events", "quarantine", "redrive":
	case "parked":
		stream, ok = strings.CutSuffix(stream, "_PARKED")
	case "dead":
		stream, ok = strings.CutSuffix(stream, "_DEAD")
	case "operator":
		stream, ok = strings.CutSuffix(stream, "_OPERATOR")
	default:
		return true
	}
	if !ok || len(stream) != len(source) {
		return false
	}
	for i := range len(source) { // as Source.Stream does
		switch c := source[i]; {
		case c == '-':
			ok = stream[i] == '_'
		case c >= 'a' && c <= 'z':
			ok = stream[i] == c-('a'-'A')
		default:
			ok = stream[i] == c
		}
		if !ok {
			return false
		}
	}
	return true
}
