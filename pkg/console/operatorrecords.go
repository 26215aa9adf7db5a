package console

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// An actionRow is an action of an operator: the record of its begin, with that of its end.
type actionRow struct {
	operator.Entry
	Sequence uint64
	What     string // what was chosen
	State    stateWord
	Ended    time.Time
	Error    string
	ended    bool
}

// mostEnds is how many records after a page are read for the ends of its actions.
const mostEnds = 5000

// serveOperator lists what operators did, newest first.
func (c *Console) serveOperator(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "", "user", "command")
	if !ok {
		return
	}
	b := backward{stream: c.Source.OperatorStream(), before: q.Before, limit: pageRows}
	page, err := newestRecords(r.Context(), c.JS, b, func(m *jetstream.RawStreamMsg) (*actionRow, bool) {
		var e operator.Entry
		if json.Unmarshal(m.Data, &e) != nil || e.Step != operator.StepBegin && !alone(e) {
			return nil, false
		}
		e.At = m.Time
		row := &actionRow{Entry: e, Sequence: m.Sequence, What: chosenText(e.Chosen), State: stateWord{"no end is recorded", waiting}}
		if alone(e) {
			row.end(e)
		}
		return row, q.holds("user", e.User) && (q.Get("command") == "" || strings.HasPrefix(e.Command, q.Get("command"))) && q.within(m.Time)
	})
	if err == nil {
		err = c.readEnds(r.Context(), page.Rows)
	}
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	c.render(w, r, "operator", listView[*actionRow]{Query: q, Page: page})
}

// alone reports whether an action has one record: what it does is done with the record.
func alone(e operator.Entry) bool {
	return e.Step == operator.StepEnd && (e.Command == "provision" || strings.HasPrefix(e.Command, "console show "))
}

// A begunAction has not ended. Its row is nil when the filter excludes it.
type begunAction struct {
	what string
	row  *actionRow
}

// readEnds adds to actions, which are newest first, what came of them.
func (c *Console) readEnds(ctx context.Context, rows []*actionRow) error {
	if len(rows) == 0 {
		return nil
	}
	begun := map[string][]begunAction{} // oldest first
	bySequence := map[uint64]*actionRow{}
	for _, row := range rows {
		bySequence[row.Sequence] = row
	}
	o := stream.ReadOptions{After: rows[len(rows)-1].Sequence - 1, Through: rows[0].Sequence + mostEnds}
	_, err := stream.Read(ctx, c.JS, c.Source.OperatorStream(), o, func(m *jetstream.RawStreamMsg) error {
		var e operator.Entry
		if json.Unmarshal(m.Data, &e) != nil || alone(e) {
			return nil
		}
		key := strings.Join([]string{e.Host, e.User, e.Command, e.Redrive}, "\x00")
		switch open := begun[key]; {
		case e.Step == operator.StepBegin:
			begun[key] = append(open, begunAction{chosenText(e.Chosen), bySequence[m.Sequence]})
		case e.Step == operator.StepEnd && len(open) > 0:
			at := len(open) - 1 // some ends say more of what was chosen than their begins
			if i := slices.IndexFunc(open, func(b begunAction) bool { return b.what == chosenText(e.Chosen) }); i >= 0 {
				at = i
			}
			if e.At = m.Time; open[at].row != nil {
				open[at].row.end(e)
			}
			begun[key] = slices.Delete(open, at, at+1)
		}
		return nil
	})
	return err
}

// end sets what came of an action.
func (row *actionRow) end(e operator.Entry) {
	row.ended, row.Ended, row.Count, row.Given, row.Before, row.Error = true, e.At, e.Count, e.Given, e.Before, e.Error
	row.State, row.What = stateWord{"done", good}, cmp.Or(chosenText(e.Chosen), row.What)
	if e.Error != "" {
		row.State = stateWord{"failed", alarm}
	}
}

// Result is what came of an action, in numbers.
func (row *actionRow) Result() string {
	if !row.ended {
		return "it runs, or its process died"
	}
	if strings.HasPrefix(row.Command, "console show ") {
		return "shown"
	}
	text := count(row.Given) + " of " + count(row.Count)
	if row.Before > 0 {
		text += ", " + count(row.Before) + " before"
	}
	return text
}

// chosenText is what an action chose, in the order of the names.
func chosenText(chosen map[string]any) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		all = append(all, fmt.Sprintf("%s %v", name, chosen[name]))
	}
	return strings.Join(all, ", ")
}
