// Package deadletter keeps the events that workers gave up. A dead letter is the event, byte for byte, with the cause and
// the attempts. It is durable when Bury returns, and stays in the archive when it is given to its worker again.
package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// The headers that a dead letter has in addition to those of the event.
const (
	HeaderWorker       = "headgate-worker"
	HeaderCause        = "headgate-cause"
	HeaderFirstError   = "headgate-first-error"
	HeaderLastError    = "headgate-last-error"
	HeaderDetail       = "headgate-detail"
	HeaderAttempts     = "headgate-attempts"
	HeaderFirstAttempt = "headgate-first-attempt"
	HeaderLastAttempt  = "headgate-last-attempt"
	HeaderHost         = "headgate-host"
	HeaderNoBody       = "headgate-no-body"
)

// A Letter is an event that a worker gave up.
type Letter struct {
	Worker    string `json:"worker"`
	Type      string `json:"type"`
	WebhookID string `json:"webhook_id"`
	// Redrive is the redrive that failed, and "" when it was the event itself.
	Redrive string `json:"redrive,omitempty"`
	// Sequence is the event's place in the source's stream.
	Sequence uint64 `json:"sequence"`
	// Company is the company's id, "" when the event has none.
	Company string `json:"company,omitempty"`
	// Connection is the connection's id, "" when the event has none.
	Connection string `json:"connection,omitempty"`
	// Cause is one of the causes that package workers names.
	Cause      string `json:"cause"`
	FirstError string `json:"first_error"`
	LastError  string `json:"last_error"`
	// Detail is what the last error has beyond its text, such as the answer of a service. It can hold data of customers: a
	// letter that was read has it in its Header only.
	Detail       string    `json:"-"`
	Attempts     int       `json:"attempts"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"`
	LastAttempt  time.Time `json:"last_attempt,omitzero"`
	// Host is where the last attempt ran.
	Host string `json:"host"`

	// NoBody says that the event was too large for the archive: its body is in the source's stream at Sequence, for as long as
	// the stream keeps it.
	NoBody bool `json:"no_body,omitempty"`

	// Buried is when the archive stored the letter, and Number its sequence there. Both are zero before.
	Buried time.Time `json:"buried,omitzero"`
	Number uint64    `json:"number,omitempty"`

	// Header and Body are the event's own.
	Header nats.Header `json:"-"`
	Body   []byte      `json:"-"`
}

// A Publisher stores messages. Publish returns nil only when the message is durable. *stream.Publisher is a Publisher.
type Publisher interface {
	Publish(ctx context.Context, m *nats.Msg) (stream.Receipt, error)
}

// shortError is the longest error in a letter that is too large with its whole errors.
const shortError = 64

// Bury stores a letter and returns nil only when it is durable. The same end of an event (worker, webhook-id, redrive and time
// of the last attempt) is stored once. A letter that the server refuses for its size is stored with shortened errors and without the detail, and then
// without its body.
func Bury(ctx context.Context, p Publisher, s stream.Source, l Letter) error {
	err := bury(ctx, p, s, l)
	if errors.Is(err, stream.ErrTooLarge) {
		l.Detail = ""
		l.FirstError, l.LastError = l.FirstError[:min(len(l.FirstError), shortError)], l.LastError[:min(len(l.LastError), shortError)]
		err = bury(ctx, p, s, l)
	}
	if errors.Is(err, stream.ErrTooLarge) {
		l.NoBody, l.Body = true, nil
		err = bury(ctx, p, s, l)
	}
	if err != nil {
		return fmt.Errorf("dead letter of %s: %w", l.WebhookID, err)
	}
	return nil
}

