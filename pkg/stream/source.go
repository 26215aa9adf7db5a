// Package stream is the contract on the wire: the subjects, headers, streams, consumers and buckets that Headgate's
// processes and its downstream services share, and the ways to make them, to bind to them and to publish into them.
// Every name is made here and nowhere else, and nothing here reports an event as stored before its stream said so.
package stream

import (
	"errors"
	"fmt"
	"strings"
)

// ErrBadType means that a type cannot be a part of a subject. Such an event belongs into the quarantine.
var ErrBadType = errors.New("type cannot be a subject")

// The limits of an event type. They keep a subject far below what a server accepts.
const (
	MaxTypeLength = 200 // characters
	MaxTypeTokens = 16  // parts between dots
)

// maxName is the longest name of a source, a worker or a state.
const maxName = 31

// Source names one Codat instance: its name is the first token of every subject and, in capitals, the stem of every
// stream. Its methods give the names; they promise nothing for a source that Validate refuses.
type Source string

// Validate refuses a name that is not [a-z][a-z0-9-]{0,30}, and one whose streams could be another source's.
func (s Source) Validate() error {
	if err := validateName("source", string(s)); err != nil {
		return err
	}
	for _, suffix := range []string{"-dead", "-parked", "-plans", "-operator", "-claims"} {
		if strings.HasSuffix(string(s), suffix) {
			other := strings.TrimSuffix(string(s), suffix)
			return fmt.Errorf("source %q: its streams would collide with those of a source named %q: choose a name without %q at its end", s, other, suffix)
		}
	}
	return nil
}

// ValidateWorker refuses a name of a worker that is not [a-z][a-z0-9-]{0,30}. Names that begin with "tail-" are kept
// for the durables of headgate tail.
func ValidateWorker(name string) error {
	if err := validateName("worker", name); err != nil {
		return err
	}
	if strings.HasPrefix(name, TailPrefix) {
		return fmt.Errorf("worker %q: names that begin with %q belong to headgate tail: choose another", name, TailPrefix)
	}
	return nil
}

// TailPrefix begins the name of every durable consumer that headgate tail makes, and of no worker.
const TailPrefix = "tail-"

// validateState refuses the name of a state whose bucket would be another's.
func validateState(name string) error {
	if err := validateName("state", name); err != nil {
		return err
	}
	if name == "workers" || name == "claims" {
		return fmt.Errorf("state %q: the name is taken by Headgate itself: choose another", name)
	}
	return nil
}

func validateName(kind, name string) error {
	bad := name == "" || len(name) > maxName || name[0] < 'a' || name[0] > 'z'
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		bad = (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}
	if bad {
		return fmt.Errorf("%s %q: a name is a small letter and then up to %d small letters, digits or dashes", kind, name, maxName-1)
	}
	return nil
}

// Stream is the stream of the events, of the quarantine and of the redrives.
func (s Source) Stream() string {
	return strings.ToUpper(strings.ReplaceAll(string(s), "-", "_"))
}

// DeadStream is the stream of the dead letters.
func (s Source) DeadStream() string { return s.Stream() + "_DEAD" }

// ParkedStream is the stream of the events that wait long before they are tried again.
func (s Source) ParkedStream() string { return s.Stream() + "_PARKED" }

// PlansStream is the stream of the write plans.
func (s Source) PlansStream() string { return s.Stream() + "_PLANS" }

// OperatorStream is the stream of what operators did.
func (s Source) OperatorStream() string { return s.Stream() + "_OPERATOR" }

// WorkersBucket is the bucket in which running workers report themselves.
func (s Source) WorkersBucket() string { return s.Stream() + "_workers" }

// ClaimsBucket is the bucket of a worker's claims.
func (s Source) ClaimsBucket(worker string) string { return s.Stream() + "_claims_" + worker }

// StateBucket is the bucket of a state by its name, for example "connections".
func (s Source) StateBucket(name string) string { return s.Stream() + "_" + name }

// EventSubject is the subject of the events of a type. It returns ErrBadType for a type that has a token outside
// [A-Za-z0-9_-], an empty one, more than MaxTypeTokens of them or more than MaxTypeLength characters.
func (s Source) EventSubject(typ string) (string, error) {
	if err := validateType(typ, false); err != nil {
		return "", err
	}
	return string(s) + ".events." + typ, nil
}

// QuarantineSubject is the subject of what was proven but cannot be read as an event.
func (s Source) QuarantineSubject() string { return string(s) + ".quarantine" }

// OperatorSubject is the subject of what operators did.
func (s Source) OperatorSubject() string { return string(s) + ".operator" }

// RedriveSubject is the subject of an event of a type that is given to a worker again.
func (s Source) RedriveSubject(worker, typ string) string {
	return string(s) + ".redrive." + worker + "." + typ
}

// ParkedSubject is the subject of an event of a type that waits long for a worker.
func (s Source) ParkedSubject(worker, typ string) string {
	return string(s) + ".parked." + worker + "." + typ
}

// DeadSubject is the subject of a worker's dead letters of a type.
func (s Source) DeadSubject(worker, typ string) string {
	return string(s) + ".dead." + worker + "." + typ
}

// EventFilter matches the events of a type, or of a pattern in which "*" stands for exactly one token.
func (s Source) EventFilter(name string) string { return string(s) + ".events." + name }

// RedriveFilter matches all that is given to a worker again.
func (s Source) RedriveFilter(worker string) string { return string(s) + ".redrive." + worker + ".>" }

// ParkedFilter matches all that waits long for a worker.
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

// validateType checks a type, or with wild a name in which a token may be "*".
func validateType(typ string, wild bool) error {
	if len(typ) > MaxTypeLength {
		return fmt.Errorf("%w: longer than %d characters", ErrBadType, MaxTypeLength)
	}
	tokens := 1
	start := 0
	for i := 0; i <= len(typ); i++ {
		if i < len(typ) && typ[i] != '.' {
			if c := typ[i]; !isTypeByte(c) && !(wild && c == '*') {
				return fmt.Errorf("%w: it has a character that is not a letter, a digit, _ or -", ErrBadType)
			}
			continue
		}
		token := typ[start:i]
		if token == "" {
			return fmt.Errorf("%w: a part between dots is empty", ErrBadType)
		}
		if strings.Contains(token, "*") && token != "*" {
			return fmt.Errorf("%w: a star stands for a whole part between dots", ErrBadType)
		}
		start = i + 1
		if i < len(typ) {
			tokens++
		}
	}
	if tokens > MaxTypeTokens {
		return fmt.Errorf("%w: more than %d parts between dots", ErrBadType, MaxTypeTokens)
	}
	return nil
}

func isTypeByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
