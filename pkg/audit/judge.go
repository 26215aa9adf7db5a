package audit

import (
	"fmt"

	"github.com/headgate/headgate/pkg/claims"
)

// State is the state of an event for one worker.
type State string

// The states. Every event has exactly one of them for every worker that it belongs to. One that breaks promise 6 has none,
// and is an Exception.
const (
	Done     State = "done"      // its handler succeeded
	Waiting  State = "waiting"   // an attempt runs, or is due soon
	Parked   State = "parked"    // an attempt is due later
	Dead     State = "dead"      // it is a dead letter
	ToCome   State = "to come"   // it was not claimed yet
	notOwned State = "not owned" // it does not belong to the worker
)

// Kind is the kind of an exception.
type Kind string

// The kinds of exceptions.
const (
	Skipped      Kind = "skipped"       // the worker's consumer is past it, and it has no claim
	Stranded     Kind = "stranded"      // it waits, and nothing will deliver it
	NoLetter     Kind = "no-letter"     // its claim is dead, and there is no dead letter
	NoCopy       Kind = "no-copy"       // its claim is parked, and there is no parked copy
	DoneAndDead  Kind = "done-and-dead" // its claim is done, and there is a dead letter
	Expired      Kind = "expired"       // the stream dropped it before the worker settled it
	UnknownState Kind = "unknown-state" // its claim cannot be read
	Acknowledged Kind = "acknowledged"  // more events are open than the consumer has pending acks
	NoClaims     Kind = "no-claims"     // the worker has no claim at all, and should have
	NoConsumer   Kind = "no-consumer"   // the worker has a bucket of claims, and nothing delivers to it
	Unverified   Kind = "unverified"    // its stored signature does not verify its stored bytes
	NotStored    Kind = "not-stored"    // it is expected, and is not stored
	NotExpected  Kind = "not-expected"  // it is stored, and is not expected
	NotDone      Kind = "not-done"      // its effect is expected, and it is not done
	NoEffect     Kind = "no-effect"     // it is done, and no effect of it is expected
	Twice        Kind = "twice"         // its effect happened more than once
	Unreadable   Kind = "unreadable"    // a server cannot read it in its copy, and it was not deleted
	UnreadCopy   Kind = "unread-copy"   // a server's copy could not be read
)

// evidence is what was read about one event and one worker, for the newest message in which the worker got the event.
type evidence struct {
	owned    bool   // the worker takes its type, and it was stored after the worker's start
	sequence uint64 // of the message that the worker's consumer delivers
	claim    claims.State
	letter   bool // there is a dead letter
	copy     bool // there is a parked copy
}

// position is how far a consumer is.
type position struct {
	floor     uint64 // everything up to here is acknowledged
	delivered uint64 // nothing after this was ever delivered
	next      uint64 // everything from here on will be delivered
}

// verdict is a state, or the kind of an exception.
type verdict struct {
	state State
	wrong Kind
	// outstanding means that the verdict holds only while the message is among the consumer's pending acks. The server
	// tells how many these are, not which.
	outstanding bool
}

// judge returns the state of an event, or what is wrong with it. It is a pure function.
func judge(e evidence, p position) verdict {
	outstanding := e.sequence > p.floor && e.sequence <= p.delivered
	past := e.sequence < p.next && !outstanding
	pending := func(s State, wrong Kind) verdict {
		switch {
		case e.copy:
			return verdict{state: s}
		case past:
			return verdict{wrong: wrong}
		}
		return verdict{state: s, outstanding: outstanding}
	}
	switch e.claim {
	case "":
		switch {
		case e.owned:
			return pending(ToCome, Skipped)
		case e.copy:
			return verdict{state: Parked}
		}
		return verdict{state: notOwned}
	case claims.Done:
		if e.letter {
			return verdict{wrong: DoneAndDead}
		}
		return verdict{state: Done}
	case claims.Dead:
		if !e.letter {
			return verdict{wrong: NoLetter}
		}
		return verdict{state: Dead}
	case claims.Parked:
		if !e.copy {
			return verdict{wrong: NoCopy}
		}
		return verdict{state: Parked}
	case claims.Running, claims.Waiting, claims.Burying:
		return pending(Waiting, Stranded)
	}
	return verdict{wrong: UnknownState}
}

// isOpen reports whether an event with a claim in this state is not settled.
func isOpen(s claims.State) bool { return s != claims.Done && s != claims.Dead }

// describe says what is wrong in words that need no knowledge of Headgate's inside, and names the cure.
func describe(k Kind, worker string) string {
	replay := fmt.Sprintf("give it again with headgate replay --worker %s", worker)
	switch k {
	case Skipped:
		return "the worker's consumer is past it, and the worker never claimed it: " + replay
	case Stranded:
		return "its claim waits for another attempt, and nothing will deliver it: " + replay
	case NoLetter:
		return "its claim is dead, and the archive has no dead letter of it: " + replay
	case NoCopy:
		return "its claim is parked, and no parked copy of it exists: " + replay
	case DoneAndDead:
		return "its claim is done, and the archive has a dead letter of it"
	case Expired:
		return "its claim is open, and the stream has dropped the event"
	case UnknownState:
		return "this version cannot read its claim: run the audit of the worker's version"
	case Unverified:
		return "its stored signature does not verify its stored bytes under any of the keys"
	case NotStored:
		return "it is expected, and it is not stored"
	case NotExpected:
		return "it is stored, and it is not expected"
	case NotDone:
		return "an effect of it is expected, and its claim is not done"
	case NoEffect:
		return "its claim is done, and no effect of it is expected"
	case Twice:
		return "its effect happened more than once"
	}
	return string(k)
}
