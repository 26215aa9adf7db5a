// Package deadletter keeps what a worker gave up: each dead letter is the event as it came, byte for byte,
// with why, when and where it was given up. A letter is buried when its stream has it durably, and it can be
// given to its worker again as often as somebody wants; it stays in the archive.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// The headers that a dead letter has beside the event's own.
const (
	HeaderWorker       = "headgate-worker"
	HeaderCause        = "headgate-cause"
	HeaderFirstError   = "headgate-first-error"
	HeaderLastError    = "headgate-last-error"
	HeaderAttempts     = "headgate-attempts"
	HeaderFirstAttempt = "headgate-first-attempt"
	HeaderLastAttempt  = "headgate-last-attempt"
	HeaderHost         = "headgate-host"
	// HeaderSequence is the event's place in its stream; a redrive and a parked copy carry it too.
	HeaderSequence = "headgate-sequence"
)

// A Letter is an event that a worker gave up.
type Letter struct {
	Worker    string `json:"worker"`
	Type      string `json:"type"`
	WebhookID string `json:"webhook_id"`
	// Redrive is the redrive in which it died; "" when it was the event itself.
	Redrive string `json:"redrive,omitempty"`
	// Sequence is the event's place in the source's stream.
	Sequence uint64 `json:"sequence"`
	// Company is the company's id, "" when the event has none.
	Company string `json:"company,omitempty"`
	// Cause is one of the causes that package workers names.
	Cause        string    `json:"cause"`
	FirstError   string    `json:"first_error"`
	LastError    string    `json:"last_error"`
	Attempts     int       `json:"attempts"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"`
	LastAttempt  time.Time `json:"last_attempt,omitzero"`
	// Host is where the last attempt ran.
	Host string `json:"host"`

	// Buried is when the archive stored it, and Number its place there; both are zero before.
	Buried time.Time `json:"buried,omitzero"`
	Number uint64    `json:"number,omitempty"`

	// Header and Body are the event's own.
	Header nats.Header `json:"-"`
	Body   []byte      `json:"-"`
}

// A Publisher stores a message; it returns no error only when the message is durable. *stream.Publisher is one.
type Publisher interface {
	Publish(ctx context.Context, m *nats.Msg) (stream.Receipt, error)
}

