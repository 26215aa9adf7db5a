package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// sendCmd signs bodies and posts them.
type sendCmd struct {
	Type     string `arg:"" optional:"" help:"Send the example of this event type; --list prints all types."`
	All      bool   `name:"all" env:"-" help:"Send every example, also the unusual bodies (trap/…) of which Codat's documentation warns."`
	AllTypes bool   `name:"all-types" env:"-" help:"Send the example of every event type."`
	File     string `name:"file" env:"-" placeholder:"FILE" help:"Send the bytes of a file; - is standard input."`
	From     string `name:"from-event" env:"-" placeholder:"ID" help:"Send a stored event, of this webhook-id or with this number in its stream, redacted: with new ids, dates, statuses and names of members as they are, and all other texts, addresses and numbers replaced."`
	List     bool   `name:"list" env:"-" help:"Print the names of the examples and send nothing."`

	Set     []string `name:"set" env:"-" sep:"none" placeholder:"PATH=VALUE" help:"Set a member of the body, such as payload.connection.status=Linked or payload.dataTypes.0.status=Complete: JSON, or a text. Give it again for another."`
	Company string   `name:"company" env:"-" placeholder:"ID" help:"Put this id in place of the company's in the body."`
	Edit    bool     `name:"edit" env:"-" help:"Edit the body in $VISUAL or $EDITOR before it is sent."`

	To    string          `name:"to" default:"http://127.0.0.1:8080/webhooks/codat" help:"Address of the webhook."`
	ID    string          `name:"id" env:"-" help:"The webhook-id; a new one for each event by default. Send one twice to see a duplicate."`
	Count int             `name:"count" env:"-" default:"1" help:"How many times each event is sent."`
	Rate  float64         `name:"rate" env:"-" help:"Send at most this many events a second; without it each as soon as the one before is answered."`
	Retry bool            `name:"retry" env:"-" help:"Send an event that is not accepted again as Codat does, under the same id with a new time: after 5s, 5m, 30m, 2h, 5h, 10h and 10h, each after the attempt before has failed."`
	After []time.Duration `name:"retry-after" env:"-" placeholder:"PAUSE" help:"Retry after these pauses in place of Codat's, such as 1s,1s,5s."`
	Every time.Duration   `name:"every" env:"-" help:"Send them again after this time, until a signal ends the command; once by default."`
	Forge bool            `name:"forge" env:"-" help:"Send the event as forgers do: unsigned, signed with another key, changed after it was signed, an hour old, and so on. Exit 0 when each is refused."`

	outputFlags  `embed:""`
	keyFlags     `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a command line that does not choose what to send, or where.
func (c *sendCmd) Validate() error {
	chosen := 0
	for _, is := range []bool{c.Type != "", c.All, c.AllTypes, c.File != "", c.From != "", c.List} {
		if is {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("give one of TYPE, --all, --all-types, --file, --from-event and --list")
	}
	several := c.All || c.AllTypes
	switch {
	case several && c.ID != "":
		return errors.New("--id cannot be used with --all and --all-types: of several events with one id, only the first is stored")
	case several && (c.Edit || len(c.Set) > 0):
		return errors.New("--set and --edit change one body: give them with TYPE, --file or --from-event")
	case c.File == "-" && c.Edit:
		return errors.New("--edit needs standard input: give the body as a file")
	case c.Forge && (c.ID != "" || c.Count != 1 || c.Every != 0 || c.Rate != 0 || c.retries() != nil):
		return errors.New("--forge sends each forgery once, under an id of its own: leave out --id, --count, --every, --rate and --retry")
	}
	if err := c.validateTimes(); err != nil {
		return err
	}
	if err := validateTarget("--to", c.To); err != nil {
		return err
	}
	for _, one := range c.Set {
		if _, err := setMember([]byte("{}"), one); err != nil {
			return err
		}
	}
	if c.From != "" || c.File != "" {
		return nil
	}
	_, err := c.examples()
	return err
}

// validateTimes returns an error for a number or a time that cannot be used.
func (c *sendCmd) validateTimes() error {
	for _, pause := range c.After {
		if pause <= 0 {
			return fmt.Errorf("--retry-after must be greater than 0s (got %s)", pause)
		}
	}
	switch {
	case c.Every < 0:
		return fmt.Errorf("--every must be greater than 0s (got %s)", c.Every)
	case c.Every > 0 && c.checkEnd("--every") != nil:
		return c.checkEnd("--every")
	case c.Count < 1:
		return fmt.Errorf("--count must be at least 1 (got %d)", c.Count)
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return fmt.Errorf("--rate must be greater than 0 (got %g)", c.Rate)
	}
	return nil
}

// codatsRetries are the pauses after which Codat sends an event again.
var codatsRetries = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}

// retries returns the pauses between the attempts of an event that is not accepted.
func (c *sendCmd) retries() []time.Duration {
	if len(c.After) == 0 && c.Retry {
		return codatsRetries
	}
	return c.After
}

// validateTarget returns an error for a flag whose value is not the address of a webhook.
func validateTarget(flag, to string) error {
	if u, err := url.Parse(to); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%s must be an http or https URL, such as http://127.0.0.1:8080/webhooks/codat (got %q)", flag, withoutUser(to))
	}
	return nil
}

// Run sends the chosen bodies one after the other. With --every it sends them again and again, and an event that is not
// accepted does not end it.
func (c *sendCmd) Run(ctx context.Context, t *terminal) error {
	if c.List {
		return exampleListing.report(t, c.outputFlags, func(each func(listedExample) error) error {
			for _, e := range examples.All() {
				if err := each(listedExample{e.Name, e.Type}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	bodies, err := c.bodies(ctx, t)
	if err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return process.Misconfigured(err)
	}
	s := newSender(c.To, "--to", key)
	defer s.close()
	return sendListing.report(t, c.outputFlags, func(each func(sendResult) error) error {
		if c.Forge {
			return c.sendForgeries(ctx, s, bodies, each)
		}
		return c.sendEvery(ctx, t, s, bodies, each)
	})
}

// sendEvery sends all once, or with --every again and again.
func (c *sendCmd) sendEvery(ctx context.Context, t *terminal, s *sender, bodies []examples.Example, each func(sendResult) error) error {
	for {
		err := c.sendAll(ctx, t, s, bodies, each)
		if c.Every == 0 {
			return err
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(t.err, "headgate: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

// sendAll sends each body, and returns an error when one was not accepted.
func (c *sendCmd) sendAll(ctx context.Context, t *terminal, s *sender, bodies []examples.Example, each func(sendResult) error) error {
	limit := rate.NewLimiter(rate.Inf, 1)
	if c.Rate > 0 {
		limit.SetLimit(rate.Limit(c.Rate))
	}
	refused := 0
	for _, e := range bodies {
		for range c.Count {
			if err := limit.Wait(ctx); err != nil {
				return err
			}
			accepted, err := c.deliver(ctx, t, s, e, each)
			if err != nil {
				return err
			}
			if !accepted {
				refused++
			}
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d events were not accepted", refused, c.Count*len(bodies))
	}
	return nil
}

// deliver sends an event until it is accepted or no retry is left, prints each answer, and reports whether it was accepted. It
// returns an error when the last attempt had no response.
func (c *sendCmd) deliver(ctx context.Context, t *terminal, s *sender, e examples.Example, each func(sendResult) error) (bool, error) {
	retries := c.retries()
	id := cmp.Or(c.ID, signature.NewID())
	for attempt := 1; ; attempt++ {
		sent, err := s.send(ctx, e, id)
		if err == nil {
			err = each(sent)
			if err != nil || sent.Status/100 == 2 {
				return err == nil, err
			}
		} else if ctx.Err() != nil || attempt > len(retries) {
			return false, err
		} else {
			fmt.Fprintf(t.err, "%s: %v\n", printable(id), err)
		}
		if attempt > len(retries) {
			return false, nil
		}
		pause := retries[attempt-1]
		fmt.Fprintf(t.err, "%s: attempt %d of %d failed; the next is in %s, at %s\n", printable(id), attempt, len(retries)+1, pause, formatTime(time.Now().Add(pause)))
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// sender posts like Codat's sender.
type sender struct {
	to     string
	flag   string // of the address, for errors
	key    signature.Key
	client *http.Client
}

// sendTimeout is the time that Codat's sender waits for a response.
const sendTimeout = 15 * time.Second

func newSender(to, flag string, key signature.Key) *sender {
	return &sender{to: to, flag: flag, key: key, client: &http.Client{
		Timeout:   sendTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		// Codat follows no redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *sender) close() { s.client.CloseIdleConnections() }

// sendResult is an event and its response.
type sendResult struct {
	Name    string        `json:"name"`
	Type    string        `json:"type,omitempty"`
	ID      string        `json:"webhook_id"`
	Status  int           `json:"status"`
	Took    time.Duration `json:"-"`
	TookMS  float64       `json:"took_ms"`
	Meaning string        `json:"meaning,omitempty"`
}

// send posts one event, with a new id if id is empty. It returns an error when there was no response.
func (s *sender) send(ctx context.Context, e examples.Example, id string) (sendResult, error) {
	if id == "" {
		id = signature.NewID()
	}
	now := time.Now()
	h := http.Header{}
	h.Set(stream.HeaderWebhookID, id)
	h.Set(stream.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(stream.HeaderWebhookSignature, s.key.Sign(id, now, e.Body))
	return s.post(ctx, e, h)
}

// post posts the body of an event with these headers. It returns an error when there was no response.
func (s *sender) post(ctx context.Context, e examples.Example, h http.Header) (sendResult, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to, bytes.NewReader(e.Body))
	if err != nil {
		return sendResult{}, err
	}
	began := time.Now()
	req.Header = h
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "headgate/"+process.Version())
	resp, err := s.client.Do(req)
	if err != nil {
		return sendResult{}, fmt.Errorf("no response: check that the receiver is running and %s; headgate dev starts an ingress: %w", s.flag, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be reused
	d := time.Since(began)
	return sendResult{e.Name, e.Type, h.Get(stream.HeaderWebhookID), resp.StatusCode, d, float64(d.Microseconds()) / 1000, s.meaning(resp.StatusCode)}, nil
}

// meaning returns the likely reason of a refusal. The ingress tells unauthenticated clients none.
func (s *sender) meaning(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "the receiver has another key (give it with --secret-file), or the clocks differ by minutes"
	case http.StatusForbidden:
		return "the receiver does not allow this address or client"
	case http.StatusNotFound:
		return "no webhook at this path: check " + s.flag
	case http.StatusMethodNotAllowed:
		return "this is not the webhook: check " + s.flag
	case http.StatusRequestTimeout:
		return "the body arrived too slowly"
	case http.StatusRequestEntityTooLarge:
		return "larger than the receiver's --max-body"
	case http.StatusServiceUnavailable:
		return "verified but not stored: NATS is unreachable, full or not provisioned; send it again with the same --id"
	}
	if status/100 == 2 {
		return ""
	}
	return "this is not a response of the ingress: check " + s.flag
}

var sendListing = listing[sendResult]{
	noun: "request",
	id:   func(s sendResult) string { return s.ID },
	text: func(s sendResult) string {
		name := s.Name
		if s.Type != "" && !strings.HasPrefix(name, "trap/") {
			name = s.Type
		}
		line := fmt.Sprintf("%d  %-45s  %s  in %s", s.Status, printable(name), printable(s.ID), formatDuration(s.Took))
		if s.Meaning != "" {
			line += ": " + printable(s.Meaning)
		}
		return line
	},
}

// A listedExample is what send --list prints of an example.
type listedExample struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
}

var exampleListing = listing[listedExample]{
	noun: "example",
	id:   func(e listedExample) string { return e.Name },
	text: func(e listedExample) string { return e.Name },
}
