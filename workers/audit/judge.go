package audit

import (
	"fmt"

	"github.com/headgate/headgate/workers"
)

// Standing is where an event stands for a worker.
type Standing string

// The standings. Every event has exactly one of them for every worker that it belongs to, unless promise 6 is broken:
// then it has none, and is an Exception.
const (
	Done    Standing = "done"    // its handler succeeded
	Waiting Standing = "waiting" // an attempt runs, or is due soon
	Parked  Standing = "parked"  // an attempt is due later
	Dead    Standing = "dead"    // it is a dead letter
	ToCome  Standing = "to come" // its worker has not begun with it
	foreign Standing = "foreign" // it does not belong to the worker
)

// Kind is what is wrong, in a word for programs.
type Kind string

// The kinds of exceptions.
const (
	Skipped      Kind = "skipped"       // the worker's consumer is past it, and nothing is known of it
	Stranded     Kind = "stranded"      // it waits, and nothing will deliver it
	NoLetter     Kind = "no-letter"     // its claim is dead, and there is no dead letter
	NoCopy       Kind = "no-copy"       // its claim is parked, and no parked copy waits
	DoneAndDead  Kind = "done-and-dead" // its claim is done, and there is a dead letter
	Expired      Kind = "expired"       // the stream dropped it before the worker was done with it
	UnknownState Kind = "unknown-state" // its claim cannot be read
	Acknowledged Kind = "acknowledged"  // more events are without an end than the consumer still has to deliver
	NoClaims     Kind = "no-claims"     // the worker has no claim at all, and should have
	NotProven    Kind = "not-proven"    // its stored signature does not prove its stored bytes
	NotStored    Kind = "not-stored"    // it is expected, and is not stored
	NotExpected  Kind = "not-expected"  // it is stored, and is not expected
	NotDone      Kind = "not-done"      // its effect is expected, and it is not done
	NoEffect     Kind = "no-effect"     // it is done, and no effect of it is expected
	Twice        Kind = "twice"         // its effect is expected more than once
)

// evidence is what is known of one event and one worker: of the newest time that it was given to the worker.
type evidence struct {
	its      bool   // the worker takes its type, and had begun when it was stored
	sequence uint64 // of the message that the worker's consumer delivers
	state    workers.State
	letter   bool // a dead letter of it is in the archive
	copy     bool // a parked copy of it waits
}

// position is how far a consumer is.
type position struct {
	floor     uint64 // everything up to here is acknowledged
	delivered uint64 // nothing after this was ever delivered
	next      uint64 // everything from here on will be delivered
}

// verdict is a standing, or else what is wrong.
type verdict struct {
	standing Standing
	wrong    Kind
	// out means that the verdict holds only while the message is among those that the consumer waits for an ack of.
	// Which ones these are cannot be asked, only how many.
	out bool
}

// judge says where an event stands. It touches nothing, so a table tests it.
func judge(e evidence, p position) verdict {
	// Where the message is for the consumer, when no parked copy stands for it.
	out := e.sequence > p.floor && e.sequence <= p.delivered
	past := e.sequence < p.next && !out
	pending := func(s Standing, wrong Kind) verdict {
		switch {
		case e.copy:
			return verdict{standing: s}
		case past:
			return verdict{wrong: wrong}
		}
		return verdict{standing: s, out: out}
	}
	switch e.state {
	case "":
		switch {
		case e.its:
			return pending(ToCome, Skipped)
		case e.copy:
			return verdict{standing: Parked}
		}
		return verdict{standing: foreign}
	case workers.Done:
		if e.letter {
			return verdict{wrong: DoneAndDead}
		}
		return verdict{standing: Done}
	case workers.Dead:
		if !e.letter {
			return verdict{wrong: NoLetter}
		}
		return verdict{standing: Dead}
	case workers.Parked:
		if !e.copy {
			return verdict{wrong: NoCopy}
		}
		return verdict{standing: Parked}
	case workers.Running, workers.Waiting, workers.Burying:
		return pending(Waiting, Stranded)
	}
	return verdict{wrong: UnknownState}
}

// unended reports whether a claim says that its event is not at its end.
func unended(s workers.State) bool { return s != workers.Done && s != workers.Dead }

// explain says what is wrong for a reader who does not know how Headgate works inside, and names the cure.
func explain(k Kind, worker string) string {
	again := fmt.Sprintf("give it again with headgate replay --worker %s", worker)
	switch k {
	case Skipped:
		return "the worker's consumer is past it, and the worker has never begun with it: " + again
	case Stranded:
		return "its claim waits for another attempt, and nothing will deliver it: " + again
	case NoLetter:
		return "its claim says dead, and the archive has no letter: " + again
	case NoCopy:
		return "its claim says parked, and no copy waits: " + again
	case DoneAndDead:
		return "its claim says done, and the archive has a letter of it"
	case Expired:
		return "its claim has no end, and the stream has dropped the event"
	case UnknownState:
		return "its claim says what this version cannot read: use the version of the worker"
	case NotProven:
		return "its stored signature does not prove its stored bytes under any of the keys"
	case NotStored:
		return "it is expected, and it is not stored"
	case NotExpected:
		return "it is stored, and it is not expected"
	case NotDone:
		return "an effect of it is expected, and its claim does not say done"
	case NoEffect:
		return "its claim says done, and no effect of it is expected"
	case Twice:
		return "its effect is expected more than once"
	}
	return string(k)
}