// Bury stores the letter and returns nil only when it is durable. A letter of the same worker, webhook-id and
// redrive is stored once, however often it is buried.
func Bury(ctx context.Context, p Publisher, s stream.Source, l Letter) error {
	h := Header(l.Header)
	for name, value := range map[string]string{
		jetstream.MsgIDHeader: l.Worker + ":" + l.WebhookID + ":" + l.Redrive,
		HeaderWorker:          l.Worker,
		HeaderCause:           l.Cause,
		HeaderFirstError:      l.FirstError,
		HeaderLastError:       l.LastError,
		HeaderAttempts:        strconv.Itoa(l.Attempts),
		HeaderFirstAttempt:    stamp(l.FirstAttempt),
		HeaderLastAttempt:     stamp(l.LastAttempt),
		HeaderHost:            l.Host,
		HeaderSequence:        strconv.FormatUint(l.Sequence, 10),
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	_, err := p.Publish(ctx, &nats.Msg{Subject: s.DeadSubject(l.Worker, l.Type), Header: h, Data: l.Body})
	if err != nil {
		return fmt.Errorf("dead letter of %s: %w", l.WebhookID, err)
	}
	return nil
}

// Header is a copy of an event's headers without what the server gave the first message a meaning by, such
// as its message id: what a parked copy, a redrive and a dead letter begin with.
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

// Redrive gives an event to one worker again, under an id that the worker has not seen: its handler runs
// although it was done or dead before. The same redrive of the same event is stored once. It is refused with
// stream.ErrFull while the stream is 90 % full, so that it never takes the room of new events.
func Redrive(ctx context.Context, js jetstream.JetStream, p Publisher, s stream.Source, redrive string, l Letter) (stream.Receipt, error) {
	if err := room(ctx, js, s); err != nil {
		return stream.Receipt{}, err
	}
	h := Header(l.Header)
	for name := range h {
		if strings.HasPrefix(name, "headgate-") {
			delete(h, name)
		}
	}
	h.Set(jetstream.MsgIDHeader, "redrive:"+l.Worker+":"+redrive+":"+l.WebhookID)
	h.Set(stream.HeaderRedrive, redrive)
	h.Set(HeaderSequence, strconv.FormatUint(l.Sequence, 10))
	receipt, err := p.Publish(ctx, &nats.Msg{Subject: s.RedriveSubject(l.Worker, l.Type), Header: h, Data: l.Body})
	if err != nil {
		return receipt, fmt.Errorf("redrive of %s: %w", l.WebhookID, err)
	}
	return receipt, nil
}

// room refuses a redrive while the source's stream is 90 % full.
func room(ctx context.Context, js jetstream.JetStream, s stream.Source) error {
	st, err := js.Stream(ctx, s.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	info := st.CachedInfo()
	if limit := info.Config.MaxBytes; limit > 0 && info.State.Bytes > uint64(limit)/10*9 {
		return fmt.Errorf("stream %s is over 90 %% of its %d bytes, which new events need: raise it with `headgate provision --max-bytes`: %w",
			s.Stream(), limit, stream.ErrFull)
	}
	return nil
}

// A Filter chooses letters; a zero field chooses all.
type Filter struct {
	Worker, Type, Company string
	// Since and Until bound the time of burial; Until is exclusive.
	Since, Until time.Time
}

func (f Filter) takes(l Letter) bool {
	return (f.Worker == "" || l.Worker == f.Worker) &&
		(f.Type == "" || l.Type == f.Type) &&
		(f.Company == "" || l.Company == f.Company) &&
		(f.Since.IsZero() || !l.Buried.Before(f.Since)) &&
		(f.Until.IsZero() || l.Buried.Before(f.Until))
}

// List calls each with every letter that f chooses and that was buried before List began, oldest first,
// until each returns an error, which List then returns.
func List(ctx context.Context, js jetstream.JetStream, s stream.Source, f Filter, each func(Letter) error) error {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if f.Worker != "" {
		cfg.FilterSubjects = []string{s.DeadFilter(f.Worker)}
	}
	if !f.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	_, err := stream.Read(ctx, js, s.DeadStream(), cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if l := open(s, m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp); f.takes(l) {
			return each(l)
		}
		return nil
	}, nil)
	return err
}

// ErrNone means that the archive holds no letter of that number.
var ErrNone = errors.New("no such dead letter: `headgate dead list` shows the numbers")

// Get returns the letter of a number that List or `headgate dead list` gave.
func Get(ctx context.Context, js jetstream.JetStream, s stream.Source, number uint64) (Letter, error) {
	st, err := js.Stream(ctx, s.DeadStream())
	if err != nil {
		return Letter{}, fmt.Errorf("stream %s: %w", s.DeadStream(), err)
	}
	m, err := st.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, fmt.Errorf("dead letter %d: %w", number, ErrNone)
	}
	if err != nil {
		return Letter{}, fmt.Errorf("dead letter %d: %w", number, err)
	}
	return open(s, m.Subject, m.Header, m.Data, m.Sequence, m.Time), nil
}

// Read is the letter that Bury published as m. Buried and Number are zero: they are the archive's.
func Read(s stream.Source, m *nats.Msg) Letter {
	return open(s, m.Subject, m.Header, m.Data, 0, time.Time{})
}

// open reads a letter back. A header that another hand changed leaves its field zero: the event is there anyway.
func open(s stream.Source, subject string, h nats.Header, body []byte, number uint64, at time.Time) Letter {
	attempts, _ := strconv.Atoi(h.Get(HeaderAttempts))
	sequence, _ := strconv.ParseUint(h.Get(HeaderSequence), 10, 64)
	first, _ := time.Parse(time.RFC3339Nano, h.Get(HeaderFirstAttempt))
	last, _ := time.Parse(time.RFC3339Nano, h.Get(HeaderLastAttempt))
	return Letter{
		Worker: h.Get(HeaderWorker), Type: s.TypeOf(subject),
		WebhookID: h.Get(stream.HeaderWebhookID), Redrive: h.Get(stream.HeaderRedrive),
		Sequence: sequence, Company: stream.Attribute(h, stream.HeaderCESubject),
		Cause: h.Get(HeaderCause), FirstError: h.Get(HeaderFirstError), LastError: h.Get(HeaderLastError),
		Attempts: attempts, FirstAttempt: first, LastAttempt: last, Host: h.Get(HeaderHost),
		Buried: at, Number: number, Header: h, Body: body,
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
