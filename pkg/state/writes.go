package state

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// WritesName is the name of the state of the writes: the bucket is CODAT_writes for the source codat. The worker writes
// writes it.
const WritesName = "writes"

// A Write is what is known of one write to an accounting platform, which Codat calls a push operation. Its fields follow
// from the facts of the furthest status: Success stays, TimedOut may become Success or Failed. A field that no event has is
// empty: events of the legacy types say neither kind nor record.
type Write struct {
	// PushOperationKey is what the call that asked for the write returned. It is the record's key.
	PushOperationKey string           `json:"push_operation_key"`
	Status           codat.PushStatus `json:"status"`
	Company          string           `json:"company,omitempty"`
	Connection       string           `json:"connection,omitempty"`
	DataType         codat.DataType   `json:"data_type,omitempty"`
	Kind             codat.WriteType  `json:"kind,omitempty"`
	Requested        time.Time        `json:"requested,omitzero"`
	Completed        time.Time        `json:"completed,omitzero"`
	Record           string           `json:"record,omitempty"`     // its id on the platform, when the write made or changed one
	Attachment       string           `json:"attachment,omitempty"` // its id
	// Overdue is when an outcome was due of a write that has none: after the worker's --overdue-after, or after Codat's own limit
	// when the API has said a later one. It is zero before, and with an outcome. The worker knows of a write by its plan, or by
	// an event that says Pending, which only the legacy types have.
	Overdue time.Time `json:"overdue,omitzero"`
	// Reason is why the write has this status. No event has it: the worker asks Codat's API, and has no reason without an API
	// key (--codat-key-file), and until the API has answered.
	Reason *WriteReason `json:"reason,omitempty"`

	// Plan and Step name the write plan and the step that made the write, and are empty for a write of another program.
	Plan string `json:"plan,omitempty"`
	Step string `json:"step,omitempty"`

	// Current and Legacy are the facts that the fields follow from, of the events of each generation, and Asked is what Codat's
	// API answered.
	Current *WriteFact `json:"current,omitempty"`
	Legacy  *WriteFact `json:"legacy,omitempty"`
	Asked   *WriteFact `json:"asked,omitempty"`
}

// A WriteReason is what Codat, or the platform, says of a write. Its texts can be personal data. Of each list the first 20 are
// there, of a message the first 2 KiB, and of an item or validator 256 bytes.
type WriteReason struct {
	Message  string        `json:"message,omitempty"`
	Errors   []WriteRemark `json:"errors,omitempty"`
	Warnings []WriteRemark `json:"warnings,omitempty"`
}

// A WriteRemark is one error or warning about the content of a write.
type WriteRemark struct {
	Item      string `json:"item,omitempty"` // what it is about, such as the name of a member
	Message   string `json:"message,omitempty"`
	Validator string `json:"validator,omitempty"`
}

// A WriteFact is what one event, or one answer of Codat's API, says of a write. An answer has no type, id and sequence.
type WriteFact struct {
	Type      string    `json:"type,omitempty"` // of the event
	WebhookID string    `json:"webhook_id,omitempty"`
	Generated time.Time `json:"generated,omitzero"` // zero when the event has no date
	Received  time.Time `json:"received"`
	Sequence  uint64    `json:"sequence,omitempty"`

	Status     codat.PushStatus `json:"status"`
	Company    string           `json:"company,omitempty"`
	Connection string           `json:"connection,omitempty"`
	DataType   codat.DataType   `json:"data_type,omitempty"`
	Kind       codat.WriteType  `json:"kind,omitempty"`
	Requested  time.Time        `json:"requested,omitzero"`
	Completed  time.Time        `json:"completed,omitzero"`
	Record     string           `json:"record,omitempty"`
	Attachment string           `json:"attachment,omitempty"`
	Reason     *WriteReason     `json:"reason,omitempty"`
	// TimeoutMinutes is after how long Codat says TimedOut; 0 when it has no limit. Only answers have it.
	TimeoutMinutes int `json:"timeout_minutes,omitempty"`
}

// WriteKey returns the key of a write's record, which is the push operation key. It refuses a key with other characters than
// letters, digits, - and _, and one of more than 128 bytes.
func WriteKey(pushOperationKey string) (string, error) {
	return pushOperationKey, checkID("push operation key", pushOperationKey)
}

