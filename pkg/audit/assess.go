package audit

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
)

// clockSkew bounds how much the clocks of the servers that made a consumer and stored an event may differ.
const clockSkew = 5 * time.Second

// assessment is everything that was read of one worker, and the snapshot that follows from it.
type assessment struct {
	snapshot
	log      *eventLog
	consumer *jetstream.ConsumerInfo
	claims   *claimSet
	copies   map[string]parked
	letters  map[string]bool
	expect   *effects
	takes    []bool // by type
	maxAge   time.Duration
	bucket   time.Time // when the worker's bucket of claims was made; zero without one

	// The stream's sequences before the consumer was read.
	first, last uint64
}

// assess gives every event and every claim its state.
func (a *assessment) assess() {
	p := a.position()
	claimed, known := a.firstClaimed(), a.knownSince()
	newest := map[string]int{} // index of the newest redrive, by the event's id
	redrives := a.log.redrives[a.Name]
	redriven := map[uint64]bool{} // sequences of the redriven events
	for i, r := range redrives {
		newest[r.id] = i
		redriven[r.of] = true
		a.markClaim(r.entry, claims.Key{WebhookID: r.id, Redrive: r.redrive})
	}
	for _, e := range a.log.events {
		k := a.log.key(e)
		a.markClaim(e, k)
		if _, ok := newest[e.id]; ok {
			a.countEarlier(e, k, p)
			continue
		}
		begun := e.sequence >= min(claimed, p.next) || e.stored > known || a.afterStart(e)
		a.assessEvent(e, k, a.takes[e.typ] && begun, p)
	}
	for i, r := range redrives {
		k := claims.Key{WebhookID: r.id, Redrive: r.redrive}
		if newest[r.id] == i {
			a.assessEvent(r.entry, k, true, p)
		} else {
			a.countEarlier(r.entry, k, p)
		}
	}
	a.findOrphans(redriven)
	a.countParkedOnly()
	a.findOvertaken(p)
	a.findEffects()
	if len(a.claims.at) == 0 {
		a.mergeWithoutClaims()
	}
}

// markClaim marks the claim of a stored message as seen.
func (a *assessment) markClaim(e entry, k claims.Key) {
	c := a.claims.get(k.String())
	if c == nil {
		return
	}
	c.seen = true
	if c.state == claims.Done && !a.expect.expected(k) {
		a.addFinding(a.exception(NoEffect, k, c).at(e.sequence, a.log.types[e.typ]), k, c)
	}
}

// position returns how far the consumer is. For an event without a claim, only counting tells whether it will still be
// delivered: these are the newest NumPending of those that the consumer takes.
func (a *assessment) position() position {
	c := a.consumer
	p := position{floor: c.AckFloor.Stream, delivered: c.Delivered.Stream, next: a.last + 1}
	if c.NumAckPending == 0 {
		p.floor = p.delivered
	}
	events, redrives := a.log.events, a.log.redrives[a.Name]
	for left := c.NumPending; left > 0 && len(events)+len(redrives) > 0; {
		var at uint64
		if e, r := len(events), len(redrives); r == 0 || e > 0 && events[e-1].sequence > redrives[r-1].sequence {
			at = events[e-1].sequence
			if !a.takes[events[e-1].typ] {
				at = 0
			}
			events = events[:e-1]
		} else {
			at = redrives[r-1].sequence
			redrives = redrives[:r-1]
		}
		if at == 0 || at > a.last { // not taken, or stored after the consumer was read
			continue
		}
		p.next = at
		left--
	}
	p.next = max(p.next, p.delivered+1)
	return p
}

// afterStart reports whether an event was stored after the first one that the consumer was made for.
func (a *assessment) afterStart(e entry) bool {
	c := a.consumer.Config
	switch c.DeliverPolicy {
	case jetstream.DeliverAllPolicy:
		return true
	case jetstream.DeliverByStartSequencePolicy:
		return e.sequence >= c.OptStartSeq
	case jetstream.DeliverByStartTimePolicy:
		return c.OptStartTime != nil && e.stored >= c.OptStartTime.UnixNano()
	}
	return e.stored > a.consumer.Created.Add(clockSkew).UnixNano()
}