func bury(ctx context.Context, p Publisher, s stream.Source, l Letter) error {
	h := Header(l.Header)
	noBody := ""
	if l.NoBody {
		noBody = "too large"
	}
	for name, value := range map[string]string{
		jetstream.MsgIDHeader:  l.Worker + ":" + l.WebhookID + ":" + l.Redrive + ":" + stamp(l.LastAttempt),
		stream.HeaderWebhookID: l.WebhookID,
		HeaderWorker:           l.Worker,
		HeaderCause:            l.Cause,
		HeaderFirstError:       l.FirstError,
		HeaderLastError:        l.LastError,
		HeaderDetail:           l.Detail,
		HeaderAttempts:         strconv.Itoa(l.Attempts),
		HeaderFirstAttempt:     stamp(l.FirstAttempt),
		HeaderLastAttempt:      stamp(l.LastAttempt),
		HeaderHost:             l.Host,
		HeaderNoBody:           noBody,
		stream.HeaderSequence:  strconv.FormatUint(l.Sequence, 10),
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	_, err := p.Publish(ctx, &nats.Msg{Subject: s.DeadSubject(l.Worker, l.Type), Header: h, Data: l.Body})
	return err
}

// Header is a copy of an event's headers without those that mean something to the server, such as the message id. Parked
// copies, redrives and dead letters start with it.
func Header(h nats.Header) nats.Header {
	c := make(nats.Header, len(h)+10)
	maps.Copy(c, h)
	for name := range c {
		if strings.HasPrefix(name, "Nats-") {
			delete(c, name)
		}
	}
	return c
}

// A Redriver gives events of a source to its workers again.
type Redriver struct {
	JS        jetstream.JetStream
	Publisher Publisher
	Source    stream.Source
}

// Redrive gives the event of a letter to the letter's worker again. id names the redrive: its handler runs although the
// event was done or dead before, and the same redrive of the same event is stored once. Call CheckSpace before, and now and then.
func (r Redriver) Redrive(ctx context.Context, id string, l Letter) (stream.Receipt, error) {
	if l.NoBody {
		var err error
		if l.Body, err = r.body(ctx, l); err != nil {
			return stream.Receipt{}, err
		}
	}
	h := Header(l.Header)
	for name := range h {
		if strings.HasPrefix(name, "headgate-") {
			delete(h, name)
		}
	}
	h.Set(jetstream.MsgIDHeader, "redrive:"+l.Worker+":"+id+":"+l.WebhookID)
	h.Set(stream.HeaderWebhookID, l.WebhookID)
	h.Set(stream.HeaderRedrive, id)
	h.Set(stream.HeaderSequence, strconv.FormatUint(l.Sequence, 10))
	receipt, err := r.Publisher.Publish(ctx, &nats.Msg{Subject: r.Source.RedriveSubject(l.Worker, l.Type), Header: h, Data: l.Body})
	if err != nil {
		return receipt, fmt.Errorf("redrive of %s: %w", l.WebhookID, err)
	}
	return receipt, nil
}

// body returns the body of a letter without one from the source's stream.
func (r Redriver) body(ctx context.Context, l Letter) ([]byte, error) {
	m, err := stream.Get(ctx, r.JS, r.Source.Stream(), l.Sequence)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("body of the dead letter of %s: %w", l.WebhookID, err)
	}
	if err != nil || r.Source.OpenRaw(m).ID != l.WebhookID {
		return nil, fmt.Errorf("dead letter of %s was stored without its body, and the stream does not hold the event any more: ask Codat for it again: %w", l.WebhookID, ErrNotFound)
	}
	return m.Data, nil
}

// CheckSpace returns stream.ErrFull while the source's stream is over 90 % full: a redrive must not take the space of new events.
func (r Redriver) CheckSpace(ctx context.Context) error {
	st, err := r.JS.Stream(ctx, r.Source.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.Source.Stream(), err)
	}
	info := st.CachedInfo()
	if limit := info.Config.MaxBytes; limit > 0 && info.State.Bytes > uint64(limit)/10*9 {
		return fmt.Errorf("stream %s is over 90 %% of its %d bytes, which new events need: raise it with `headgate provision --max-bytes`: %w",
			r.Source.Stream(), limit, stream.ErrFull)
	}
	return nil
}

// A Filter chooses letters; a zero field chooses all.
type Filter struct {
	Worker, Company, Connection, Cause string
	Type                               codat.Pattern
	IDs                                []string // webhook-ids
	// Since and Until bound the time of burial; Until is exclusive.
	Since, Until time.Time
}

