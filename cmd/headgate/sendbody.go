package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tidwall/sjson"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// bodies returns the bodies to send, as --company, --set and --edit change them.
func (c *sendCmd) bodies(ctx context.Context, t *terminal) ([]examples.Example, error) {
	var bodies []examples.Example
	var err error
	switch {
	case c.From != "":
		bodies, err = c.storedBody(ctx, t)
	case c.File != "":
		bodies, err = fileBody(c.File, t.in)
	default:
		bodies, err = c.examples()
	}
	if err != nil {
		return nil, err
	}
	changed := c.Company != "" || len(c.Set) > 0 || c.Edit
	for i := range bodies {
		if err := c.change(ctx, t, &bodies[i]); err != nil {
			return nil, process.Misconfigured(err)
		}
		if changed {
			head, _ := codat.Read(bodies[i].Body) // one that cannot be read is sent too: the ingress puts it into the quarantine
			bodies[i].Type = head.Type
		}
	}
	return bodies, nil
}

// examples returns the chosen examples.
func (c *sendCmd) examples() ([]examples.Example, error) {
	switch {
	case c.List:
		return nil, nil
	case c.All:
		return examples.All(), nil
	case c.AllTypes:
		return slices.DeleteFunc(examples.All(), func(e examples.Example) bool { return strings.HasPrefix(e.Name, "trap/") }), nil
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
		return nil, process.Misconfigured(fmt.Errorf("--file: %w", err))
	}
	// A body that cannot be read is sent too: the ingress puts it into the quarantine.
	head, _ := codat.Read(body)
	return []examples.Example{{Name: name, Type: head.Type, Body: body}}, nil
}

// storedBody returns the redacted body of a stored event, by its webhook-id or its number in the stream.
func (c *sendCmd) storedBody(ctx context.Context, t *terminal) ([]examples.Example, error) {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return nil, err
	}
	defer nc.close()
	m, err := storedEvent(ctx, t, nc, c.From)
	if err != nil {
		return nil, err
	}
	body, err := examples.Redact(m.Data)
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", m.Sequence, err)
	}
	typ := nc.source.TypeOf(m.Subject)
	fmt.Fprintf(t.err, "event %d of type %s, redacted: its ids are new, its texts, addresses and numbers replaced; dates, statuses and names of members are as they were\n", m.Sequence, printable(typ))
	return []examples.Example{{Name: cmp.Or(typ, "event "+strconv.FormatUint(m.Sequence, 10)), Type: typ, Body: body}}, nil
}

// storedEvent returns the event with a webhook-id, or with a number in the source's stream.
func storedEvent(ctx context.Context, t *terminal, nc *client, id string) (*jetstream.RawStreamMsg, error) {
	number, err := strconv.ParseUint(strings.TrimPrefix(id, "#"), 10, 64)
	if err != nil {
		if number, err = storedSequence(ctx, t, nc, id); err != nil {
			return nil, err
		}
	}
	m, err := stream.Get(ctx, nc, nc.source.Stream(), number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("no message %d in %s: it has expired, was erased, or never was", number, nc.source.Stream())
	}
	return m, err
}

// storedSequence returns the sequence of the oldest message with a webhook-id.
func storedSequence(ctx context.Context, t *terminal, nc *client, id string) (number uint64, err error) {
	story, err := inspect.Find(ctx, nc, nc.source, id)
	if err == nil && len(story.Stored) == 0 {
		return 0, fmt.Errorf("the event %q is no longer stored: --from-event needs one that is, headgate find finds them", id)
	}
	if err == nil {
		return story.Stored[0].Sequence, nil
	}
	if !errors.Is(err, inspect.ErrNotFound) {
		return 0, err
	}
	q, done := eventSearch(t, id)
	defer done()
	searched := inspect.FindEvents(ctx, nc, nc.source, q, func(m inspect.Match) error {
		if m.By == inspect.ByWebhookID {
			number = m.Sequence // the last is the oldest
		}
		return nil
	})
	switch {
	case searched != nil:
		return 0, searched
	case number == 0:
		return 0, err
	}
	return number, nil
}

// change changes a body as the flags say.
func (c *sendCmd) change(ctx context.Context, t *terminal, e *examples.Example) error {
	if c.Company != "" {
		changed, err := withCompany(e.Body, c.Company)
		if err != nil && !c.All && !c.AllTypes {
			return fmt.Errorf("--company: %w", err)
		}
		if err == nil {
			e.Body = changed
		}
	}
	for _, one := range c.Set {
		var err error
		if e.Body, err = setMember(e.Body, one); err != nil {
			return err
		}
	}
	if !c.Edit {
		return nil
	}
	edited, err := edit(ctx, e.Body)
	if err != nil {
		return fmt.Errorf("--edit: %w: nothing was sent", err)
	}
	if !json.Valid(edited) {
		fmt.Fprintln(t.err, "the edited body is not JSON: it is sent as it is, and the ingress puts it into the quarantine")
	}
	e.Body = edited
	return nil
}

// withCompany puts another id in place of the company's, wherever it is in a body.
func withCompany(body []byte, id string) ([]byte, error) {
	head, _ := codat.Read(body) // also of a body without a type
	if head.Company == "" {
		return nil, errors.New("the body has no company: set a member with --set")
	}
	inText := func(s string) []byte {
		text, _ := json.Marshal(s) // a text is always JSON
		return text[1 : len(text)-1]
	}
	changed := bytes.ReplaceAll(body, inText(head.Company), inText(id))
	if head, _ := codat.Read(changed); head.Company != id {
		return nil, errors.New("the body writes the company's id in a way that is not replaced: use --set")
	}
	return changed, nil
}

// maxIndex bounds an index: the elements before it are made too.
const maxIndex = 10_000

// setMember sets a member of a body, as PATH=VALUE says. The rest of the body keeps its bytes.
func setMember(body []byte, assignment string) ([]byte, error) {
	path, value, ok := strings.Cut(assignment, "=")
	if !ok || path == "" {
		return nil, fmt.Errorf("--set must be PATH=VALUE, such as payload.connection.status=Linked (got %q)", assignment)
	}
	const how = "give the names of members and the indexes of elements, from 0, with dots between them"
	if strings.ContainsAny(path, "*?|#@") {
		return nil, fmt.Errorf("--set %s: a path has none of *?|#@: %s", path, how)
	}
	for one := range strings.SplitSeq(path, ".") {
		if n, err := strconv.ParseUint(one, 10, 64); err == nil && n > maxIndex {
			return nil, fmt.Errorf("--set %s: an index must be at most %d", path, maxIndex)
		}
	}
	if !json.Valid(body) {
		return nil, errors.New("--set: the body is not JSON")
	}
	text := []byte(value)
	if !json.Valid(text) {
		text, _ = json.Marshal(value) // a text is always JSON
	}
	changed, err := sjson.SetRawBytes(body, path, text)
	if err != nil {
		return nil, fmt.Errorf("--set %s: %w: %s", path, err, how)
	}
	return changed, nil
}

// edit lets the user edit a body in the editor that VISUAL or EDITOR names, and returns it as it was saved.
func edit(ctx context.Context, body []byte) ([]byte, error) {
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	folder, err := os.MkdirTemp("", "headgate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	name := folder + "/body.json"
	if err := os.WriteFile(name, body, 0o600); err != nil {
		return nil, err
	}
	// The variable may have arguments, as git's has.
	command := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, editor, name)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil { // the output may be a pipe
		defer tty.Close()
		command.Stdin, command.Stdout, command.Stderr = tty, tty, tty
	}
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("the editor %q has failed: %w", editor, err)
	}
	return os.ReadFile(name)
}