// Writes reads the records of the writes of one source. OpenWrites makes it.
type Writes struct {
	bucket jetstream.KeyValue
	js     jetstream.JetStream
}

// OpenWrites opens the records of a source. The error is stream.ErrNotProvisioned when the bucket does not exist.
func OpenWrites(ctx context.Context, js jetstream.JetStream, s stream.Source) (Writes, error) {
	kv, err := open(ctx, js, s, WritesName)
	return Writes{kv, js}, err
}

// Get returns the record of a write. The error is jetstream.ErrKeyNotFound when no event has named it.
func (w Writes) Get(ctx context.Context, pushOperationKey string) (Write, error) {
	key, err := WriteKey(pushOperationKey)
	if err != nil {
		return Write{}, err
	}
	e, err := w.bucket.Get(ctx, key)
	if err != nil {
		return Write{}, err
	}
	return decode[Write](e)
}

// List returns the records of a company's writes, or of all companies when company is empty, sorted by push operation key.
// It reads every record of the bucket, because the key does not name the company.
func (w Writes) List(ctx context.Context, company string) ([]Write, error) {
	all, err := list(ctx, w.bucket, ">", func(r Write) bool { return company == "" || r.Company == company })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, byWriteKey)
	return all, nil
}

// Scan returns the records that keep selects, sorted as those of List. It reads every record, and needs no consumer but the
// permissions of stream.Read on the bucket's stream: it is for the roles of deploy/nats that may not make consumers.
func (w Writes) Scan(ctx context.Context, keep func(Write) bool) ([]Write, error) {
	all, err := scan(ctx, w.js, w.bucket.Bucket(), "*", keep)
	slices.SortFunc(all, byWriteKey)
	return all, err
}

func byWriteKey(a, b Write) int { return strings.Compare(a.PushOperationKey, b.PushOperationKey) }

// Watch calls each with the record of every write, and then with every record that changes. It returns each's first error,
// ctx's when that ends, and an error when the broker ends the watch: then call it again.
func (w Writes) Watch(ctx context.Context, each func(Write) error) error {
	return watch(ctx, w.bucket, ">", each, func() error { return nil })
}

// AwaitWrite returns the record of a write whose status is Success, Failed or TimedOut: at once when it is, else when it
// becomes so. The event can arrive before AwaitWrite is called and before the caller has stored the key. After TimedOut the
// record can still be written: the status may become Success or Failed. Where an endpoint gets events of both generations, the
// legacy one can come first, and the record's id after it. The error is ctx's when that ends first; a watch
// that the broker ends is begun again. An account that may make no consumer, as a team's of deploy/nats, asks each second.
func (w Writes) AwaitWrite(ctx context.Context, pushOperationKey string) (Write, error) {
	key, err := WriteKey(pushOperationKey)
	if err != nil {
		return Write{}, err
	}
	var found Write
	ended := errors.New("ended")
	settled := func(r Write) bool { return r.Status.IsSettled() || r.Status == codat.TimedOut }
	for {
		err := watch(ctx, w.bucket, key, func(r Write) error {
			if !settled(r) {
				return nil
			}
			found = r
			return ended
		}, func() error { return nil })
		switch {
		case errors.Is(err, ended):
			return found, nil
		case ctx.Err() != nil:
			return Write{}, ctx.Err()
		case errors.Is(err, nats.ErrJetStreamNotEnabled): // no answer to the request for a consumer
			return w.poll(ctx, key, settled)
		case !errors.Is(err, errWatchEnded):
			return Write{}, err
		}
	}
}

// pollPause is the time between two reads of a record that cannot be watched.
const pollPause = time.Second

// poll reads a record until it is settled.
func (w Writes) poll(ctx context.Context, key string, settled func(Write) bool) (Write, error) {
	for {
		r, err := w.Get(ctx, key)
		switch {
		case err == nil && settled(r):
			return r, nil
		case ctx.Err() != nil:
			return Write{}, ctx.Err()
		case err == nil, errors.Is(err, jetstream.ErrKeyNotFound):
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout): // no answer
		default:
			return Write{}, err
		}
		select {
		case <-ctx.Done():
			return Write{}, ctx.Err()
		case <-time.After(pollPause):
		}
	}
}
