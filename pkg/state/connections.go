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

// ConnectionsName is the name of the state of the connections: the bucket is CODAT_connections for the source codat. The
// worker connections writes it.
const ConnectionsName = "connections"

// A Connection is what is known of one connection.
type Connection struct {
	Company    string `json:"company"`
	Connection string `json:"connection"`
	// Status is empty while only reads have named the connection.
	Status codat.ConnectionStatus `json:"status,omitempty"`
	// Deleted says that the connection was deleted, at DeletedAt; Status is what it was before. The record stays.
	Deleted   bool      `json:"deleted,omitempty"`
	DeletedAt time.Time `json:"deleted_at,omitzero"`
	// Suspect says that a read failed for want of authorisation since the status was reported last: Codat notices a
	// disconnect on the platform's side only then, and sends no event for it. Reconciliation clears it, with the status that
	// Codat says.
	Suspect bool `json:"suspect,omitempty"`
	// Changed is since when the connection has this status: when Codat generated the first event that says so, or, for an
	// event without a date, when it was received first. What reconciliation has found was so then, at the latest. From is the
	// status before, Type and WebhookID are those of the event, and empty when reconciliation has found it.
	Changed   time.Time              `json:"changed,omitzero"`
	From      codat.ConnectionStatus `json:"from,omitempty"`
	Type      string                 `json:"type,omitempty"`
	WebhookID string                 `json:"webhook_id,omitempty"`
	// LastRead is when a read over the connection was last authorised.
	LastRead time.Time `json:"last_read,omitzero"`
	// Reconciled is when Codat was last asked for the connection. It is zero without an API key (--codat-key-file).
	Reconciled time.Time `json:"reconciled,omitzero"`
	// Platform is the four letters of the accounting platform, PlatformName and SourceType what Codat says of it.
	Platform     string           `json:"platform,omitempty"`
	PlatformName string           `json:"platform_name,omitempty"`
	SourceType   codat.SourceType `json:"source_type,omitempty"`

	// Timeline are the last 50 changes of the status, the oldest first. Each follows from the one before it.
	Timeline []ConnectionChange `json:"timeline,omitempty"`
	// Unchanged are what changed nothing: a status that was reported again, such as by the legacy event of the same fact. They
	// are kept because an event that arrives late can make one of them a change. Both together have at most 150.
	Unchanged []ConnectionChange `json:"unchanged,omitempty"`

	// Dated, Undated and Read are the newest facts of their kind, and Asked is what Codat's API answered last. The fields
	// above follow from them and from the changes.
	Dated   *ConnectionFact `json:"dated,omitempty"`
	Undated *ConnectionFact `json:"undated,omitempty"`
	Asked   *ConnectionFact `json:"asked,omitempty"`
	Read    *ConnectionFact `json:"read,omitempty"`
}

// A ConnectionChange is a status of a connection that an event reported, or that reconciliation found.
type ConnectionChange struct {
	// At is when Codat generated the event or, for an event without a date, when it was received. What reconciliation has
	// found was so then, at the latest.
	At      time.Time              `json:"at"`
	Undated bool                   `json:"undated,omitempty"` // the event has no date
	Status  codat.ConnectionStatus `json:"status,omitempty"`
	Deleted bool                   `json:"deleted,omitempty"`
	// From is the status before. It is empty when that is not known.
	From      codat.ConnectionStatus `json:"from,omitempty"`
	Type      string                 `json:"type,omitempty"` // of the event; empty when reconciliation has found it
	WebhookID string                 `json:"webhook_id,omitempty"`
	Sequence  uint64                 `json:"sequence,omitempty"`
	// Found says that reconciliation has found a change that no event had told of.
	Found bool `json:"found,omitempty"`
}

