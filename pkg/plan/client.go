package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// The errors of requests, for errors.Is.
var (
	// ErrNoWorker means that no worker answers: none runs with an API key of Codat. Nothing was stored.
	ErrNoWorker = errors.New("no worker carries out plans: start worker-writes with --codat-key-file, or headgate serve with HEADGATE_CODAT_KEY_FILE")
	// ErrConflict means that another plan was submitted under the id.
	ErrConflict = errors.New("another plan was submitted under this id")
	// ErrNotFound means that no plan has the id.
	ErrNotFound = errors.New("no such plan")
	// ErrRefused means that the plan or the action cannot be carried out as it is. The error says why.
	ErrRefused = errors.New("refused")
)

// codes are the names of the errors in a reply.
var codes = map[string]error{"conflict": ErrConflict, "not_found": ErrNotFound, "refused": ErrRefused}

// ActionKind is what an action does.
type ActionKind string

// The actions on a plan, which are the last token of their subjects.
const (
	Resume ActionKind = "resume" // look again for what became of unknown steps, or take Action.Operation for one
	Retry  ActionKind = "retry"  // push a failed or unknown step again: if it has happened, it happens twice
	Skip   ActionKind = "skip"   // go on without a step, with Action.Record in place of what it would have made
	Cancel ActionKind = "cancel" // start no further step; what is pushed goes on
)

// An Action is what an operator does to a plan.
type Action struct {
	Kind ActionKind `json:"kind"`
	Plan string     `json:"plan"`
	Step string     `json:"step,omitempty"`
	// Record is the id that references to a skipped step have.
	Record string `json:"record,omitempty"`
	// Operation is the key of the push operation that an unknown step has made.
	Operation string    `json:"operation,omitempty"`
	By        string    `json:"by,omitempty"` // who does it, for the record
	At        time.Time `json:"at,omitzero"`  // set by the worker
}

// A Reply is what the worker answers to a request.
type Reply struct {
	Status Status `json:"status,omitempty"` // of the plan
	New    bool   `json:"new,omitempty"`    // the plan was not there before
	Code   string `json:"code,omitempty"`   // conflict, not_found, refused, or "" when the request can be made again
	Error  string `json:"error,omitempty"`
}

// ReplyError returns the reply that becomes err for the caller.
func ReplyError(err error) Reply {
	for code, mark := range codes {
		if errors.Is(err, mark) {
			return Reply{Code: code, Error: err.Error()}
		}
	}
	return Reply{Error: err.Error()}
}

func (r Reply) err() error {
	if r.Error == "" {
		return nil
	}
	if mark := codes[r.Code]; mark != nil {
		return &replyError{r.Error, mark}
	}
	return errors.New(r.Error)
}

// A replyError is an error of the worker, with its mark.
type replyError struct {
	text string
	mark error
}

func (e *replyError) Error() string        { return e.text }
func (e *replyError) Is(target error) bool { return target == e.mark }

// Submit hands a plan to the worker writes, which carries it out when Submit has returned nil. Submitting the same plan again
// changes nothing, so that a caller without an answer submits it again. The error is ErrConflict, ErrRefused with every fault
// of the plan, ErrNoWorker, ctx's, or another one after which the plan may be there.
func Submit(ctx context.Context, nc *nats.Conn, s stream.Source, p Plan) (Reply, error) {
	if err := p.Validate(); err != nil {
		return Reply{}, &replyError{err.Error(), ErrRefused}
	}
	return request(ctx, nc, s.PlansSubject("submit"), p)
}

// Do carries out an action on a plan. The error is as that of Submit, or ErrNotFound. The same action again is refused when
// it has nothing to do any more.
func Do(ctx context.Context, nc *nats.Conn, s stream.Source, a Action) (Reply, error) {
	return request(ctx, nc, s.PlansSubject(string(a.Kind)), a)
}

func request(ctx context.Context, nc *nats.Conn, subject string, v any) (Reply, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return Reply{}, err
	}
	m, err := nc.RequestWithContext(ctx, subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return Reply{}, ErrNoWorker
	case err != nil:
		return Reply{}, fmt.Errorf("request %s: %w", subject, err)
	}
	var r Reply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return Reply{}, fmt.Errorf("request %s: the answer is not that of worker-writes", subject)
	}
	return r, r.err()
}

// Get returns the record of a plan. The error is ErrNotFound for an id without a plan, and stream.ErrNotProvisioned when the bucket
// does not exist.
func Get(ctx context.Context, js jetstream.JetStream, s stream.Source, id string) (Record, error) {
	if err := checkID("id", id, maxID); err != nil {
		return Record{}, err
	}
	kv, err := stream.Bucket(ctx, js, s.StateBucket(StateName))
	if err != nil {
		return Record{}, err
	}
	e, err := kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Record{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return Record{}, err
	}
	return decode(id, e.Value())
}

// List calls each with the record of every plan, in the order of their last changes, until each returns an error, which List
// then returns. It needs the permissions of stream.Read on the bucket's stream.
func List(ctx context.Context, js jetstream.JetStream, s stream.Source, each func(Record) error) error {
	bucket := s.StateBucket(StateName)
	prefix := "$KV." + bucket + "."
	_, err := stream.Read(ctx, js, "KV_"+bucket, stream.ReadOptions{Filters: []string{prefix + "*"}}, func(m *jetstream.RawStreamMsg) error {
		if m.Header.Get("KV-Operation") != "" {
			return nil // deleted
		}
		r, err := decode(strings.TrimPrefix(m.Subject, prefix), m.Data)
		if err != nil {
			return err
		}
		return each(r)
	})
	return err
}

func decode(id string, text []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("record of plan %s: %w", id, err)
	}
	return r, nil
}

// awaitPause is the time between two reads of Await.
const awaitPause = time.Second

// Await returns the record of a plan once it is done, held or cancelled. It reads the record each second. The error is that of
// Get, and ctx's when that ends first.
func Await(ctx context.Context, js jetstream.JetStream, s stream.Source, id string) (Record, error) {
	for {
		r, err := Get(ctx, js, s, id)
		if err != nil || r.Status != StatusRunning {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(awaitPause):
		}
	}
}
