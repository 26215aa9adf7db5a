package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat"
	"golang.org/x/term"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/process"
)

// endpointsCmd holds the commands on the endpoints that Codat posts to: webhook consumers, in the words of its API. They call
// Codat and not NATS, so no record of them is on codat.operator.
type endpointsCmd struct {
	List      endpointsListCmd      `cmd:"" help:"List the endpoints, and the event types that none of them has."`
	Create    endpointsCreateCmd    `cmd:"" help:"Make an endpoint. Its signing secret is in Codat's Portal only."`
	Delete    endpointsDeleteCmd    `cmd:"" help:"Delete an endpoint. Codat drops what it still had to deliver to it."`
	Checklist endpointsChecklistCmd `cmd:"" help:"Print what only Codat's Portal can do."`
}

// endpointsFlags are the flags of the commands that call Codat.
type endpointsFlags struct {
	Codat api.Settings `embed:""`
}

// Validate returns an error without a file of the API key, and for a setting that cannot be used.
func (f *endpointsFlags) Validate() error {
	if !f.Codat.Enabled() {
		return errors.New("--codat-key-file must name the file with Codat's API key")
	}
	return f.Codat.Validate()
}

// with calls do with a client of Codat's API and all endpoints.
func (f *endpointsFlags) with(ctx context.Context, do func(*api.Client, []api.Webhook) error) error {
	client, err := api.New(f.Codat, prometheus.NewRegistry())
	if err != nil {
		return process.Misconfigured(err)
	}
	defer client.Close()
	all, err := client.Webhooks(ctx)
	if err == nil {
		err = do(client, all)
	}
	return f.explain(err)
}

// explain adds the cure to an error of Codat's API.
func (f *endpointsFlags) explain(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case errors.Is(err, api.ErrOutcomeUnknown):
		return fmt.Errorf("%w: it may have been done: headgate endpoints list shows it", err)
	case ok && e.Status == http.StatusUnauthorized:
		return fmt.Errorf("%w: Codat refused the API key in %s: make one in the Portal (Developers > API keys) and put it into this file", err, f.Codat.CodatKeyFile)
	case ok && e.Status == http.StatusForbidden:
		return fmt.Errorf("%w: the API key in %s may not do this", err, f.Codat.CodatKeyFile)
	}
	return err
}

type endpointsListCmd struct {
	Type           codat.Pattern `name:"type" env:"-" help:"Only endpoints that have this event type, or one of a pattern: * is one token, > the rest."`
	listFlags      `embed:""`
	endpointsFlags `embed:""`
}

// Validate returns an error for a --type that is no pattern, and as endpointsFlags do.
func (c *endpointsListCmd) Validate() error {
	return errors.Join(validateType(c.Type), c.endpointsFlags.Validate())
}

