package console

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/state"
)

// A finding is something that a person should look at.
type finding struct {
	Level   level
	Word    string // what it is: "dead letters", "paused"
	Subject string
	Href    string // the list or the record behind it
	Count   string
	Since   time.Time
	Text    string
	// Alert is the alert rule that fires, or would, with the runbook that its section is in.
	Alert, Station string
}

// Runbook is the address of the alert's section in the runbook.
func (f finding) Runbook() string {
	if f.Alert == "" {
		return ""
	}
	return "https://github.com/headgate/headgate/blob/main/" + doctor.Runbook + "#" + strings.ToLower(f.Alert)
}

// findings are what a person should look at, the most severe first, and of these the newest.
func (c *Console) findings(f facts, workers []workerRow) []finding {
	all := slices.Concat(c.streamFindings(f), c.workerFindings(f, workers), c.deadFindings(f), c.ingressFindings(f), c.codatFindings(f), c.stateFindings(f))
	rank := map[level]int{alarm: 0, waiting: 1, neutral: 2}
	slices.SortStableFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(rank[a.Level], rank[b.Level]), b.Since.Compare(a.Since))
	})
	return all
}

func (c *Console) streamFindings(f facts) (all []finding) {
	for _, st := range f.survey.snapshot.Streams {
		found := finding{Level: alarm, Subject: st.Name, Station: "Stream", Href: "/doctor"}
		switch {
		case !st.Answered || !st.HasLeader:
			found.Word, found.Text, found.Alert = "no leader", "the stream does not answer: no event is stored in it", "HeadgateNoLeader"
		case st.MaxBytes > 0 && float64(st.Bytes) > 0.7*float64(st.MaxBytes) && st.Name != c.Source.OperatorStream():
			found.Word, found.Alert = "filling", "HeadgateStreamFilling"
			found.Text = fmt.Sprintf("%.0f%% of %s; at 100%% it refuses events", 100*float64(st.Bytes)/float64(st.MaxBytes), byteSize(st.MaxBytes))
		case st.ReplicasCurrent < st.Replicas:
			found.Word, found.Alert = "replica behind", "HeadgateReplicaBehind"
			found.Text = fmt.Sprintf("%d of %d replicas are current: one more failure can stop the stream", st.ReplicasCurrent, st.Replicas)
		case st.Name == c.Source.ParkedStream() && !st.First.IsZero() && c.Now().Sub(st.First) > 24*time.Hour:
			found.Word, found.Alert, found.Since = "parked long", "HeadgateParkedLong", st.First
			found.Text = "an event has waited for its next attempt for over a day"
		default:
			continue
		}
		all = append(all, found)
	}
	return all
}

func (c *Console) workerFindings(f facts, workers []workerRow) (all []finding) {
	now := c.Now()
	for _, w := range workers {
		found := finding{Level: waiting, Subject: w.Name, Href: "/workers/" + url.PathEscape(w.Name), Station: "Workers", Word: w.State}
		consumer := f.survey.consumer(c.Source.Stream(), w.Name)
		i := slices.IndexFunc(f.survey.snapshot.Workers, func(x inspect.Worker) bool { return x.Name == w.Name })
		switch {
		case w.OldestAlarm:
			found.Level, found.Word, found.Alert, found.Since = alarm, "late", "HeadgateOldestUnsettled", now.Add(-*w.Oldest)
			found.Text = "the oldest event that it has not settled is over an hour old: " + w.State
			found.Count = count(w.Lag)
		case i >= 0 && f.survey.snapshot.Workers[i].PausedFor > 0:
			d := f.survey.snapshot.Workers[i].PausedFor
			found.Word, found.Since, found.Text = "breaker open", now.Add(-d), "what its handlers call is unavailable; it probes with single events"
			found.Count = count(w.Lag)
			if d > 15*time.Minute {
				found.Level, found.Alert = alarm, "HeadgateBreakerOpen"
			}
		case consumer.AckPendingLimit > 1 && float64(consumer.AckPending) > 0.8*float64(consumer.AckPendingLimit):
			found.Word, found.Alert = "nearly full", "HeadgateAckPending"
			found.Text = fmt.Sprintf("%d of %d unsettled deliveries are used; at the bound it gets nothing new", consumer.AckPending, consumer.AckPendingLimit)
		case w.State == "cannot claim":
			found.Level, found.Alert, found.Text = alarm, "HeadgateClaimErrors", "its claims cannot be read or taken: no handler runs"
		case w.State == "no process" && w.Lag > 0:
			found.Alert, found.Count = "HeadgateNoPullers", count(w.Lag)
			found.Text = "events wait, and no process takes them"
		case w.State == "paused by an operator":
			found.Alert, found.Count, found.Text = "HeadgateConsumerPaused", count(w.Lag), "headgate resume "+w.Name+" ends it"
		default:
			continue
		}
		all = append(all, found)
	}
	return all
}

func (c *Console) deadFindings(f facts) (all []finding) {
	now := c.Now()
	for _, g := range f.survey.dead.groups {
		found := finding{
			Level: waiting, Word: "dead letters", Subject: g.Worker + " · " + g.Type, Count: count(g.Count), Since: g.Newest, Text: g.Reason, Station: "Workers",
			Href: "/dead?" + url.Values{"worker": {g.Worker}, "type": {g.Type}, "error": {g.Reason}}.Encode(),
		}
		if f.survey.dead.lastHour[g.Worker] > 0 && now.Sub(g.Newest) < time.Hour {
			found.Level, found.Alert = alarm, "HeadgateDeadLetters"
		}
		all = append(all, found)
	}
	return all
}

