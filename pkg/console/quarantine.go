package console

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
)

// A quarantineRow is a message of the quarantine.
type quarantineRow struct {
	inspect.Event
	CompanyLink idLink
}

// serveQuarantine lists the quarantine, newest first.
func (c *Console) serveQuarantine(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate quarantine list", "cause", "company", "connection", "id")
	if !ok {
		return
	}
	b := backward{stream: c.Source.Stream(), filter: c.Source.QuarantineSubject(), before: q.Before, limit: pageRows}
	page, err := newestRecords(r.Context(), c.JS, b, func(m *jetstream.RawStreamMsg) (quarantineRow, bool) {
		e := inspect.NewEvent(c.Source, m)
		return quarantineRow{e, companyLink(e.Company)}, q.holds("cause", e.Reason) && q.holds("company", e.Company) && q.holds("connection", e.Connection) && q.holds("id", e.WebhookID) && q.within(m.Time)
	})
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	c.render(w, r, "quarantine", listView[quarantineRow]{Query: q, Page: page})
}

// A quarantinedPage shows one message of the quarantine.
type quarantinedPage struct {
	Event       quarantineRow
	Headers     [][2]string
	Body        *shownBody
	CanShow     bool
	Suggestions []string
	Actions     []button
}

// serveQuarantined shows one message, without its body.
func (c *Console) serveQuarantined(w http.ResponseWriter, r *http.Request) {
	if p, _, ok := c.quarantinedPage(w, r); ok {
		c.render(w, r, "quarantined", p)
	}
}

// serveQuarantinedBody shows one message with its body to those who may see it, once that is recorded.
func (c *Console) serveQuarantinedBody(w http.ResponseWriter, r *http.Request) {
	u := userOf(r)
	if !u.Payload || c.Operator == nil {
		c.fail(w, r, noBody)
		return
	}
	p, body, ok := c.quarantinedPage(w, r)
	if !ok {
		return
	}
	if err := c.recordShown(r.Context(), u, "quarantined", p.Event.Sequence); err != nil {
		c.unanswered(w, r, err)
		return
	}
	p.Body = bodyOf(body)
	c.render(w, r, "quarantined", p)
}

// noBody is the answer to those who may not see a body.
var noBody = problem{
	Status: http.StatusForbidden, Title: "The body is not shown", Text: "It needs the right payload, and a console that can record its showing.",
	Cure: "Ask those who keep the file of users, or start the console with --operate.",
}

// quarantinedPage reads the message of the request's path, or answers that it is unknown.
func (c *Console) quarantinedPage(w http.ResponseWriter, r *http.Request) (p quarantinedPage, body []byte, ok bool) {
	number, err := strconv.ParseUint(r.PathValue("number"), 10, 64)
	if err != nil {
		c.notFound(w, r)
		return p, nil, false
	}
	m, err := inspect.Quarantined(r.Context(), c.JS, c.Source, number)
	switch {
	case errors.Is(err, inspect.ErrNotQuarantined):
		c.fail(w, r, problem{Status: http.StatusNotFound, Title: fmt.Sprintf("Message %d is not in the quarantine", number), Text: "It has expired, was erased, or is an event.", Cure: "Quarantine lists what is there."})
		return p, nil, false
	case err != nil:
		c.unanswered(w, r, err)
		return p, nil, false
	}
	u, e := userOf(r), inspect.NewEvent(c.Source, m)
	p = quarantinedPage{Event: quarantineRow{e, companyLink(e.Company)}, Headers: headersOf(m.Header, u), CanShow: u.Payload && c.Operator != nil}
	// The types that the source has had come first to mind.
	if p.Suggestions = c.hub.facts(r.Context()).types(); len(p.Suggestions) == 0 {
		for _, typ := range codat.Catalog() {
			if !strings.Contains(typ.Name, "*") {
				p.Suggestions = append(p.Suggestions, typ.Name)
			}
		}
		slices.Sort(p.Suggestions)
	}
	if c.Operator != nil && u.Operate {
		n := strconv.FormatUint(number, 10)
		p.Actions = []button{{
			Label: "Release as an event", Kind: "release", Fields: []field{{"number", n}},
			Inputs: []input{{Name: "type", Label: "of the type", Options: p.Suggestions, Required: true}}, Command: command("quarantine", "release", n, "--type", "TYPE"),
		}}
	}
	return p, m.Data, true
}