// Run lists the endpoints, and says which types none has.
func (c *endpointsListCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(ctx, func(_ *api.Client, all []api.Webhook) error {
		missing := api.Unsubscribed(all)
		l := endpointListing
		l.member = &member{"not_subscribed", append([]string{}, missing...)}
		err := l.print(t, c.listFlags, func(each func(api.Webhook) error) error {
			for _, w := range all {
				if !c.selects(w) {
					continue
				}
				if err := each(w); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || !c.forPeople() {
			return err
		}
		fmt.Fprintf(t.err, "Codat allows %d endpoints\n", api.MaxWebhooks)
		if len(missing) > 0 {
			fmt.Fprintf(t.err, "%s that no endpoint has:\n    %s\n", plural(len(missing), "type"), strings.Join(missing, "\n    "))
		}
		if slices.ContainsFunc(all, func(w api.Webhook) bool { return w.Disabled }) {
			fmt.Fprintln(t.err, "Only the Portal enables an endpoint again: headgate endpoints checklist")
		}
		return nil
	})
}

// selects reports whether an endpoint is listed. One without types has all.
func (c *endpointsListCmd) selects(w api.Webhook) bool {
	return c.Type == "" || len(w.EventTypes) == 0 || slices.ContainsFunc(w.EventTypes, c.Type.Match)
}

var endpointListing = listing[api.Webhook]{
	noun: "endpoint",
	id:   func(w api.Webhook) string { return w.ID },
	columns: []column[api.Webhook]{
		{name: "ENDPOINT", cell: func(w api.Webhook) cell { return idCell(w.ID) }},
		{name: "STATE", cell: func(w api.Webhook) cell {
			if w.Disabled {
				return stateCell("disabled", red)
			}
			return stateCell("enabled", green)
		}},
		{name: "URL", cell: func(w api.Webhook) cell { return textCell(w.URL) }},
		{name: "COMPANIES", cell: func(w api.Webhook) cell { return textCell(companiesText(w.CompanyTags)) }},
		{name: "TYPES", cell: func(w api.Webhook) cell { return textCell(typesText(w.EventTypes)) }},
	},
}

// endpointText returns an endpoint in three lines.
func endpointText(w api.Webhook) string {
	return fmt.Sprintf("%s  %-8s  %s\n    types: %s\n    companies: %s\n", printable(w.ID), map[bool]string{false: "enabled", true: "disabled"}[w.Disabled],
		printable(w.URL), typesText(w.EventTypes), companiesText(w.CompanyTags))
}

// typesText returns "all" for every current type, and otherwise their names.
func typesText(types []string) string {
	if len(types) == 0 {
		return "all"
	}
	if len(api.Unsubscribed([]api.Webhook{{EventTypes: types}})) == 0 {
		known := len(codat.Current())
		return fmt.Sprintf("all %d of the catalog", known) + map[bool]string{true: fmt.Sprintf(" and %d others", len(types)-known)}[len(types) > known]
	}
	return printedList(types)
}

func companiesText(tags []string) string {
	if len(tags) == 0 {
		return "all"
	}
	return "with " + printedList(tags)
}

// printedList returns external texts on one line.
func printedList(texts []string) string {
	shown := make([]string, len(texts))
	for i, text := range texts {
		shown[i] = printable(text)
	}
	return strings.Join(shown, ", ")
}

type endpointsCreateCmd struct {
	URL            string          `arg:"" name:"url" help:"Address that Codat posts to, as https://hooks.example.com/webhooks/codat."`
	Type           []codat.Pattern `name:"type" env:"-" placeholder:"PATTERN" help:"Event type, or pattern of the catalog's types, as connection.>; give it again for more. Default: every current type of the catalog."`
	Unknown        bool            `name:"unknown-type" env:"-" help:"Allow types that Headgate does not know."`
	CompanyTag     []string        `name:"company-tag" env:"-" placeholder:"KEY:VALUE" help:"Only events of companies with this tag; give it again for companies with another one."`
	outputFlags    `embed:""`
	endpointsFlags `embed:""`
}

// Validate returns an error for an address, a type or a tag that cannot be used.
func (c *endpointsCreateCmd) Validate() error {
	if err := validateEndpoint(c.URL); err != nil {
		return err
	}
	if len(c.CompanyTag) > api.MaxCompanyTags {
		return fmt.Errorf("--company-tag: Codat takes at most %d (got %d)", api.MaxCompanyTags, len(c.CompanyTag))
	}
	for _, tag := range c.CompanyTag {
		if key, value, _ := strings.Cut(tag, ":"); key == "" || value == "" || len(tag) > 128 {
			return fmt.Errorf("--company-tag must be KEY:VALUE of at most 128 characters (got %q)", tag)
		}
	}
	_, err := c.types()
	return err
}

// validateEndpoint returns an error for an address that is no endpoint. It does not show it: it can have a password.
func validateEndpoint(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("the address must be a URL such as https://hooks.example.com/webhooks/codat")
	case u.User != nil:
		return errors.New("the address must have no user and no password, which everybody with an API key could list: set an Authorization header in the Portal instead")
	case u.Fragment != "":
		return errors.New("the address must have no fragment")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return errors.New("the address must begin with https:// unless its host is this machine")
	}
	return nil
}

// types returns the types that the patterns choose, in ascending order.
func (c *endpointsCreateCmd) types() ([]string, error) {
	if len(c.Type) == 0 {
		return codat.Current(), nil
	}
	var chosen []string
	for _, p := range c.Type {
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("--type %q: %w", p, err)
		}
		if !strings.ContainsAny(string(p), "*>") {
			if !codat.Known(string(p)) && !c.Unknown {
				return nil, fmt.Errorf("--type: unknown type %s: headgate send --list lists the known types; add --unknown-type for a new one", p)
			}
			chosen = append(chosen, string(p))
			continue
		}
		fit := slices.DeleteFunc(codat.Current(), func(typ string) bool { return !p.Match(typ) })
		if len(fit) == 0 {
			return nil, fmt.Errorf("--type: no current type of the catalog fits %q: headgate send --list lists the known types", p)
		}
		chosen = append(chosen, fit...)
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

// Run makes the endpoint, unless there are as many as Codat allows.
func (c *endpointsCreateCmd) Run(ctx context.Context, t *terminal) error {
	types, err := c.types()
	if err != nil {
		return err
	}
	return c.with(ctx, func(client *api.Client, all []api.Webhook) error {
		if len(all) >= api.MaxWebhooks {
			return fmt.Errorf("nothing was made: there are %d endpoints, and Codat allows %d: delete one (headgate endpoints delete ID)", len(all), api.MaxWebhooks)
		}
		for _, w := range all {
			if w.URL == c.URL {
				fmt.Fprintf(t.err, "%s has this URL too: an event of which both have the type comes twice with one webhook-id, signed with two secrets. Headgate stores it once, and needs both secrets.\n", printable(w.ID))
			}
		}
		made, err := client.CreateWebhook(ctx, api.Webhook{URL: c.URL, EventTypes: types, CompanyTags: c.CompanyTag})
		if err != nil {
			return err
		}
		err = c.printRecord(t, made, made.ID, func() error {
			_, err := fmt.Fprint(t.out, "created "+endpointText(made))
			return err
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(t.err, "Copy its signing secret from the Portal into the ingress's file of keys: until then its requests are answered 401.")
		return nil
	})
}

type endpointsDeleteCmd struct {
	ID             string `arg:"" help:"Its id, as endpoints list prints it."`
	Yes            bool   `name:"yes" env:"-" help:"Do not ask."`
	outputFlags    `embed:""`
	endpointsFlags `embed:""`
}

// Run shows what the endpoint receives, asks, and deletes it.
func (c *endpointsDeleteCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(ctx, func(client *api.Client, all []api.Webhook) error {
		at := slices.IndexFunc(all, func(w api.Webhook) bool { return w.ID == c.ID })
		if at < 0 {
			return fmt.Errorf("there is no endpoint %s: headgate endpoints list lists them", printable(c.ID))
		}
		w := all[at]
		fmt.Fprint(t.err, endpointText(w))
		before := api.Unsubscribed(all)
		after := slices.DeleteFunc(api.Unsubscribed(slices.Delete(slices.Clone(all), at, at+1)), func(typ string) bool { return slices.Contains(before, typ) })
		if len(after) > 0 {
			fmt.Fprintf(t.err, "No other endpoint has: %s\n", strings.Join(after, ", "))
		}
		if !c.Yes {
			if err := confirm(t, "Delete it? What Codat still has to deliver to it is dropped. [y/N] ", "nothing was deleted"); err != nil {
				return err
			}
		}
		if err := client.DeleteWebhook(ctx, w.ID); err != nil {
			return err
		}
		return c.printRecord(t, w, w.ID, func() error {
			_, err := fmt.Fprintln(t.out, "deleted "+printable(w.ID))
			return err
		})
	})
}

// asks reports whether the input is a terminal, where somebody can answer.
func (t *terminal) asks() bool {
	in, ok := t.in.(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// confirm asks on a terminal. It returns an error, with what was not done, unless the answer is yes, and without a terminal, so that a script does not
// wait.
func confirm(t *terminal, question, undone string) error {
	noTerminal := process.Misconfigured(errors.New(undone + ": add --yes, because the input is no terminal"))
	if !t.asks() {
		return noTerminal
	}
	fmt.Fprint(t.err, question)
	answer, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(t.err)
		return noTerminal
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New(undone)
}

type endpointsChecklistCmd struct{}

// portalTasks is what Codat's API has no call for.
const portalTasks = `In Codat's Portal (Monitor > Webhooks), because the API has no call for it:

[ ] Copy the signing secret of a new endpoint into the ingress's file of keys. It differs for each endpoint.
[ ] Enable an endpoint that Codat has disabled after 5 days of failures.
[ ] Recover what failed, and Replay what was missed while the endpoint was disabled, did not exist, or lacked a type: up to two weeks back.
[ ] Change the URL, the types or the company tags of an endpoint; or make another one and delete the first.
[ ] Set custom headers, such as Authorization (--authorization-file) and X-Codat-ClientId (--client-id). They are not signed.
[ ] Set the endpoint's rate limit, in messages per second, before a large replay.
[ ] Upload the key and certificate that Codat presents (--tls-client-ca).
[ ] Rotate the signing secret; both are valid in the ingress while both are in its file.
[ ] Send an example event (Testing), and look at the log of attempts.
[ ] Leave out a transformation: it changes the body before it is signed, and can change the address and the method.
`

// Run prints the list.
func (c *endpointsChecklistCmd) Run(t *terminal) error {
	_, err := io.WriteString(t.out, portalTasks)
	return err
}
