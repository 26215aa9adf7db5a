package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// A follower keeps something of each record of a bucket. It reads the whole bucket once, and then what has changed.
type follower[V any] struct {
	bucket string
	// keep returns what is kept of a record, and false for nothing.
	keep func(key string, m *jetstream.RawStreamMsg) (V, bool)

	all     map[string]V
	at      map[string]uint64 // sequences of all
	after   uint64
	created time.Time
}

func newFollower[V any](bucket string, keep func(key string, m *jetstream.RawStreamMsg) (V, bool)) *follower[V] {
	return &follower[V]{bucket: bucket, keep: keep, all: map[string]V{}, at: map[string]uint64{}}
}

// read reads what has changed. A bucket that does not exist has no records.
func (f *follower[V]) read(ctx context.Context, js jetstream.JetStream) error {
	name, prefix := "KV_"+f.bucket, "$KV."+f.bucket+"."
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := js.Stream(asking, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		f.forget()
		return nil
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.bucket, err)
	}
	info := st.CachedInfo()
	if !info.Created.Equal(f.created) || info.State.LastSeq < f.after {
		f.forget()
		f.created = info.Created
	}
	if info.State.LastSeq > f.after {
		_, err := stream.Read(ctx, js, name, stream.ReadOptions{After: f.after, Created: f.created}, func(m *jetstream.RawStreamMsg) error {
			key := strings.TrimPrefix(m.Subject, prefix)
			if kept, ok := f.keep(key, m); ok {
				f.all[key], f.at[key] = kept, m.Sequence
			} else {
				delete(f.all, key)
				delete(f.at, key)
			}
			f.after = m.Sequence
			return nil
		})
		if err != nil {
			return err
		}
		f.after = max(f.after, info.State.LastSeq)
	}
	for key, sequence := range f.at {
		if sequence < info.State.FirstSeq { // it has expired
			delete(f.all, key)
			delete(f.at, key)
		}
	}
	return nil
}

func (f *follower[V]) forget() {
	clear(f.all)
	clear(f.at)
	f.after, f.created = 0, time.Time{}
}

// deleted reports whether a message says that a record was deleted.
func deleted(m *jetstream.RawStreamMsg) bool { return m.Header.Get("KV-Operation") != "" }

// ofRecord returns a keep for records of type R. One that cannot be read, because another version wrote it, does not keep out the
// others.
func ofRecord[R, V any](keep func(R) (V, bool)) func(string, *jetstream.RawStreamMsg) (V, bool) {
	return func(_ string, m *jetstream.RawStreamMsg) (v V, ok bool) {
		var r R
		if deleted(m) || json.Unmarshal(m.Data, &r) != nil {
			return v, false
		}
		return keep(r)
	}
}
