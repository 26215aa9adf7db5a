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
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// send signs bodies and posts them.
type send struct {
	Type string `arg:"" optional:"" help:"Event type whose example is sent; --list names them all."`
	All  bool   `name:"all" env:"-" help:"Send every example, also the odd bodies (trap/…) that Codat's documentation warns of."`
	File string `name:"file" env:"-" placeholder:"FILE" help:"Send the bytes of a file; - reads standard input."`
	List bool   `name:"list" env:"-" help:"List the examples and send nothing."`

	To    string `name:"to" default:"http://127.0.0.1:8080/webhooks/codat" help:"Address of the webhook."`
	ID    string `name:"id" env:"-" help:"The webhook-id; a new one for each event if not given. Sent again, it shows what becomes of a duplicate."`
	Count int    `name:"count" env:"-" default:"1" help:"How often each event is sent."`
	JSON  bool   `name:"json" env:"-" help:"Print JSON."`

	keyring `embed:""`
}

// Validate reports a command line that cannot be meant.
func (c *send) Validate() error {
	chosen := 0
	for _, is := range []bool{c.Type != "", c.All, c.File != "", c.List} {
		if is {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("give one of TYPE, --all, --file and --list")
	}
	if c.All && c.ID != "" {
		return errors.New("--id: events of --all need an id each: of several with one id only the first is stored")
	}
	if c.Count < 1 {
		return fmt.Errorf("--count: %d times is never: give 1 or more", c.Count)
	}
	if u, err := url.Parse(c.To); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--to: %q is no address of a webhook: give one as http://127.0.0.1:8080/webhooks/codat", c.To)
	}
	_, err := c.bodies(strings.NewReader(""))
	return err
}

// Run sends what was chosen, one after the other.
func (c *send) Run(ctx context.Context, t *terminal) error {
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
	s := newSender(c.To, key)
	defer s.close()
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
		return fmt.Errorf("%d of %d events not accepted", refused, c.Count*len(bodies))
	}
	return nil
}

// bodies are what is to be sent. stdin is read when that is asked for.
func (c *send) bodies(stdin io.Reader) ([]examples.Example, error) {
	switch {
	case c.List:
		return nil, nil
	case c.All:
		return examples.All(), nil
	case c.File != "":
		return fileBody(c.File, stdin)
	}
	e, ok := examples.Of(c.Type)
	if !ok {
		var names []string
		for _, e := range examples.All() {
			names = append(names, e.Name)
		}
		return nil, fmt.Errorf("there is no example of %q: did you mean %s? --list names them all", c.Type, process.Nearest(c.Type, names))
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
	// What cannot be read is sent all the same: it shows what becomes of it.
	head, _ := codat.Read(body)
	return []examples.Example{{Name: name, Type: head.Type, Body: body}}, nil
}

// sender posts as Codat's sender does.
type sender struct {
	to     string
	key    signature.Key
	client *http.Client
}

// patience is how long Codat's sender waits for an answer.
const patience = 15 * time.Second

func newSender(to string, key signature.Key) *sender {
	return &sender{to: to, key: key, client: &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		// A redirect would be followed without the body, and Codat follows none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *sender) close() { s.client.CloseIdleConnections() }

// sent is an event and how it was answered.
type sent struct {
	Name    string        `json:"name"`
	Type    string        `json:"type,omitempty"`
	ID      string        `json:"webhook_id"`
	Status  int           `json:"status"`
	Took    time.Duration `json:"-"`
	TookMS  float64       `json:"took_ms"`
	Meaning string        `json:"meaning,omitempty"`
}

// send posts one event, under a new id if id is empty. It returns an error when there was no answer.
func (s *sender) send(ctx context.Context, e examples.Example, id string) (sent, error) {
	if id == "" {
		id = signature.NewID()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to, bytes.NewReader(e.Body))
	if err != nil {
		return sent{}, err
	}
	began := time.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "headgate/"+process.Version())
	req.Header.Set(stream.HeaderWebhookID, id)
	req.Header.Set(stream.HeaderWebhookTimestamp, strconv.FormatInt(began.Unix(), 10))
	req.Header.Set(stream.HeaderWebhookSignature, s.key.Sign(id, began, e.Body))
	resp, err := s.client.Do(req)
	if err != nil {
		return sent{}, fmt.Errorf("no answer: is the ingress running there? headgate dev starts one: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	d := time.Since(began)
	return sent{e.Name, e.Type, id, resp.StatusCode, d, float64(d.Microseconds()) / 1000, meaning(resp.StatusCode)}, nil
}

// meaning is what a refusal likely means; the ingress tells a stranger nothing.
func meaning(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "another key than the receiver's (give its own with --secret-file), or the two clocks differ by minutes"
	case http.StatusForbidden:
		return "this address or client may not post there"
	case http.StatusNotFound:
		return "no webhook at this path: check --to"
	case http.StatusMethodNotAllowed:
		return "something else than the webhook answers there: check --to"
	case http.StatusRequestTimeout:
		return "the body came too slowly"
	case http.StatusRequestEntityTooLarge:
		return "larger than the receiver's --max-body"
	case http.StatusServiceUnavailable:
		return "proven, but it could not be stored: NATS is away, full or not provisioned; send it again with the same --id"
	}
	if status/100 == 2 {
		return ""
	}
	return "not an answer of the ingress: check --to"
}

func (s sent) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, s)
	}
	name := s.Name
	if s.Type != "" && !strings.HasPrefix(name, "trap/") {
		name = s.Type
	}
	line := fmt.Sprintf("%d  %-40s  %s  in %s", s.Status, clean(name), clean(s.ID), took(s.Took))
	if s.Meaning != "" {
		line += ": " + s.Meaning
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