// firstClaimed returns the sequence of the first event that the worker has a claim of. All later events belong to the
// worker, also when its consumer was made again later.
func (a *assessment) firstClaimed() uint64 {
	for _, e := range a.log.events {
		if a.takes[e.typ] && a.claims.get(a.log.key(e).String()) != nil {
			return e.sequence
		}
	}
	return a.log.last + 1
}

// remadeAfter is longer than provisioning takes from the bucket of the claims to the consumer.
const remadeAfter = time.Minute

// knownSince returns the time, in nanoseconds, after which all events of the worker's types belong to it, because it was there
// already: the first attempt of which a claim is left had begun, or its bucket had been made and its consumer was made again
// later. The log may begin after the events that show it.
func (a *assessment) knownSince() int64 {
	since := int64(math.MaxInt64)
	if !a.claims.first.IsZero() {
		since = a.claims.first.Add(clockSkew).UnixNano()
	}
	c := a.consumer
	if c.Config.DeliverPolicy == jetstream.DeliverNewPolicy && !a.bucket.IsZero() && c.Created.Sub(a.bucket) > remadeAfter {
		since = min(since, a.bucket.Add(clockSkew).UnixNano())
	}
	return since
}

// assessEvent gives one event its state, by the newest message in which the worker got it.
func (a *assessment) assessEvent(e entry, k claims.Key, owned bool, p position) {
	key := k.String()
	c := a.claims.get(key)
	x := evidence{owned: owned, sequence: e.sequence, letter: a.letters[key]}
	_, x.copy = a.copies[key]
	if c != nil {
		x.claim = c.state
	} else {
		c = &claim{}
	}
	got := judge(x, p)
	if got.state == notOwned {
		return
	}
	a.Events++
	typ := a.log.types[e.typ]
	switch got.state {
	case Done:
		a.Done++
	case Dead:
		a.Dead++
	case ToCome:
		a.ToCome++
	case Parked:
		a.Parked++
	case Waiting:
		a.Waiting++
	default:
		a.addFinding(a.exception(got.wrong, k, c).at(e.sequence, typ), k, c)
		a.found[len(a.found)-1].judged = true
	}
	if got.state == Waiting || got.state == Parked {
		a.Retries = append(a.Retries, Retry{a.Name, got.state, e.sequence, typ, e.id, k.Redrive, c.attempts, c.next})
	}
	if got.outstanding {
		a.outstanding[key] = c.revision
	}
}

// countEarlier counts an earlier message of an event that was given again, with an open claim, among the pending acks. Another
// event that was acknowledged without being settled would otherwise be taken for it.
func (a *assessment) countEarlier(e entry, k claims.Key, p position) {
	key := k.String()
	c := a.claims.get(key)
	if c == nil {
		return
	}
	_, waits := a.copies[key]
	if judge(evidence{sequence: e.sequence, claim: c.state, letter: a.letters[key], copy: waits}, p).outstanding {
		a.outstanding[key] = c.revision
	}
}

// exception returns an exception about a claim, at the claim's sequence.
func (a *assessment) exception(kind Kind, k claims.Key, c *claim) Exception {
	return Exception{Kind: kind, Worker: a.Name, Sequence: c.sequence, WebhookID: k.WebhookID, Redrive: k.Redrive, Attempts: c.attempts}
}

// at returns the exception at another sequence, with a type.
func (e Exception) at(sequence uint64, typ string) Exception {
	e.Sequence, e.Type = sequence, typ
	return e
}

func (a *assessment) addFinding(e Exception, k claims.Key, c *claim) {
	a.found = append(a.found, finding{Exception: e, key: k.String(), revision: c.revision})
}

// countParkedOnly counts the events that the stream has dropped and of which a parked copy waits.
func (a *assessment) countParkedOnly() {
	for key, m := range a.copies {
		if c := a.claims.get(key); c != nil && !c.seen && isOpen(c.state) && a.covers(c.sequence) {
			a.Events++
			a.Parked++
			a.Retries = append(a.Retries, Retry{a.Name, Parked, c.sequence, m.typ, m.key.WebhookID, m.key.Redrive, c.attempts, c.next})
		}
	}
}