// A ConnectionFact is what one event, or one answer of Codat's API, says of a connection. An answer has no type, id and
// sequence.
type ConnectionFact struct {
	Type      string    `json:"type,omitempty"`
	WebhookID string    `json:"webhook_id,omitempty"`
	Generated time.Time `json:"generated,omitzero"` // zero when the event has no date; a minute before an answer, because clocks differ
	Received  time.Time `json:"received"`
	Sequence  uint64    `json:"sequence,omitempty"`

	Status       codat.ConnectionStatus `json:"status,omitempty"`
	Deleted      bool                   `json:"deleted,omitempty"`
	AuthError    bool                   `json:"auth_error,omitempty"`
	Platform     string                 `json:"platform,omitempty"`
	PlatformName string                 `json:"platform_name,omitempty"`
	SourceType   codat.SourceType       `json:"source_type,omitempty"`
	// Found says that an answer differs from what was known when Codat was asked: no event has told of it.
	Found bool `json:"found,omitempty"`
}

// ConnectionKey returns the key of a connection's record: <companyId>.<connectionId>. It refuses an id with other
// characters than letters, digits, - and _, and one of more than 128 bytes.
func ConnectionKey(company, connection string) (string, error) {
	if err := errors.Join(checkID("company id", company), checkID("connection id", connection)); err != nil {
		return "", err
	}
	return company + "." + connection, nil
}

// Connections reads the records of the connections of one source. OpenConnections makes it.
type Connections struct {
	bucket jetstream.KeyValue
	js     jetstream.JetStream
}

// OpenConnections opens the records of a source. The error is stream.ErrNotProvisioned when the bucket does not exist.
func OpenConnections(ctx context.Context, js jetstream.JetStream, s stream.Source) (Connections, error) {
	kv, err := open(ctx, js, s, ConnectionsName)
	return Connections{kv, js}, err
}

// Get returns the record of a connection. The error is jetstream.ErrKeyNotFound when the connection has no record.
func (c Connections) Get(ctx context.Context, company, connection string) (Connection, error) {
	key, err := ConnectionKey(company, connection)
	if err != nil {
		return Connection{}, err
	}
	e, err := c.bucket.Get(ctx, key)
	if err != nil {
		return Connection{}, err
	}
	return decode[Connection](e)
}

// List returns the records of a company's connections, or of all companies when company is empty, sorted by company and
// connection.
func (c Connections) List(ctx context.Context, company string) ([]Connection, error) {
	filter, err := companyFilter(company)
	if err != nil {
		return nil, err
	}
	all, err := list(ctx, c.bucket, filter, func(Connection) bool { return true })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, byConnectionKey)
	return all, nil
}

// Scan returns the records that List does and that keep selects. It needs no consumer but the permissions of stream.Read on the
// bucket's stream: it is for the roles of deploy/nats that may not make consumers.
func (c Connections) Scan(ctx context.Context, company string, keep func(Connection) bool) ([]Connection, error) {
	filter, err := companyFilter(company)
	if err != nil {
		return nil, err
	}
	all, err := scan(ctx, c.js, c.bucket.Bucket(), filter, keep)
	slices.SortFunc(all, byConnectionKey)
	return all, err
}

// byConnectionKey orders records by company and connection.
func byConnectionKey(a, b Connection) int {
	return cmp.Or(strings.Compare(a.Company, b.Company), strings.Compare(a.Connection, b.Connection))
}

// Watch calls each with the record of every connection of a company, or of all companies when company is empty, and then
// with every record that changes. It returns each's first error, ctx's when that ends, and an error when the broker ends
// the watch: then call it again.
func (c Connections) Watch(ctx context.Context, company string, each func(Connection) error) error {
	filter, err := companyFilter(company)
	if err != nil {
		return err
	}
	return watch(ctx, c.bucket, filter, each, func() error { return nil })
}

// companyFilter matches the keys of a company's connections.
func companyFilter(company string) (string, error) {
	if company == "" {
		return "*.*", nil
	}
	return company + ".*", checkID("company id", company)
}
