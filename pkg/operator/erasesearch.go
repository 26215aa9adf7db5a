package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
)

// bucketPrefix begins the name of the stream of a bucket.
const bucketPrefix = "KV_"

// found is a message or record that is to be erased.
type found struct {
	stream    int                    // its place in EraseResult.Streams
	message   jetstream.RawStreamMsg // its sequence, and in a bucket its subject
	rewritten []byte                 // the record without the company; nil erases the whole of it
}

// maxMentions is how many mentions a result names.
const maxMentions = 1000

// search reads everything that the source has stored. It replaces what the search before has found.
func (e *Erasure) search(ctx context.Context) error {
	names, err := inspect.StreamNames(ctx, e.operator.js, e.operator.source)
	if err != nil {
		return err
	}
	e.found, e.result.Mentions, e.result.Encoded = nil, nil, 0
	first := len(e.last) == 0
	for _, name := range names {
		s := &streamSearch{Erasure: e, name: name, place: e.place(name), plans: map[string]string{}}
		last, err := stream.Read(ctx, e.operator.js, name, stream.ReadOptions{Progress: s.read}, s.look)
		if errors.Is(err, jetstream.ErrStreamNotFound) && name != e.operator.source.Stream() {
			continue // it was removed
		}
		if err != nil {
			return err
		}
		if first {
			e.last[name] = last
		}
		s.openLists()
		// The lists of open plans come first: without its record, a plan in a list could not be recognised again.
		e.found = append(e.found, append(s.lists, s.found...)...)
		e.result.Streams[s.place].Found = e.result.Streams[s.place].Erased + len(s.lists) + len(s.found)
	}
	return nil
}

// place returns the place of a stream in the result.
func (e *Erasure) place(name string) int {
	for i, s := range e.result.Streams {
		if s.Name == name {
			return i
		}
	}
	e.result.Streams = append(e.result.Streams, ErasedStream{Name: name})
	return len(e.result.Streams) - 1
}

// A streamSearch searches one stream.
type streamSearch struct {
	*Erasure
	name         string
	place        int
	found, lists []found
	plans        map[string]string        // the companies of the records, by key, which is a plan's id
	open         []jetstream.RawStreamMsg // the worker's lists of open plans
}

func (s *streamSearch) read(done, of uint64) { s.progress(s.name, done, of) }

// look sees whether a message is to be erased.
func (s *streamSearch) look(m *jetstream.RawStreamMsg) error {
	bucket, isBucket := strings.CutPrefix(s.name, bucketPrefix)
	source := s.operator.source
	switch key := strings.TrimPrefix(m.Subject, "$KV."+bucket+"."); {
	case !isBucket && s.name == source.OperatorStream():
		s.decide(m, "", s.company.inBody(m.Data))
	case !isBucket:
		e := source.OpenRaw(m)
		if e.Quarantine != "" && e.Encoded() && e.Head.Company == "" {
			s.result.Encoded++
		}
		s.decide(m, e.Head.Company, s.company.inHeader(m.Header) || s.company.inBody(m.Data))
	case strings.HasPrefix(bucket, source.ClaimsBucket("")):
		s.claim(m)
	case bucket == source.StateBucket(plan.StateName) && strings.HasPrefix(key, plan.OpenPrefix):
		s.open = append(s.open, *m)
	default: // a part of a key can be a data type or a worker that is called as the company
		of := companyOf(m.Data)
		s.plans[key] = of
		s.decide(m, of, s.company.inKey(key) || s.company.inText(key) || s.company.inBody(m.Data))
	}
	return nil
}

// decide decides about a message that says that it is of a company, or of none, and that names the one that is erased or does not.
func (s *streamSearch) decide(m *jetstream.RawStreamMsg, of string, names bool) {
	switch {
	case s.erases(of, names):
		s.found = append(s.found, s.target(m, nil))
	case names:
		s.mention(m)
	}
}

// erases reports whether what is of a company, or of none, is erased when it names the one that is erased, or does not.
func (s *streamSearch) erases(of string, names bool) bool {
	return of == string(s.company) || names && (of == "" || s.opts.Mentions)
}

func (s *streamSearch) target(m *jetstream.RawStreamMsg, rewritten []byte) found {
	f := found{s.place, jetstream.RawStreamMsg{Sequence: m.Sequence}, rewritten}
	if strings.HasPrefix(s.name, bucketPrefix) {
		f.message.Subject = m.Subject
	}
	return f
}

func (s *streamSearch) mention(m *jetstream.RawStreamMsg) {
	if len(s.result.Mentions) < maxMentions {
		s.result.Mentions = append(s.result.Mentions, s.name+" "+strconv.FormatUint(m.Sequence, 10))
	}
}

// claim takes the company's id out of the errors of a claim.
func (s *streamSearch) claim(m *jetstream.RawStreamMsg) {
	if !s.company.inBody(m.Data) {
		return
	}
	var record map[string]json.RawMessage
	changed := false
	if json.Unmarshal(m.Data, &record) == nil {
		for _, name := range []string{"first_error", "last_error"} {
			var text string
			if json.Unmarshal(record[name], &text) != nil || !s.company.inText(text) {
				continue
			}
			without, err := encode(s.company.without(text))
			if err == nil {
				record[name], changed = without, true
			}
		}
	}
	rewritten, err := encode(record)
	if !changed || err != nil {
		return // what is no error is a word of Headgate's
	}
	s.found = append(s.found, s.target(m, rewritten))
}

// openLists takes the company's plans out of the lists of open plans.
func (s *streamSearch) openLists() {
	for _, m := range s.open {
		var list map[string]int
		if json.Unmarshal(m.Data, &list) != nil {
			continue // deleted, or of another version
		}
		before := len(list)
		maps.DeleteFunc(list, func(id string, _ int) bool { return s.erases(s.plans[id], s.company.inText(id)) })
		rewritten, err := encode(list)
		if len(list) == before || err != nil {
			continue
		}
		s.lists = append(s.lists, s.target(&m, rewritten))
	}
}

// replace writes a record in place of the one that was found, and reports whether another process was first.
func (o *Operator) replace(ctx context.Context, f found) (changed bool, err error) {
	_, err = o.publish(ctx, &nats.Msg{
		Subject: f.message.Subject, Data: f.rewritten,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(f.message.Sequence, 10)}},
	})
	if refused, is := errors.AsType[*jetstream.APIError](err); is && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("rewrite message %d of %s: %w", f.message.Sequence, strings.SplitN(f.message.Subject, ".", 3)[1], err)
	}
	return false, nil
}
