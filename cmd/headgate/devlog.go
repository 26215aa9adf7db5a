package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
)

// devLog is the observer of headgate dev. It writes one line for each request and for each delivery that changed
// something.
type devLog struct {
	out     io.Writer       // safe for concurrent use
	handled []codat.Pattern // types that a worker handles
	keys    []string        // fingerprints of the keys
	// logged is true when the log, too, shall have a line for each request and delivery. Errors are always logged.
	logged bool
}

// RequestEnded writes the line of a request.
func (l *devLog) RequestEnded(r process.Request) bool {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s %-*s %s %d in %s", r.Outcome, typeWidth, printable(r.Type), printable(r.ID), r.Status, formatDuration(r.Took))
	switch r.Outcome {
	case "accepted":
		if !slices.ContainsFunc(l.handled, func(p codat.Pattern) bool { return p.Match(r.Type) }) {
			b.WriteString(", no worker in this process takes it")
		}
	case "duplicate":
		b.WriteString(", stored before")
	case "quarantined":
		fmt.Fprintf(&b, ", %s: headgate quarantine list", printable(r.Quarantine))
	default:
		likely := l.likely(r.Reason)
		if r.Found != "" {
			likely = ": " + printable(r.Found)
		}
		fmt.Fprintf(&b, ", %s%s", printable(r.Reason), likely)
	}
	l.write(b.String())
	return !l.logged && !r.Failed
}

// likely returns the likely mistake of a request that was refused for a reason, or "".
func (l *devLog) likely(reason string) string {
	switch reason {
	case "no_match":
		word := "keys"
		if len(l.keys) == 1 {
			word = "key"
		}
		return fmt.Sprintf(": no key matches (%d %s, %s): another key, or the body was changed after signing", len(l.keys), word, strings.Join(l.keys, " "))
	case "unsigned":
		return ": it has no signature headers (webhook-id, webhook-timestamp, webhook-signature): docs/sign.md"
	case "malformed":
		return ": the signature headers are not as in docs/sign.md"
	case "too_old", "too_new":
		return ": the time of the signature is more than 5 minutes from this clock"
	case "path", "path_signed":
		return ": the webhook is " + webhookPath
	case "method":
		return ": the webhook takes POST"
	}
	return ""
}

// typeWidth is the width of the column of types: all but the longest of Codat's fit.
const typeWidth = 40

// outcomeWords are the outcomes of a delivery in words that need no knowledge of workers. Others are written as they are.
var outcomeWords = map[string]string{
	"done":       "handled",
	"retry":      "failed",
	"parked":     "waits",
	"dead":       "gave up",
	"no_handler": "waits",
}

// DeliveryEnded writes the line of a delivery. Deliveries of settled events, and of those that another process works on,
// have none.
func (l *devLog) DeliveryEnded(d process.Delivery) bool {
	if d.Outcome == "already_settled" || d.Outcome == "busy" {
		return false
	}
	word := outcomeWords[d.Outcome]
	if word == "" {
		word = d.Outcome
	}
	line := fmt.Sprintf("%-11s %-*s %s by %s, attempt %d in %s", word, typeWidth, printable(d.Type), printable(d.ID), d.Worker, d.Attempt, formatDuration(d.Took))
	if d.Redrive != "" {
		line += fmt.Sprintf(", redrive %s", printable(d.Redrive))
	}
	if d.Cause != "" {
		line += fmt.Sprintf(": %s", printable(d.Cause))
	}
	if d.Outcome == "dead" {
		line += ": headgate dead list"
	}
	l.write(line)
	return !l.logged
}

func (l *devLog) write(line string) {
	_, _ = io.WriteString(l.out, line+"\n") // the terminal is gone
}
