package console

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/state"
)

// A writeRow is a line of the list of writes. It has no text of Codat or of the platform.
type writeRow struct {
	state.Write
	Link, CompanyLink, ConnectionLink, PlanLink idLink
	Status                                      stateWord
}

func newWriteRow(r state.Write) writeRow {
	row := writeRow{
		Write: r, Link: writeLink(r.PushOperationKey), CompanyLink: companyLink(r.Company), PlanLink: planLink(r.Plan),
		ConnectionLink: idLink{ID: r.Connection}, Status: stateWord{writeStatus(r), writeLevel(r)},
	}
	if r.Company != "" {
		row.ConnectionLink = connectionLink(r.Company, r.Connection)
	}
	row.Reason = nil
	return row
}

// writeStatusLevel is how a status is shown that is counted.
func writeStatusLevel(word string) level {
	return writeLevel(state.Write{Status: codat.PushStatus(word)})
}

// serveWrites lists the writes.
func (c *Console) serveWrites(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate writes list", "company", "connection", "data-type", "status", "overdue")
	if !ok {
		return
	}
	if q.Get("overdue") != "" { // the command's flag
		q.values.Del("overdue")
		q.values.Set("status", "Overdue")
	}
	b := backward{stream: "KV_" + c.Source.StateBucket(state.WritesName), before: q.Before, limit: pageRows}
	page, err := newestRecords(r.Context(), c.JS, b, func(m *jetstream.RawStreamMsg) (writeRow, bool) {
		var one state.Write
		if json.Unmarshal(m.Data, &one) != nil {
			return writeRow{}, false // a later version wrote it
		}
		return newWriteRow(one), q.holds("company", one.Company) && q.holds("connection", one.Connection) &&
			q.holds("data-type", string(one.DataType)) && q.holds("status", writeStatus(one)) && q.within(one.Requested)
	})
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	counts := c.hub.facts(r.Context()).survey.states.writes
	c.render(w, r, "writes", listView[writeRow]{Query: q, Page: page, Chips: q.chips(counts, writeStatusLevel)})
}

// A moment is a point of the timeline of a record.
type moment struct {
	At    time.Time
	Level level
	Text  string
	Event idLink // that has told of it
}

// A writeView is what the page of a write shows.
type writeView struct {
	writeRow
	HasReason bool
	// CanShow says that the user has the right to see the reason, and that its showing can be recorded.
	CanShow bool
	Reason  []string // lines; only when it is shown
	Moments []moment // oldest first
}

// serveWrite shows one write.
func (c *Console) serveWrite(w http.ResponseWriter, r *http.Request) {
	if v, ok := c.writeOf(w, r); ok {
		v.Reason = nil
		c.render(w, r, "write", v)
	}
}

// serveReason shows one write with its reason to those who may see it, once that is recorded.
func (c *Console) serveReason(w http.ResponseWriter, r *http.Request) {
	u := userOf(r)
	if !u.Payload || c.Operator == nil {
		c.fail(w, r, problem{Status: http.StatusForbidden, Title: "The reason is not shown", Text: "It needs the right payload, and a console that can record its showing.", Cure: "Ask those who keep the file of users, or start the console with --operate."})
		return
	}
	v, ok := c.writeOf(w, r)
	if !ok {
		return
	}
	e := operator.Entry{User: u.Name, Command: "console show reason", Step: operator.StepEnd, Chosen: map[string]any{"write": v.PushOperationKey}, Count: 1}
	if err := c.Operator.Record(r.Context(), e); err != nil {
		c.unanswered(w, r, err)
		return
	}
	c.render(w, r, "write", v)
}

// writeOf reads the write of the request's path, or answers that it is unknown.
func (c *Console) writeOf(w http.ResponseWriter, r *http.Request) (writeView, bool) {
	key := r.PathValue("key")
	record, err := one(r.Context(), c, state.OpenWrites, func(ctx context.Context, s state.Writes) (state.Write, error) { return s.Get(ctx, key) })
	if err != nil {
		_, badKey := state.WriteKey(key)
		c.noRecord(w, r, err, badKey, missing{"No such write", "No event has named this push operation, or its record has expired.", "Writes lists those that are known."})
		return writeView{}, false
	}
	v := writeView{writeRow: newWriteRow(record), HasReason: record.Reason != nil, CanShow: userOf(r).Payload && c.Operator != nil, Moments: writeMoments(record)}
	if record.Reason != nil {
		v.Reason = reasonLines(*record.Reason)
	}
	return v, true
}

// reasonLines are what Codat or the platform says of a write.
func reasonLines(r state.WriteReason) []string {
	lines := []string{printable(r.Message)}
	for kind, remarks := range map[string][]state.WriteRemark{"error": r.Errors, "warning": r.Warnings} {
		for _, one := range remarks {
			lines = append(lines, kind+": "+printable(cmp.Or(one.Item, one.Validator))+": "+printable(one.Message))
		}
	}
	slices.Sort(lines[1:])
	return lines
}

// writeMoments are what happened to a write, and what told of it.
func writeMoments(r state.Write) (all []moment) {
	if !r.Requested.IsZero() {
		all = append(all, moment{At: r.Requested, Level: neutral, Text: "requested"})
	}
	for _, f := range []*state.WriteFact{r.Legacy, r.Current, r.Asked} {
		if f == nil {
			continue
		}
		told := "Codat's API answered " + string(f.Status)
		if f.Type != "" {
			told = f.Type + " said " + string(f.Status)
		}
		all = append(all, moment{f.Received, writeLevel(state.Write{Status: f.Status}), told, eventLink(f.WebhookID, f.Sequence)})
	}
	if !r.Overdue.IsZero() {
		all = append(all, moment{At: r.Overdue, Level: waiting, Text: "an outcome was due"})
	}
	if !r.Completed.IsZero() {
		all = append(all, moment{At: r.Completed, Level: writeLevel(r), Text: "completed at Codat as " + string(r.Status)})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.At.Compare(b.At) })
	return all
}

// Events is the address of the events about the write's company.
func (r writeRow) Events() string {
	return "/events?" + url.Values{"id": {strings.TrimSpace(r.PushOperationKey)}}.Encode()
}
