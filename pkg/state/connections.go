package state

import (
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
	// Deleted says that the connection was deleted; Status is what it was before.
	Deleted bool `json:"deleted,omitempty"`
	// Suspect says that a read failed for want of authorisation since the status was reported last: Codat notices a
	// disconnect on the platform's side only then, and sends no event for it.
	Suspect bool `json:"suspect,omitempty"`
	// Changed is when the status was reported: when Codat generated the event, or, for an event without a date, when it
	// was received first.
	Changed time.Time `json:"changed,omitzero"`
	// Platform is the four letters of the accounting platform, PlatformName and SourceType what Codat says of it.
	Platform     string           `json:"platform,omitempty"`
	PlatformName string           `json:"platform_name,omitempty"`
	SourceType   codat.SourceType `json:"source_type,omitempty"`

	// Dated, Undated and Read are the newest facts of their kind. The fields above follow from them.
	Dated   *ConnectionFact `json:"dated,omitempty"`
	Undated *ConnectionFact `json:"undated,omitempty"`
	Read    *ConnectionFact `json:"read,omitempty"`
}

// A ConnectionFact is what one event says of a connection.
type ConnectionFact struct {
	Type      string    `json:"type"`
	WebhookID string    `json:"webhook_id"`
	Generated time.Time `json:"generated,omitzero"` // zero when the event has no date
	Received  time.Time `json:"received"`
	Sequence  uint64    `json:"sequence"`

	Status       codat.ConnectionStatus `json:"status,omitempty"`
	Deleted      bool                   `json:"deleted,omitempty"`
	AuthError    bool                   `json:"auth_error,omitempty"`
	Platform     string                 `json:"platform,omitempty"`
	PlatformName string                 `json:"platform_name,omitempty"`
	SourceType   codat.SourceType       `json:"source_type,omitempty"`
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
type Connections struct{ bucket jetstream.KeyValue }

// OpenConnections opens the records of a source. The error is stream.ErrNotProvisioned when the bucket does not exist.
func OpenConnections(ctx context.Context, js jetstream.JetStream, s stream.Source) (Connections, error) {
	kv, err := open(ctx, js, s, ConnectionsName)
	return Connections{kv}, err
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
	slices.SortFunc(all, func(a, b Connection) int {
		if c := strings.Compare(a.Company, b.Company); c != 0 {
			return c
		}
		return strings.Compare(a.Connection, b.Connection)
	})
	return all, nil
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
