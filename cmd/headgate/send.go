package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
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
	List     bool   `name:"list" env:"-" help:"Print the names of the examples and send nothing."`

	To    string        `name:"to" default:"http://127.0.0.1:8080/webhooks/codat" help:"Address of the webhook."`
	ID    string        `name:"id" env:"-" help:"The webhook-id; a new one for each event by default. Send one twice to see a duplicate."`
	Count int           `name:"count" env:"-" default:"1" help:"How many times each event is sent."`
	Every time.Duration `name:"every" env:"-" help:"Send them again after this time, until a signal ends the command; once by default."`
	Forge bool          `name:"forge" env:"-" help:"Send the event as forgers do: unsigned, signed with another key, changed after it was signed, an hour old, and so on. Exit 0 when each is refused."`
	JSON  bool          `name:"json" env:"-" help:"Print JSON."`

	keyFlags `embed:""`
}

// Validate returns an error for a command line that does not choose what to send, or where.
func (c *sendCmd) Validate() error {
	chosen := 0
	for _, is := range []bool{c.Type != "", c.All, c.AllTypes, c.File != "", c.List} {
		if is {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("give one of TYPE, --all, --all-types, --file and --list")
	}
	if (c.All || c.AllTypes) && c.ID != "" {
		return errors.New("--id cannot be used with --all and --all-types: of several events with one id, only the first is stored")
	}
	if c.Forge && (c.ID != "" || c.Count != 1 || c.Every != 0) {
		return errors.New("--forge sends each forgery once, under an id of its own: leave out --id, --count and --every")
	}
	if c.Every < 0 {
		return fmt.Errorf("--every must be greater than 0s (got %s)", c.Every)
	}
	if c.Count < 1 {
		return fmt.Errorf("--count must be at least 1 (got %d)", c.Count)
	}
	if err := validateTarget("--to", c.To); err != nil {
		return err
	}
	_, err := c.bodies(strings.NewReader(""))
	return err
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
		for _, e := range examples.All() {
			fmt.Fprintln(t.out, e.Name)
		}
		return nil
	}
	bodies, err := c.bodies(t.in)
	if err != nil {
		return process.Misconfigured(err)
	}
	key, err := c.key()
	if err != nil {
		return process.Misconfigured(err)
	}
	s := newSender(c.To, "--to", key)
	defer s.close()
	if c.Forge {
		return c.sendForgeries(ctx, t, s, bodies)
	}
	for {
		err := c.sendAll(ctx, t, s, bodies)
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
func (c *sendCmd) sendAll(ctx context.Context, t *terminal, s *sender, bodies []examples.Example) error {
	refused := 0
	for _, e := range bodies {
		for range c.Count {
			sent, err := s.send(ctx, e, c.ID)
			if err != nil {
				return err
			}
			if sent.Status/100 != 2 {
				refused++
			}
			if err := sent.print(t.out, c.JSON); err != nil {
				return err
			}
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d events were not accepted", refused, c.Count*len(bodies))
	}
	return nil
}

// bodies returns the bodies to send. It reads stdin for --file -.
func (c *sendCmd) bodies(stdin io.Reader) ([]examples.Example, error) {
	switch {
	case c.List:
		return nil, nil
	case c.All:
		return examples.All(), nil
	case c.AllTypes:
		return slices.DeleteFunc(examples.All(), func(e examples.Example) bool { return strings.HasPrefix(e.Name, "trap/") }), nil
	case c.File != "":
		return fileBody(c.File, stdin)
	}
	e, ok := examples.Of(c.Type)
	if !ok {
		return nil, fmt.Errorf("no example of type %q: headgate send --list lists the types", c.Type)
	}
	return []examples.Example{e}, nil
}

func fileBody(name string, stdin io.Reader) ([]examples.Example, error) {
	var body []byte
	var err error
	if name == "-" {
		name = "standard input"
		body, err = io.ReadAll(stdin)
	} else {
		body, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	// A body that cannot be read is sent too: the ingress puts it into the quarantine.
	head, _ := codat.Read(body)
	return []examples.Example{{Name: name, Type: head.Type, Body: body}}, nil
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

func (s sendResult) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, s)
	}
	name := s.Name
	if s.Type != "" && !strings.HasPrefix(name, "trap/") {
		name = s.Type
	}
	line := fmt.Sprintf("%d  %-45s  %s  in %s", s.Status, printable(name), printable(s.ID), formatDuration(s.Took))
	if s.Meaning != "" {
		line += ": " + s.Meaning
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
