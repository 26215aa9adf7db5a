package watchdog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// learnedPrefix begins the keys of what was learned: learned.<type>. Two watchdogs take it from each other.
const learnedPrefix = "learned."

// refreshAfter is after how long a record is written again: the bucket keeps it for 14 days.
const refreshAfter = 7 * 24 * time.Hour

// load keeps a record of CODAT_expected, and takes over what another watchdog, or an earlier process, has learned.
func (w *Watchdog) load(key string, m *jetstream.RawStreamMsg) (record, bool) {
	r := record{sequence: m.Sequence, at: m.Time, value: m.Data}
	if deleted(m) {
		r.value = nil
		return r, true
	}
	if typ, ok := strings.CutPrefix(key, learnedPrefix); ok {
		l := new(learned)
		if json.Unmarshal(m.Data, l) == nil && (w.types[typ] == nil || w.types[typ].Looked.Before(l.Looked)) && len(w.types) < maxTypes {
			w.types[typ] = l
		}
		w.saved[typ] = saved{l.Looked, l.Silent}
		r.value = []byte{} // it is in types
	}
	return r, true
}

// write writes what is missing, and what was learned, and deletes what has come. Kinds that are absent stay as they are.
func (w *Watchdog) write(ctx context.Context, now time.Time, missing map[state.ExpectedKind][]state.Expected) error {
	kv, err := stream.Bucket(ctx, w.js, w.stored.bucket)
	if err != nil {
		return err
	}
	wanted := map[string][]byte{}
	for _, found := range missing {
		for _, e := range found[:min(len(found), MaxRecords)] {
			key, err := e.Key()
			if err != nil {
				continue // an id that no key can have
			}
			if wanted[key], err = json.Marshal(e); err != nil {
				return err
			}
		}
	}
	_, learns := missing[state.SilentType]
	var errs []error
	for key, value := range wanted {
		if r, ok := w.stored.all[key]; !ok || !bytes.Equal(r.value, value) || now.Sub(r.at) > refreshAfter {
			errs = append(errs, w.put(ctx, kv, key, value))
		}
	}
	for key, r := range w.stored.all {
		kind, rest, _ := strings.Cut(key, ".")
		_, looked := missing[state.ExpectedKind(kind)]
		ended := learns && kind+"." == learnedPrefix && w.types[rest] == nil
		if r.value != nil && wanted[key] == nil && (looked || ended) {
			errs = append(errs, w.delete(ctx, kv, key))
		}
	}
	if learns {
		errs = append(errs, w.save(ctx, kv, now))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("writing bucket %s: %w", w.stored.bucket, err)
	}
	return nil
}

func (w *Watchdog) put(ctx context.Context, kv jetstream.KeyValue, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := kv.Put(ctx, key, value)
	return err
}

// delete deletes a record, if it is still there: the mark of its deletion would bring back the name of a company that was erased.
func (w *Watchdog) delete(ctx context.Context, kv jetstream.KeyValue, key string) error {
	there, err := w.there(ctx, w.stored.bucket, []string{key})
	if err != nil {
		return err
	}
	if !there[key] {
		delete(w.stored.all, key)
		delete(w.stored.at, key)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return kv.Delete(ctx, key)
}

// withoutErased returns what was found without what comes from records that headgate erase has removed: it leaves no mark that a follower
// reads.
func (w *Watchdog) withoutErased(ctx context.Context, kind state.ExpectedKind, found []state.Expected) ([]state.Expected, error) {
	f := map[state.ExpectedKind]*follower[state.Expected]{state.OverdueWrite: w.overdue, state.StaleRead: w.reads}[kind]
	if f == nil || len(found) == 0 {
		return found, nil
	}
	keys := make([]string, len(found))
	for i, e := range found {
		key, err := e.Key()
		if err != nil {
			continue // an id that no key can have
		}
		keys[i] = strings.TrimPrefix(key, string(kind)+".")
	}
	there, err := w.there(ctx, f.bucket, slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == "" }))
	if err != nil {
		return nil, err
	}
	var left []state.Expected
	for i, e := range found {
		if there[keys[i]] {
			left = append(left, e)
			continue
		}
		delete(f.all, keys[i])
		delete(f.at, keys[i])
	}
	return left, nil
}

// there returns which keys of a bucket have a record, or the mark that it was deleted.
func (w *Watchdog) there(ctx context.Context, bucket string, keys []string) (map[string]bool, error) {
	prefix := "$KV." + bucket + "."
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = prefix + key
	}
	there := map[string]bool{}
	err := stream.Last(ctx, w.js, "KV_"+bucket, subjects, func(m *jetstream.RawStreamMsg) error {
		there[strings.TrimPrefix(m.Subject, prefix)] = true
		return nil
	})
	return there, err
}

// save writes what was learned of each type once an hour, and at once when its silence begins or ends. When another watchdog has
// written meanwhile, the next look takes that over.
func (w *Watchdog) save(ctx context.Context, kv jetstream.KeyValue, now time.Time) error {
	for typ, l := range w.types {
		if was := w.saved[typ]; now.Sub(was.looked) < saveAfter && l.Silent.Equal(was.silent) {
			continue
		}
		value, err := json.Marshal(l)
		if err != nil {
			return err
		}
		key := learnedPrefix + typ
		asking, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err = kv.Update(asking, key, value, w.stored.all[key].sequence)
		cancel()
		switch refused, is := errors.AsType[*jetstream.APIError](err); {
		case is && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
			continue
		case err != nil:
			return err
		}
		w.saved[typ] = saved{now, l.Silent}
	}
	return nil
}
