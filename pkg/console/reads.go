package console

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// matrixRows is how many connections a page of the matrix has.
	matrixRows = 25
	// mostConnections is how many connections one page reads, those of earlier pages included.
	mostConnections = 200
)

// A matrixRow are the reads over one connection, a cell for each column.
type matrixRow struct {
	Company, Connection idLink
	Cells               []matrixCell
}

// A matrixCell says how fresh one data type is. Without Href it is empty.
type matrixCell struct {
	Href, Age, Title string
	Level            level
}

// A readsView is what the matrix shows.
type readsView struct {
	listView[matrixRow]
	Columns []string // data types
	Stale   bool     // headgate watch says which reads are stale
}

// Full reports whether the page has as many rows as one can have.
func (v readsView) Full() bool { return len(v.Page.Rows) == matrixRows }

// A connectionReads are the records over one connection that the filter chooses.
type connectionReads struct {
	company, connection string
	reads               map[string]state.Read // by data type
	newest              uint64                // sequence of the record that changed last
}

// A readsFilter chooses records.
type readsFilter struct {
	listQuery
	staleSince time.Time
}

func (f readsFilter) keeps(r state.Read) bool {
	status := f.holds("status", string(r.Status)) || strings.EqualFold(f.Get("status"), "error") && r.Status.IsError()
	return status && f.within(r.LastRead) && (f.staleSince.IsZero() || r.LastSuccess.Before(f.staleSince))
}

// serveReads shows how fresh each data type of each connection is.
func (c *Console) serveReads(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate reads list", "company", "connection", "data-type", "status", "stale-since")
	if !ok {
		return
	}
	since, err := readTime("stale-since", q.Get("stale-since"), c.Now())
	if err == nil {
		_, err = state.ReadKey(anyToken(q.Get("company")), anyToken(q.Get("connection")), codat.DataType(anyToken(q.Get("data-type"))))
	}
	if err != nil {
		c.badFilter(w, r, err)
		return
	}
	page, err := c.matrix(r.Context(), readsFilter{q, since})
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	expected := c.hub.facts(r.Context()).survey.expected
	stale := map[string]bool{}
	for _, e := range expected.all {
		if key, err := e.Key(); err == nil && e.Kind == state.StaleRead {
			stale[key] = true
		}
	}
	c.render(w, r, "reads", c.readsView(q, page, stale, expected.watched))
}

// matrix returns the connections whose reads changed last. One that is on an earlier page is left out, although some of its reads changed
// before those of that page.
func (c *Console) matrix(ctx context.Context, f readsFilter) (page recordsPage[connectionReads], err error) {
	b := backward{stream: "KV_" + c.Source.StateBucket(state.ReadsName), before: f.Before, limit: mostConnections}
	b.filter, b.few = c.keysOf(state.ReadsName, f.Get("company"), f.Get("connection"), f.Get("data-type"))
	seen := map[string]bool{}
	candidates, err := newestRecords(ctx, c.JS, b, func(m *jetstream.RawStreamMsg) (r placed[state.Read], keep bool) {
		if json.Unmarshal(m.Data, &r.row) != nil {
			return r, false // a later version wrote it
		}
		r.sequence = m.Sequence
		return r, f.keeps(r.row)
	})
	if err != nil {
		return page, err
	}
	page.Looked, page.Provisioned, page.Next = candidates.Looked, candidates.Provisioned, candidates.Next
	for _, one := range candidates.Rows {
		key := one.row.Company + "." + one.row.Connection
		if seen[key] {
			continue
		}
		if len(page.Rows) == matrixRows {
			page.Next = one.sequence + 1
			break
		}
		seen[key] = true
		reads, err := c.readsOf(ctx, f, one.row.Company, one.row.Connection)
		if err != nil {
			return page, err
		}
		if f.Before == 0 || reads.newest < f.Before {
			page.Rows = append(page.Rows, reads)
		}
	}
	return page, nil
}

// readsOf reads the records over one connection.
func (c *Console) readsOf(ctx context.Context, f readsFilter, company, connection string) (connectionReads, error) {
	all := connectionReads{company, connection, map[string]state.Read{}, 0}
	filter, _ := c.keysOf(state.ReadsName, company, connection, f.Get("data-type"))
	o := stream.ReadOptions{Filters: []string{filter}}
	_, err := stream.Read(ctx, c.JS, "KV_"+c.Source.StateBucket(state.ReadsName), o, func(m *jetstream.RawStreamMsg) error {
		var r state.Read
		if m.Header.Get("KV-Operation") == "" && json.Unmarshal(m.Data, &r) == nil && f.keeps(r) {
			all.reads[string(r.DataType)], all.newest = r, m.Sequence
		}
		return nil
	})
	return all, err
}

