package state

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// An ExpectedKind says what has not come.
type ExpectedKind string

// The kinds. Each is the first token of its records' keys.
const (
	SilentType   ExpectedKind = "silent"  // events of a type: <type>
	OverdueWrite ExpectedKind = "overdue" // the outcome of a write: <pushOperationKey>
	StaleRead    ExpectedKind = "stale"   // a successful read: <companyId>.<connectionId>.<dataType>
)

// ExpectedKinds are all kinds.
var ExpectedKinds = []ExpectedKind{SilentType, OverdueWrite, StaleRead}

// An Expected is what should have come from Codat and has not. Its record is there from when headgate watch notices it until it
// has come. Of each kind there are at most 1,000 records, of those that were due first.
type Expected struct {
	Kind ExpectedKind `json:"kind"`
	// Due is when it should have come: of a type, when its silence became unlikely.
	Due time.Time `json:"due"`
	// Last is when the last one came, an event of the type or a successful read, and when a write was requested. It is zero when
	// unknown.
	Last time.Time `json:"last,omitzero"`

	Type             string         `json:"type,omitempty"` // of a silent type
	PushOperationKey string         `json:"push_operation_key,omitempty"`
	Company          string         `json:"company,omitempty"`
	Connection       string         `json:"connection,omitempty"`
	DataType         codat.DataType `json:"data_type,omitempty"`
}

// Key returns the key of the record: <kind>.<type>, <kind>.<pushOperationKey> or <kind>.<companyId>.<connectionId>.<dataType>.
func (e Expected) Key() (string, error) {
	var rest string
	var err error
	switch e.Kind {
	case SilentType:
		rest, err = e.Type, codat.ValidateType(e.Type)
	case OverdueWrite:
		rest, err = WriteKey(e.PushOperationKey)
	case StaleRead:
		rest, err = ReadKey(e.Company, e.Connection, e.DataType)
	default:
		err = fmt.Errorf("no kind is %q", e.Kind)
	}
	return string(e.Kind) + "." + rest, err
}

// GetExpected returns one record by its key. The error is jetstream.ErrKeyNotFound when nothing is missing under the key, and
// stream.ErrNotProvisioned when the bucket does not exist.
func GetExpected(ctx context.Context, js jetstream.JetStream, s stream.Source, key string) (Expected, error) {
	kv, err := open(ctx, js, s, stream.ExpectedState)
	if err != nil {
		return Expected{}, err
	}
	e, err := kv.Get(ctx, key)
	if err != nil {
		return Expected{}, err
	}
	return decode[Expected](e)
}

// ListExpected returns what is missing of the kinds, or of all kinds when none is given, sorted by kind and by when it was due. It
// reads by direct get, and needs permission for STREAM.INFO, DIRECT.GET and STREAM.MSG.GET on the bucket's stream.
func ListExpected(ctx context.Context, js jetstream.JetStream, s stream.Source, kinds ...ExpectedKind) ([]Expected, error) {
	if len(kinds) == 0 {
		kinds = ExpectedKinds
	}
	prefix := "$KV." + s.StateBucket(stream.ExpectedState) + "."
	filters := make([]string, len(kinds))
	for i, k := range kinds {
		filters[i] = prefix + string(k) + ".>"
	}
	var all []Expected
	_, err := stream.Read(ctx, js, "KV_"+s.StateBucket(stream.ExpectedState), stream.ReadOptions{Filters: filters}, func(m *jetstream.RawStreamMsg) error {
		if m.Header.Get("KV-Operation") != "" {
			return nil // it has come
		}
		var e Expected
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return fmt.Errorf("record %s: %w", strings.TrimPrefix(m.Subject, prefix), err)
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	SortExpected(all)
	return all, nil
}

// SortExpected sorts records by kind, by when they were due, and by what they are about.
func SortExpected(all []Expected) {
	slices.SortFunc(all, func(a, b Expected) int {
		ka, _ := a.Key() // a bad key sorts by its kind
		kb, _ := b.Key()
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Due.Compare(b.Due), cmp.Compare(ka, kb))
	})
}
