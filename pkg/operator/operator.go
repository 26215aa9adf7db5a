// Package operator is what an operator may do to a source: give dead letters and stored events to a worker again, and
// release messages from the quarantine. Each action is recorded on the source's operator subject before it begins and
// after it ends; an action that cannot be recorded does not begin.
package operator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/headgate/headgate/pkg/stream"
)

// publishTimeout bounds one publish, which otherwise retries until its context ends.
const publishTimeout = 10 * time.Second

// publishWindow is how many messages one action publishes at once.
const publishWindow = 64

// An Operator acts on one source. It is safe for concurrent use.
type Operator struct {
	js        jetstream.JetStream
	source    stream.Source
	publisher *stream.Publisher
	timeout   time.Duration // of one publish
	user      string        // for the records
}

// New returns an operator that uses the connection of js, which stays the caller's. Close the operator first.
func New(js jetstream.JetStream, s stream.Source) (*Operator, error) {
	p, err := stream.NewPublisher(js.Conn(), stream.PublisherOptions{Window: publishWindow})
	if err != nil {
		return nil, err
	}
	return &Operator{js: js, source: s, publisher: p, timeout: publishTimeout, user: userName()}, nil
}

// As returns an operator whose records name another user than that of the process. It ends when o is closed.
func (o *Operator) As(user string) *Operator {
	as := *o
	as.user = user
	return &as
}

// Close ends the operator. Actions in flight fail.
func (o *Operator) Close() { o.publisher.Close() }

// An Entry is the record of an action. It names what was chosen and counts what happened; it holds no key and no
// payload.
type Entry struct {
	At      time.Time `json:"at"`
	Host    string    `json:"host"`
	User    string    `json:"user"`
	Command string    `json:"command"`
	// Step is StepBegin before anything is done and StepEnd afterwards. The process of a begin without an end died. A redrive
	// of many dead letters has records of StepGiven in between.
	Step    string         `json:"step"`
	Redrive string         `json:"redrive,omitempty"`
	Chosen  map[string]any `json:"chosen,omitempty"`
	Count   int            `json:"count"`
	Given   int            `json:"given"`
	Before  int            `json:"given_before,omitempty"`
	// Letters are the numbers of the dead letters that were given, or had been given before in the same redrive, as 1-3,7. The
	// records of one redrive together name all.
	Letters string `json:"letters,omitempty"`
	Error   string `json:"error,omitempty"`
}

// The steps of an action.
const (
	StepBegin = "begin"
	StepGiven = "given"
	StepEnd   = "end"
)

// Record stores an entry; it sets At, Host and, where it is empty, User. It returns nil only when the entry is durable. The end of ctx does
// not cut it off: what was done is recorded also after an interrupt.
func (o *Operator) Record(ctx context.Context, e Entry) error {
	e.At = time.Now().UTC()
	e.Host, _ = os.Hostname() // "" when unknown
	e.User = cmp.Or(e.User, o.user)
	body, err := encode(e)
	if err != nil {
		return fmt.Errorf("record of the operator: %w", err)
	}
	_, err = o.publish(ctx, &nats.Msg{
		Subject: o.source.OperatorSubject(),
		Header:  nats.Header{jetstream.MsgIDHeader: {nuid.Next()}, stream.HeaderContentType: {"application/json"}},
		Data:    body,
	})
	if err != nil {
		return fmt.Errorf("record of the operator: %w", err)
	}
	return nil
}

// publish stores a message. The end of ctx does not cut it off, so that its outcome is known.
func (o *Operator) publish(ctx context.Context, m *nats.Msg) (stream.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.timeout)
	defer cancel()
	return o.publisher.Publish(ctx, m)
}

// encode returns v as JSON in which <, > and & stay as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}