func (c *Console) readsView(q listQuery, page recordsPage[connectionReads], stale map[string]bool, watched bool) readsView {
	types := map[string]bool{}
	for _, row := range page.Rows {
		for typ := range row.reads {
			types[typ] = true
		}
	}
	v := readsView{Columns: slices.Sorted(maps.Keys(types)), Stale: watched}
	v.Query, v.Page = q, recordsPage[matrixRow]{Looked: page.Looked, Next: page.Next, Provisioned: page.Provisioned}
	for _, row := range page.Rows {
		shown := matrixRow{companyLink(row.company), connectionLink(row.company, row.connection), make([]matrixCell, len(v.Columns))}
		for i, typ := range v.Columns {
			if r, ok := row.reads[typ]; ok {
				shown.Cells[i] = c.matrixCell(r, stale)
			}
		}
		v.Page.Rows = append(v.Page.Rows, shown)
	}
	return v
}

func (c *Console) matrixCell(r state.Read, stale map[string]bool) matrixCell {
	status := readWord(r, stale)
	cell := matrixCell{Href: readHref(r), Level: status.Level, Age: "never", Title: string(r.DataType) + ": " + status.Word + ", never read with success"}
	if !r.LastSuccess.IsZero() {
		cell.Age = roughly(c.Now().Sub(r.LastSuccess))
		cell.Title = string(r.DataType) + ": " + status.Word + ", last success " + r.LastSuccess.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return cell
}

// readHref is the address of a record.
func readHref(r state.Read) string {
	return "/reads/" + url.PathEscape(r.Company) + "/" + url.PathEscape(r.Connection) + "/" + url.PathEscape(string(r.DataType))
}

// readWord is how the last read ended. What headgate watch calls stale is not fresh, however it ended.
func readWord(r state.Read, stale map[string]bool) stateWord {
	s := readStatus(r.Status)
	key, err := state.Expected{Kind: state.StaleRead, Company: r.Company, Connection: r.Connection, DataType: r.DataType}.Key()
	if err == nil && stale[key] {
		if s.Level != alarm {
			s.Level = waiting
		}
		s.Word = "stale, " + s.Word
	}
	return s
}

func readStatus(status codat.DatasetStatus) stateWord {
	switch {
	case status.IsError():
		return stateWord{string(status), alarm}
	case status == codat.DatasetComplete:
		return stateWord{string(status), good}
	case status == "":
		return stateWord{"no status", neutral}
	}
	return stateWord{string(status), neutral}
}

// roughly is a duration in one unit, for a narrow cell.
func roughly(d time.Duration) string {
	text := span(d)
	if at := strings.IndexByte(text, ' '); at >= 0 {
		if next := strings.IndexByte(text[at+1:], ' '); next >= 0 {
			return text[:at+1+next]
		}
	}
	return text
}

// A readFact is what one event said of a read.
type readFact struct {
	state.ReadFact
	Status  stateWord
	Event   idLink
	Remarks string
}

// A readView is what the page of one data type shows.
type readView struct {
	state.Read
	Company, Connection idLink
	Status              stateWord
	Remarks             string
	StaleSince          time.Time // when the next success was due; zero when it is not stale
	Facts               []readFact
}

// serveRead shows the reads of one data type over one connection.
func (c *Console) serveRead(w http.ResponseWriter, r *http.Request) {
	company, connection, typ := r.PathValue("company"), r.PathValue("connection"), codat.DataType(r.PathValue("type"))
	record, err := one(r.Context(), c, state.OpenReads, func(ctx context.Context, s state.Reads) (state.Read, error) {
		return s.Get(ctx, company, connection, typ)
	})
	if err != nil {
		_, badKey := state.ReadKey(company, connection, typ)
		c.noRecord(w, r, err, badKey, missing{"No such read", "No event has told of a read of this data type over this connection.", "Reads lists what was read."})
		return
	}
	v := readView{
		Read: record, Company: companyLink(company), Connection: connectionLink(company, connection), Status: readStatus(record.Status),
		Remarks: readRemarks(record.First, record.RecordsModified, record.Issues),
	}
	for _, e := range c.hub.facts(r.Context()).survey.expected.all {
		if e.Kind == state.StaleRead && e.Company == company && e.Connection == connection && e.DataType == typ {
			v.StaleSince = e.Due
		}
	}
	for _, f := range slices.Backward(record.Facts) {
		v.Facts = append(v.Facts, readFact{f, readStatus(f.Status), eventLink(f.WebhookID, f.Sequence), readRemarks(f.First, f.RecordsModified, f.Issues)})
	}
	c.render(w, r, "read", v)
}

// readRemarks is what is said of a read beside its status.
func readRemarks(first, modified bool, issues map[string]int) string {
	var all []string
	if first {
		all = append(all, "first after link")
	}
	if modified {
		all = append(all, "records modified")
	}
	for _, typ := range slices.Sorted(maps.Keys(issues)) {
		all = append(all, strconv.Itoa(issues[typ])+" "+typ)
	}
	return strings.Join(all, ", ")
}