// Match reports whether f chooses a letter.
func (f Filter) Match(l Letter) bool {
	return (f.Worker == "" || l.Worker == f.Worker) &&
		(f.Type == "" || f.Type.Match(l.Type)) &&
		(f.Company == "" || l.Company == f.Company) &&
		(f.Connection == "" || l.Connection == f.Connection) &&
		(f.Cause == "" || l.Cause == f.Cause) &&
		(len(f.IDs) == 0 || slices.Contains(f.IDs, l.WebhookID)) &&
		(f.Since.IsZero() || !l.Buried.Before(f.Since)) &&
		(f.Until.IsZero() || l.Buried.Before(f.Until))
}

// List calls each with every letter that f chooses and that was buried before List began, oldest first,
// until each returns an error, which List then returns.
func List(ctx context.Context, js jetstream.JetStream, s stream.Source, f Filter, each func(Letter) error) error {
	return f.Read(ctx, js, s, stream.ReadOptions{Since: f.Since}, each)
}

// Read does what List does, with those letters among the messages of the archive that o chooses. It sets o.Filters.
func (f Filter) Read(ctx context.Context, js jetstream.JetStream, s stream.Source, o stream.ReadOptions, each func(Letter) error) error {
	if f.Worker != "" || f.Type != "" { // a server counts what a filter chooses, and the archive has nothing but letters
		o.Filters = []string{s.DeadSubject(cmp.Or(f.Worker, "*"), string(cmp.Or(f.Type, ">")))}
	}
	_, err := stream.Read(ctx, js, s.DeadStream(), o, func(m *jetstream.RawStreamMsg) error {
		if l := Open(s, m); f.Match(l) {
			return each(l)
		}
		return nil
	})
	return err
}

// ErrNotFound means that the archive holds no letter of that number, or that the body of a letter is gone.
var ErrNotFound = errors.New("no such dead letter: `headgate dead list` shows the numbers")

// Get returns the letter of a number that List or `headgate dead list` gave.
func Get(ctx context.Context, js jetstream.JetStream, s stream.Source, number uint64) (Letter, error) {
	m, err := stream.Get(ctx, js, s.DeadStream(), number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, fmt.Errorf("dead letter %d: %w", number, ErrNotFound)
	}
	if err != nil {
		return Letter{}, fmt.Errorf("dead letter %d: %w", number, err)
	}
	return Open(s, m), nil
}

// GetAll calls each with the letters of numbers, in the order that these have, without those that the archive does not have, until each
// reports that it wants no more. It reads in batches, and is much faster than Get for each.
func GetAll(ctx context.Context, js jetstream.JetStream, s stream.Source, numbers []uint64, each func(Letter) (more bool)) error {
	err := stream.GetAll(ctx, js, s.DeadStream(), numbers, func(m *jetstream.RawStreamMsg) bool { return each(Open(s, m)) })
	if err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	return nil
}

// Read is the letter that Bury published as m. Buried and Number are zero: they are the archive's.
func Read(s stream.Source, m *nats.Msg) Letter {
	return Open(s, &jetstream.RawStreamMsg{Subject: m.Subject, Header: m.Header, Data: m.Data})
}

// Open is the letter that was read from the archive as m. A header that cannot be read leaves its field zero.
func Open(s stream.Source, m *jetstream.RawStreamMsg) Letter {
	h, e := m.Header, s.OpenRaw(m)
	attempts, _ := strconv.Atoi(h.Get(HeaderAttempts))
	first, _ := time.Parse(time.RFC3339Nano, h.Get(HeaderFirstAttempt))
	last, _ := time.Parse(time.RFC3339Nano, h.Get(HeaderLastAttempt))
	return Letter{
		Worker: h.Get(HeaderWorker), Type: e.Head.Type, WebhookID: e.ID, Redrive: e.Redrive,
		Sequence: e.Sequence, Company: e.Head.Company, Connection: e.Head.Connection,
		Cause: h.Get(HeaderCause), FirstError: h.Get(HeaderFirstError), LastError: h.Get(HeaderLastError),
		Attempts: attempts, FirstAttempt: first, LastAttempt: last, Host: h.Get(HeaderHost),
		NoBody: h.Get(HeaderNoBody) != "", Buried: m.Time, Number: m.Sequence, Header: h, Body: m.Data,
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