// covers reports whether the log would have an event of this sequence if the stream had it.
func (a *assessment) covers(sequence uint64) bool {
	return sequence >= a.log.first && sequence <= a.log.last
}

// findEffects finds effects that happened twice, and effects of events that are not done.
func (a *assessment) findEffects() {
	if a.expect == nil {
		return
	}
	for k, n := range a.expect.count {
		c := a.claims.get(k.String())
		if c == nil {
			c = &claim{}
		}
		if n > 1 {
			a.addFinding(a.exception(Twice, k, c), k, c)
		}
		if c.state != claims.Done {
			a.addFinding(a.exception(NotDone, k, c), k, c)
		}
	}
}

// findOrphans finds open claims whose events the stream has dropped. It leaves out events that were redriven: their
// state is that of the redrive.
func (a *assessment) findOrphans(redriven map[uint64]bool) {
	newest := map[uint64]*claim{} // newest claim of an event, for events with an orphan
	for key, i := range a.claims.at {
		c := &a.claims.all[i]
		if a.isOrphan(key, c) && !redriven[c.sequence] {
			newest[c.sequence] = nil
		}
	}
	if len(newest) == 0 {
		return
	}
	for _, i := range a.claims.at {
		c := &a.claims.all[i]
		if known, ok := newest[c.sequence]; ok && (known == nil || known.revision < c.revision) {
			newest[c.sequence] = c
		}
	}
	for key, i := range a.claims.at {
		c := &a.claims.all[i]
		if newest[c.sequence] == c && a.isOrphan(key, c) {
			a.Events++
			a.found = append(a.found, finding{
				Exception: Exception{Kind: Expired, Worker: a.Name, Sequence: c.sequence, Attempts: c.attempts},
				key:       key, revision: c.revision,
			})
		}
	}
}

func (a *assessment) isOrphan(key string, c *claim) bool {
	_, waits := a.copies[key]
	return !c.seen && !c.shared && isOpen(c.state) && !waits && a.covers(c.sequence)
}

// findOvertaken finds a worker that stands still while the stream drops its events. Dropped messages that the consumer
// never got are no proof, because they may all have had other types. They count when, at the same time, the worker's
// oldest event is older than half of the time that events are kept.
func (a *assessment) findOvertaken(p position) {
	if a.first <= p.delivered+1 || a.consumer.NumPending == 0 {
		return
	}
	oldest := time.Time{}
	for _, e := range a.log.events {
		if e.sequence >= p.next && a.takes[e.typ] {
			oldest = time.Unix(0, e.stored)
			break
		}
	}
	if oldest.IsZero() || a.maxAge == 0 || a.consumer.TimeStamp.Sub(oldest) < a.maxAge/2 {
		return
	}
	a.found = append(a.found, finding{Exception: Exception{
		Kind: Expired, Worker: a.Name, Sequence: p.delivered + 1,
		Detail: fmt.Sprintf("the stream has dropped the sequences %d to %d, which the worker never got, and its oldest event waits since %s: events of its types among them are lost to it; start the worker, or keep events longer with headgate provision --max-age",
			p.delivered+1, a.first-1, oldest.UTC().Format(time.RFC3339)),
	}, revision: p.delivered})
}

// mergeWithoutClaims replaces the skipped events of a worker without any claim by one exception.
func (a *assessment) mergeWithoutClaims() {
	skipped := 0
	a.found = slices.DeleteFunc(a.found, func(f finding) bool {
		if f.Kind == Skipped {
			skipped++
		}
		return f.Kind == Skipped
	})
	if skipped == 0 {
		return
	}
	a.found = append(a.found, finding{Exception: Exception{
		Kind: NoClaims, Worker: a.Name,
		Detail: fmt.Sprintf("the worker's consumer is past %d of its events, and it has no claim at all: its bucket was emptied, or it keeps its claims in PostgreSQL, which headgate audit --postgres reads", skipped),
	}})
}
