package state

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// ReadsName is the name of the state of the reads: the bucket is CODAT_reads for the source codat. The worker reads writes it.
const ReadsName = "reads"

// A Read is what is known of Codat's reads of one data type over one connection of a company: how fresh the data is. Its times
// are those of the events that say so (ReadFact.Time).
type Read struct {
	Company    string         `json:"company"`
	Connection string         `json:"connection"`
	DataType   codat.DataType `json:"data_type"`
	// Status is how the last read ended. It is empty when the event does not say it.
	Status codat.DatasetStatus `json:"status,omitempty"`
	// LastRead is when the last read ended, whatever its status. LastSuccess is when the last one ended that was Complete, and
	// LastModified when the last one did that changed records or was a first one; zero without one.
	LastRead     time.Time `json:"last_read"`
	LastSuccess  time.Time `json:"last_success,omitzero"`
	LastModified time.Time `json:"last_modified,omitzero"`
	// First says that the last read is the first one after the connection was linked, or was linked again. Events of the legacy
	// types do not say it.
	First bool `json:"first,omitempty"`
	// RecordsModified says that the last read changed records. It is true of a first read, of which Codat says that it changed
	// none whatever it has read.
	RecordsModified bool `json:"records_modified,omitempty"`
	// Issues are the issues of the last read: how many there are of each type, such as warning.validation.
	Issues map[string]int `json:"issues,omitempty"`
	// WebhookID is the id of the event that says how the last read ended.
	WebhookID string `json:"webhook_id"`

	// Facts are the newest facts of each kind, the oldest first: of any read, of one that was Complete, of one that changed
	// records and of a first one, each with and without a date. The fields above follow from them. One fact can be the
	// newest of several kinds, and is there once.
	Facts []ReadFact `json:"facts"`
}

// A ReadFact is what one event says of the reads of one data type over one connection.
type ReadFact struct {
	Type      string    `json:"type"`
	WebhookID string    `json:"webhook_id"`
	Generated time.Time `json:"generated,omitzero"` // zero when the event has no date
	Received  time.Time `json:"received"`
	Sequence  uint64    `json:"sequence"`

	Status          codat.DatasetStatus `json:"status,omitempty"`
	RecordsModified bool                `json:"records_modified,omitempty"` // as the event says it
	First           bool                `json:"first,omitempty"`            // by the event's type
	Issues          map[string]int      `json:"issues,omitempty"`
	Dataset         string              `json:"dataset,omitempty"` // Codat's id of the read, which only legacy events have
}

// Time returns when the fact was true: when Codat generated the event, and for an event without a date, or with one after its
// arrival, when it was received first: such a date is wrong, and the data would look fresh until it is over.
func (f ReadFact) Time() time.Time {
	if f.Generated.IsZero() || f.Generated.After(f.Received) {
		return f.Received.UTC()
	}
	return f.Generated.UTC()
}

// ReadKey returns the key of the record of a data type's reads: <companyId>.<connectionId>.<dataType>. It refuses an id or data
// type with other characters than letters, digits, - and _, and one of more than 128 bytes.
func ReadKey(company, connection string, dataType codat.DataType) (string, error) {
	err := errors.Join(checkID("company id", company), checkID("connection id", connection), checkID("data type", string(dataType)))
	if err != nil {
		return "", err
	}
	return company + "." + connection + "." + string(dataType), nil
}

// Reads reads the records of the reads of one source. OpenReads makes it.
type Reads struct {
	bucket jetstream.KeyValue
	js     jetstream.JetStream
}

// OpenReads opens the records of a source. The error is stream.ErrNotProvisioned when the bucket does not exist.
func OpenReads(ctx context.Context, js jetstream.JetStream, s stream.Source) (Reads, error) {
	kv, err := open(ctx, js, s, ReadsName)
	return Reads{kv, js}, err
}

// Get returns the record of a data type's reads. The error is jetstream.ErrKeyNotFound when no event has told of one.
func (r Reads) Get(ctx context.Context, company, connection string, dataType codat.DataType) (Read, error) {
	key, err := ReadKey(company, connection, dataType)
	if err != nil {
		return Read{}, err
	}
	e, err := r.bucket.Get(ctx, key)
	if err != nil {
		return Read{}, err
	}
	return decode[Read](e)
}

// List returns the records of a company's reads, or of all companies when company is empty, sorted by company, connection
// and data type.
func (r Reads) List(ctx context.Context, company string) ([]Read, error) {
	filter, err := ReadFilter{Company: company}.keys()
	if err != nil {
		return nil, err
	}
	all, err := list(ctx, r.bucket, filter, func(Read) bool { return true })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, byReadKey)
	return all, nil
}

// Watch calls each with the record of every data type's reads of a company, or of all companies when company is empty, and
// then with every record that changes. It returns each's first error, ctx's when that ends, and an error when the broker
// ends the watch: then call it again.
func (r Reads) Watch(ctx context.Context, company string, each func(Read) error) error {
	filter, err := ReadFilter{Company: company}.keys()
	if err != nil {
		return err
	}
	return watch(ctx, r.bucket, filter, each, func() error { return nil })
}

// A ReadFilter chooses records by their keys. An empty field chooses all.
type ReadFilter struct {
	Company, Connection string
	DataType            codat.DataType
}

// keys returns the filter of the keys.
func (f ReadFilter) keys() (string, error) {
	var tokens []string
	for _, t := range [...]struct{ what, id string }{
		{"company id", f.Company}, {"connection id", f.Connection}, {"data type", string(f.DataType)},
	} {
		if t.id == "" {
			tokens = append(tokens, "*")
			continue
		}
		if err := checkID(t.what, t.id); err != nil {
			return "", err
		}
		tokens = append(tokens, t.id)
	}
	return strings.Join(tokens, "."), nil
}

// Scan returns the records that a filter chooses, sorted as those of List. It needs no consumer but the permissions of
// stream.Read on the bucket's stream: it is for the roles of deploy/nats that may not make consumers.
func (r Reads) Scan(ctx context.Context, f ReadFilter) ([]Read, error) {
	keys, err := f.keys()
	if err != nil {
		return nil, err
	}
	all, err := scan(ctx, r.js, r.bucket.Bucket(), keys, func(Read) bool { return true })
	slices.SortFunc(all, byReadKey)
	return all, err
}

// byReadKey orders records by company, connection and data type.
func byReadKey(a, b Read) int {
	return cmp.Or(strings.Compare(a.Company, b.Company), strings.Compare(a.Connection, b.Connection), strings.Compare(string(a.DataType), string(b.DataType)))
}