func (c *Console) ingressFindings(f facts) (all []finding) {
	in := f.survey.ingress
	total := 0.0
	for reason, n := range in.lastHour {
		if reason != "path" && reason != "method" {
			total += n
		}
		all = append(all, finding{Level: waiting, Word: "refused", Subject: reason, Href: "/refused", Count: count(int(n)), Since: in.since, Text: refusalOf(reason).Text, Station: "Ingress"})
	}
	slices.SortFunc(all, func(a, b finding) int { return cmp.Compare(a.Subject, b.Subject) })
	if total >= 2 && in.accepted15 == 0 {
		all = append(all, finding{
			Level: alarm, Word: "refusing", Subject: "every request", Href: "/refused", Count: count(int(total)), Since: in.since, Station: "Ingress",
			Text: "requests are refused, and none was accepted in 15 minutes: is the key right?", Alert: "HeadgateRefusing",
		})
	}
	for _, text := range in.notReady {
		all = append(all, finding{Level: waiting, Word: "not ready", Subject: text, Href: "/doctor", Text: "its /readyz says why", Alert: "HeadgateNotReady", Station: "Ingress"})
	}
	for _, address := range in.silent {
		all = append(all, finding{Level: waiting, Word: "no metrics", Subject: address, Href: "/doctor", Text: "it does not answer with metrics", Station: "Ingress"})
	}
	if !in.certificate.IsZero() && in.certificate.Sub(c.Now()) < 14*24*time.Hour {
		all = append(all, finding{Level: alarm, Word: "certificate", Subject: "ends in " + span(in.certificate.Sub(c.Now())), Href: "/doctor", Text: "Codat cannot connect after that", Alert: "HeadgateCertificateEnds", Station: "Ingress"})
	}
	return all
}

func (c *Console) codatFindings(f facts) (all []finding) {
	now, snapshot := c.Now(), f.survey.snapshot
	switch {
	case !snapshot.LastEvent.IsZero() && now.Sub(snapshot.LastEvent) > 3*24*time.Hour:
		all = append(all, finding{Level: alarm, Word: "silent", Subject: "all types", Href: "/events", Since: snapshot.LastEvent, Text: "no event for over three days: is the endpoint disabled at Codat?", Alert: "HeadgateSilent", Station: "Codat"})
	case snapshot.LastEvent.IsZero() && !snapshot.Created.IsZero() && now.Sub(snapshot.Created) > time.Hour:
		all = append(all, finding{Level: alarm, Word: "no event yet", Subject: string(c.Source), Href: "/events", Since: snapshot.Created, Text: "is the endpoint's URL at Codat right?", Alert: "HeadgateNoFirstEvent", Station: "Codat"})
	}
	for _, e := range f.survey.expected.all {
		if e.Kind == state.SilentType {
			all = append(all, finding{Level: waiting, Word: "silent", Subject: e.Type, Href: "/events?type=" + url.QueryEscape(e.Type), Since: e.Last, Text: "longer than chance explains, by the hours of the week", Station: "Codat"})
		}
	}
	return all
}

func (c *Console) stateFindings(f facts) (all []finding) {
	now, expected := c.Now(), f.survey.expected
	if n := expected.kind[state.OverdueWrite]; n > 0 {
		found := finding{Level: waiting, Word: "overdue", Subject: "writes", Href: "/writes?status=Overdue", Count: count(n), Text: "no outcome has come", Station: "State"}
		for _, e := range expected.all {
			if e.Kind == state.OverdueWrite && e.Due.After(found.Since) {
				found.Since = e.Due
			}
		}
		if now.Sub(found.Since) < time.Hour {
			found.Level, found.Alert = alarm, "HeadgateWritesOverdue"
		}
		all = append(all, found)
	}
	if n := expected.kind[state.StaleRead]; n > 0 {
		all = append(all, finding{Level: waiting, Word: "stale", Subject: "reads", Href: "/missing#stale", Count: count(n), Text: "no successful read for longer than --stale-reads-after", Station: "State"})
	}
	if n := f.survey.states.plans["held"]; n > 0 {
		all = append(all, finding{Level: waiting, Word: "held", Subject: "plans", Href: "/plans?status=held", Count: count(n), Text: "a step failed or is unknown: no further step starts until an action", Station: "State"})
	}
	if q := f.survey.states.quota; !q.PausedUntil(now).IsZero() {
		all = append(all, finding{Level: alarm, Word: "quota used up", Subject: "Codat's API", Href: "/writes", Since: q.Received, Text: "Codat refuses calls until " + q.Renewal.UTC().Format("2006-01-02 15:04 UTC"), Alert: "HeadgateQuotaExhausted", Station: "State"})
	}
	if q := f.survey.snapshot.Quarantined; q != nil && *q > 0 {
		all = append(all, finding{Level: waiting, Word: "quarantine", Subject: "verified, not readable as events", Href: "/quarantine", Count: count(*q), Text: "release one as an event of a type, or leave it", Alert: "HeadgateQuarantine", Station: "Stream"})
	}
	return all
}
