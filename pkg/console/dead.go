package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
)

// Href is the list of the group's letters.
func (g deadGroup) Href() string {
	return "/dead?" + url.Values{"worker": {g.Worker}, "type": {g.Type}, "error": {g.Reason}}.Encode()
}

// A deadPage lists dead letters.
type deadPage struct {
	Query      listQuery
	Groups     []deadGroup
	GroupsMore bool
	Rows       []deadRow
	Looked     int
	Next       uint64
	// Cut says that the time for a page was over before it was full.
	Cut     bool
	Actions []button
}

// A deadRow is a dead letter in the list.
type deadRow struct {
	operator.Letter
	CompanyLink idLink
	Status      stateWord
	Reason      string
}

// letterLevels are how the states of dead letters are shown.
var letterLevels = map[operator.LetterState]level{
	operator.LetterOpen: alarm, operator.LetterGiven: waiting, operator.LetterDone: good, operator.LetterReplaced: neutral,
}

func newDeadRow(l operator.Letter) deadRow {
	return deadRow{l, companyLink(l.Company), stateWord{string(l.State), letterLevels[l.State]}, firstLine(l.LastError)}
}

// deadTime bounds the reading of one page: without the index of headgate watch all letters are read.
const deadTime = 8 * time.Second

// errPageFull ends the reading of a page.
var errPageFull = errors.New("the page is full")

// serveDead lists the dead letters, newest first, and above them the groups of the last day.
func (c *Console) serveDead(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate dead list", "worker", "type", "cause", "company", "connection", "id", "error", "all")
	if !ok {
		return
	}
	filter := deadletter.Filter{
		Worker: q.Get("worker"), Company: q.Get("company"), Connection: q.Get("connection"), Cause: q.Get("cause"), Type: codat.Pattern(q.Get("type")), Since: q.since, Until: q.until,
	}
	if filter.Type != "" {
		if err := filter.Type.Validate(); err != nil {
			c.badFilter(w, r, err)
			return
		}
	}
	if id := q.Get("id"); id != "" {
		filter.IDs = []string{id}
	}
	p := deadPage{Query: q}
	if err := c.readDead(r.Context(), filter, &p); err != nil {
		c.unanswered(w, r, err)
		return
	}
	f := c.hub.facts(r.Context())
	for _, g := range f.survey.dead.groups {
		if len(p.Groups) < 20 && q.holds("worker", g.Worker) && q.holds("type", g.Type) && q.holds("error", g.Reason) {
			p.Groups = append(p.Groups, g)
		}
	}
	p.GroupsMore = f.survey.dead.more
	p.Actions = c.deadButtons(userOf(r), q)
	c.render(w, r, "dead", p)
}

// readDead reads one page.
func (c *Console) readDead(ctx context.Context, f deadletter.Filter, p *deadPage) error {
	ctx, cancel := context.WithTimeout(ctx, deadTime)
	defer cancel()
	err := operator.Letters(ctx, c.JS, c.Source, operator.LettersQuery{Filter: f, Before: p.Query.Before}, func(l operator.Letter) error {
		p.Looked++
		p.Next = l.Number
		if p.Query.holds("error", firstLine(l.LastError)) && (l.State == operator.LetterOpen || p.Query.Get("all") != "") {
			p.Rows = append(p.Rows, newDeadRow(l))
		}
		if len(p.Rows) == pageRows || p.Looked == mostRecords {
			return errPageFull
		}
		return nil
	})
	switch {
	case errors.Is(err, errPageFull):
		return nil
	case errors.Is(err, context.DeadlineExceeded) && p.Looked > 0:
		p.Cut = true
		return nil
	}
	p.Next = 0
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// deadButtons give all open letters that match to their worker again, for those who may act. The action has no
// filter by error: with one, there is no button.
func (c *Console) deadButtons(u User, q listQuery) []button {
	if c.Operator == nil || !u.Operate || q.Get("worker") == "" || q.Get("error") != "" {
		return nil
	}
	var fields []field
	words := []string{"dead", "replay"}
	for _, name := range []string{"worker", "type", "cause", "company", "connection", "id", "since", "until"} {
		if value := q.Get(name); value != "" {
			fields = append(fields, field{name, value})
			words = append(words, "--"+name, value)
		}
	}
	return []button{{Label: "Give all that match to " + q.Get("worker") + " again", Kind: "dead-replay", Fields: fields, Command: command(words...)}}
}

// A letterPage shows one dead letter.
type letterPage struct {
	Letter  deadRow
	Event   idLink
	Headers [][2]string
	Body    *shownBody
	CanShow bool
	Actions []button
}

// serveLetter shows one dead letter, without its body.
func (c *Console) serveLetter(w http.ResponseWriter, r *http.Request) {
	if p, _, ok := c.letterPage(w, r); ok {
		c.render(w, r, "letter", p)
	}
}

// serveLetterBody shows one dead letter with its body to those who may see it, once that is recorded.
func (c *Console) serveLetterBody(w http.ResponseWriter, r *http.Request) {
	u := userOf(r)
	if !u.Payload || c.Operator == nil {
		c.fail(w, r, noBody)
		return
	}
	p, l, ok := c.letterPage(w, r)
	if !ok {
		return
	}
	if err := c.recordShown(r.Context(), u, "dead_letter", p.Letter.Number); err != nil {
		c.unanswered(w, r, err)
		return
	}
	p.Body, p.Headers = bodyOf(l.Body), headersOf(l.Header, u)
	c.render(w, r, "letter", p)
}

// letterPage reads the letter of the request's path, or answers that it is unknown. Its headers are those that need no record of their showing.
func (c *Console) letterPage(w http.ResponseWriter, r *http.Request) (p letterPage, l operator.Letter, ok bool) {
	number, err := strconv.ParseUint(r.PathValue("number"), 10, 64)
	if err != nil {
		c.notFound(w, r)
		return p, l, false
	}
	l, err = operator.ReadLetter(r.Context(), c.JS, c.Source, number)
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		c.fail(w, r, problem{Status: http.StatusNotFound, Title: fmt.Sprintf("No dead letter %d", number), Text: "The archive does not have this number: it has expired or was erased.", Cure: "Dead letters lists those that are stored."})
		return p, l, false
	case err != nil:
		c.unanswered(w, r, err)
		return p, l, false
	}
	u := userOf(r)
	p = letterPage{Letter: newDeadRow(l), Event: eventLink(l.WebhookID, l.Sequence), Headers: headersOf(l.Header, User{}), CanShow: u.Payload && c.Operator != nil && !l.NoBody}
	if c.Operator != nil && u.Operate && l.State == operator.LetterOpen {
		n := strconv.FormatUint(number, 10)
		p.Actions = []button{{Label: "Give to " + l.Worker + " again", Kind: "dead-replay", Fields: []field{{"number", n}}, Command: command("dead", "replay", n)}}
	}
	return p, l, true
}
