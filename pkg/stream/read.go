package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	readMessages = 1000 // messages asked for at once, if their bytes fit in a batch
	readPause    = 250 * time.Millisecond
)

// ErrRemade means that a stream was deleted and made again: its sequences began anew, and a place in the earlier one says
// nothing about it. What it stores came after everything that the earlier one stored.
var ErrRemade = errors.New("the stream was deleted and made again")

// ReadOptions choose messages of a stream. The zero value chooses all.
type ReadOptions struct {
	// Filters are subjects, which may have wildcards; a message must match one of them. Without any, all match.
	Filters []string
	// After chooses only messages with a higher sequence.
	After uint64
	// Through chooses only messages up to this sequence. Zero: all. Follow does not look at it.
	Through uint64
	// Created is when the stream was made in which After is a place. A stream that was made at another time is ErrRemade.
	// Zero: the stream as it is when the reading begins.
	Created time.Time
	// Since chooses only messages stored then or later.
	Since time.Time
	// Progress is called after each message with the number of messages read and about how many there are. May be nil.
	Progress func(done, of uint64)
}

// Read calls each with every message that o chooses and that was stored before Read began, in order, until each returns
// an error, which Read then returns. It returns the stream's last sequence when it began, or Through when that is before it:
// later messages come after it.
//
// It reads by direct get and needs no consumer: a user who may create consumers may have any message delivered to any
// subject of the account. It needs permission for STREAM.INFO, DIRECT.GET and STREAM.MSG.GET on the stream.
func Read(ctx context.Context, js jetstream.JetStream, name string, o ReadOptions, each func(*jetstream.RawStreamMsg) error) (last uint64, err error) {
	info, err := streamInfo(ctx, js, name)
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", name, err)
	}
	last = info.State.LastSeq
	if o.Through != 0 {
		last = min(last, o.Through)
	}
	r := reader{js: js, name: name, ReadOptions: o}
	if err := r.isOf(info); err != nil {
		return 0, err
	}
	if r.After >= last { // nothing is read that could be another stream's
		return last, nil
	}
	for r.After < last {
		more, err := r.readTo(ctx, last, each)
		if err != nil {
			return 0, err
		}
		if !more {
			break
		}
	}
	if info, err = streamInfo(ctx, js, name); err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", name, err)
	}
	return last, r.isOf(info)
}

// isOf returns ErrRemade when the stream is not the one that is read.
func (r *reader) isOf(info *jetstream.StreamInfo) error {
	switch {
	case r.Created.IsZero():
		r.Created = info.Created
	case !r.Created.Equal(info.Created):
		return fmt.Errorf("reading stream %s: %w", r.name, ErrRemade)
	}
	return nil
}

// Follow calls each with every message that o chooses, in order, those that are stored now and those that are stored
// later, until ctx ends, which is not an error, or each returns an error. It asks again while no server answers, and while
// a stream that was there is gone. One that was made again is ErrRemade.
func Follow(ctx context.Context, js jetstream.JetStream, name string, o ReadOptions, each func(*jetstream.RawStreamMsg) error) error {
	r := reader{js: js, name: name, ReadOptions: o}
	for ctx.Err() == nil {
		msgs, err := r.next(ctx)
		if err != nil && ctx.Err() == nil && r.final(err) {
			return fmt.Errorf("following stream %s: %w", name, err)
		}
		for _, m := range msgs {
			if err := r.take(m, each); err != nil {
				return err
			}
		}
		if len(msgs) == 0 {
			wait(ctx, readPause)
		}
	}
	return nil
}

// reader reads on behind After.
type reader struct {
	js   jetstream.JetStream
	name string
	ReadOptions
	done, of uint64
	size     BatchSize
}

// readTo reads one batch of messages up to a sequence. It reports whether there may be more of them.
func (r *reader) readTo(ctx context.Context, last uint64, each func(*jetstream.RawStreamMsg) error) (more bool, err error) {
	var msgs []*jetstream.RawStreamMsg
	err = request(ctx, r.js, r.name, func(ctx context.Context) (err error) {
		msgs, err = r.batch(ctx, int(min(readMessages, last-r.After)))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("reading stream %s: %w", r.name, err)
	}
	for _, m := range msgs {
		if m.Sequence > last {
			return false, nil
		}
		if err := r.take(m, each); err != nil {
			return false, err
		}
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("reading stream %s: %w", r.name, err)
		}
	}
	if len(msgs) > 0 && (r.After == last || r.done < r.of) {
		return r.After < last, nil
	}
	// Any replica answers a direct get, also one that is behind. The leader knows whether this is the end.
	next, err := r.nextSequence(ctx)
	if err != nil {
		return false, fmt.Errorf("reading stream %s: %w", r.name, err)
	}
	if next == 0 || next > last {
		return false, nil
	}
	wait(ctx, readPause)
	return true, nil
}

// take calls each with a message when it matches, and remembers its place.
func (r *reader) take(m *jetstream.RawStreamMsg, each func(*jetstream.RawStreamMsg) error) error {
	r.done++
	if pending, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64); err == nil {
		r.of = max(r.of, r.done+pending)
	}
	if r.matches(m.Subject) {
		if err := each(m); err != nil {
			return err
		}
	}
	r.After = m.Sequence
	if r.Progress != nil {
		r.Progress(r.done, r.of)
	}
	return nil
}

func (r *reader) matches(subject string) bool {
	for _, f := range r.Filters {
		if covers(f, subject) {
			return true
		}
	}
	return len(r.Filters) == 0
}

// filter is what the server filters by: it takes one subject.
func (r *reader) filter() string {
	if len(r.Filters) == 1 {
		return r.Filters[0]
	}
	return ">"
}

// batch returns at most so many of the next messages, none when a replica has no more. Of a batch that is cut off it returns what arrived.
func (r *reader) batch(ctx context.Context, atMost int) ([]*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	opts := []jetstreamext.GetBatchOpt{jetstreamext.GetBatchSubject(r.filter()), jetstreamext.GetBatchMaxBytes(r.size.Bytes())}
	if r.After == 0 && !r.Since.IsZero() {
		opts = append(opts, jetstreamext.GetBatchStartTime(r.Since))
	} else {
		opts = append(opts, jetstreamext.GetBatchSeq(r.After+1))
	}
	began, received := time.Now(), 0
	defer func() { r.size.Received(received, time.Since(began)) }()
	all, err := jetstreamext.GetBatch(ctx, r.js, r.name, atMost, opts...)
	if err != nil {
		return nil, err
	}
	msgs, err := collect(all)
	for _, m := range msgs {
		received += messageSize(m)
	}
	if err != nil {
		return nil, err
	}
	if len(msgs) > 0 {
		return msgs, nil
	}
	return nil, ctx.Err() // a batch that is cut off ends without an error
}

// collect returns the messages of a batch, none when there are no more, and with an error those before it.
func collect(all iter.Seq2[*jetstream.RawStreamMsg, error]) (msgs []*jetstream.RawStreamMsg, err error) {
	for m, err := range all {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return msgs, nil
		}
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, m)
	}
	return msgs, nil
}

// messageSize returns about as many bytes as a message has in its stream.
func messageSize(m *jetstream.RawStreamMsg) int {
	n := len(m.Subject) + len(m.Data)
	for name, values := range m.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// nextSequence is the sequence of the next message as the leader of the stream knows it, or 0 without one.
func (r *reader) nextSequence(ctx context.Context) (uint64, error) {
	ask := map[string]any{"seq": r.After + 1, "next_by_subj": r.filter()}
	if r.After == 0 && !r.Since.IsZero() {
		ask = map[string]any{"start_time": r.Since, "next_by_subj": r.filter()}
	}
	m, err := fromLeader(ctx, r.js, r.name, ask)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// Get returns the message of a sequence, and jetstream.ErrMsgNotFound only when the leader of the stream does not have it: a
// replica that is behind answers a direct get too. It needs permission for STREAM.INFO, DIRECT.GET and STREAM.MSG.GET on
// the stream.
func Get(ctx context.Context, js jetstream.JetStream, name string, sequence uint64) (*jetstream.RawStreamMsg, error) {
	st, err := openStream(ctx, js, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return get(ctx, js, st, sequence)
}

const (
	// getAtOnce is how many messages GetAll asks for at once. Each may have the size of the largest event.
	getAtOnce = 16
	// batchSpan is up to how many messages for each that is wanted GetAll reads in a batch.
	batchSpan = 4
)

// GetAll calls each with the messages of sequences, in the order that these have, without those that the leader of the stream
// does not have, until each reports that it wants no more. Those that follow each other closely it reads in batches, and of others it
// asks for 16 at once. It needs the permissions of Get.
func GetAll(ctx context.Context, js jetstream.JetStream, name string, sequences []uint64, each func(*jetstream.RawStreamMsg) (more bool)) error {
	if len(sequences) == 0 {
		return nil
	}
	st, err := openStream(ctx, js, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	r := reader{js: js, name: name}
	for len(sequences) > 0 {
		var msgs []*jetstream.RawStreamMsg
		if n := together(sequences); n > 1 {
			msgs, err = r.getBatch(ctx, st, sequences[:n])
		} else {
			msgs = make([]*jetstream.RawStreamMsg, min(len(sequences), getAtOnce))
			err = getMissing(ctx, js, st, sequences, msgs)
		}
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m != nil && !each(m) {
				return nil
			}
		}
		sequences = sequences[len(msgs):]
	}
	return nil
}

// together returns how many of the first sequences ascend so closely that one batch is to have them; 0 for none.
func together(sequences []uint64) int {
	n := 1
	for n < len(sequences) && sequences[n] > sequences[n-1] && sequences[n]-sequences[0] < readMessages {
		n++
	}
	if sequences[n-1]-sequences[0] >= uint64(n*batchSpan) || sequences[0] == 0 {
		return 0
	}
	return n
}

// getBatch returns the messages of the first of ascending sequences, as many as one batch reaches and at least one, nil for each that
// the leader does not have.
func (r *reader) getBatch(ctx context.Context, st jetstream.Stream, sequences []uint64) ([]*jetstream.RawStreamMsg, error) {
	r.After = sequences[0] - 1
	var batch []*jetstream.RawStreamMsg
	err := request(ctx, r.js, r.name, func(ctx context.Context) (err error) {
		batch, err = r.batch(ctx, int(sequences[len(sequences)-1]-r.After))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", r.name, err)
	}
	found := make(map[uint64]*jetstream.RawStreamMsg, len(batch))
	for _, m := range batch {
		found[m.Sequence] = m
	}
	if len(batch) > 0 { // what comes after it is in the next batch
		last := batch[len(batch)-1].Sequence
		n, exact := slices.BinarySearch(sequences, last)
		if exact {
			n++
		}
		sequences = sequences[:n]
	}
	msgs := make([]*jetstream.RawStreamMsg, len(sequences))
	for i, sequence := range sequences {
		msgs[i] = found[sequence]
	}
	return msgs, getMissing(ctx, r.js, st, sequences, msgs)
}

// getMissing sets those of msgs that are nil to the messages of their sequences, 16 at once. They stay nil when the leader does not
// have them.
func getMissing(ctx context.Context, js jetstream.JetStream, st jetstream.Stream, sequences []uint64, msgs []*jetstream.RawStreamMsg) error {
	errs := make([]error, len(msgs))
	slots := make(chan struct{}, getAtOnce)
	var asked sync.WaitGroup
	for i := range msgs {
		if msgs[i] != nil {
			continue
		}
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			if msgs[i], errs[i] = get(ctx, js, st, sequences[i]); errors.Is(errs[i], jetstream.ErrMsgNotFound) {
				errs[i] = nil
			}
		})
	}
	asked.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// get returns one message of a stream.
func get(ctx context.Context, js jetstream.JetStream, st jetstream.Stream, sequence uint64) (m *jetstream.RawStreamMsg, err error) {
	name := st.CachedInfo().Config.Name
	if sequence == 0 { // the server would take the request for one without a number
		return nil, fmt.Errorf("message 0 of stream %s: %w", name, jetstream.ErrMsgNotFound)
	}
	err = request(ctx, js, name, func(ctx context.Context) error {
		m, err = st.GetMsg(ctx, sequence)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		m, err = fromLeader(ctx, js, name, map[string]any{"seq": sequence})
	}
	if err != nil {
		return nil, fmt.Errorf("message %d of stream %s: %w", sequence, name, err)
	}
	return m, nil
}

// SequenceAt returns the sequence of the first message of a stream that was stored at a time or later, as the leader of the stream
// knows it, and 0 without one. It needs permission for STREAM.MSG.GET on the stream.
func SequenceAt(ctx context.Context, js jetstream.JetStream, name string, at time.Time) (uint64, error) {
	r := reader{js: js, name: name, ReadOptions: ReadOptions{Since: at}}
	sequence, err := r.nextSequence(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", name, err)
	}
	return sequence, nil
}

// fromLeader asks the leader of a stream for a message. It returns jetstream.ErrMsgNotFound when the leader does not have it.
func fromLeader(ctx context.Context, js jetstream.JetStream, name string, ask map[string]any) (*jetstream.RawStreamMsg, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	err = request(ctx, js, name, func(ctx context.Context) error {
		m, err := js.Conn().RequestWithContext(ctx, apiSubject(js, "STREAM.MSG.GET."+name), body)
		if err != nil {
			return err
		}
		return json.Unmarshal(m.Data, &answer)
	})
	switch {
	case err != nil:
		return nil, err
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, jetstream.ErrMsgNotFound
	case answer.Error != nil:
		return nil, answer.Error
	}
	found := answer.Message
	m := &jetstream.RawStreamMsg{Subject: found.Subject, Sequence: found.Sequence, Data: found.Data, Time: found.Time}
	if len(found.Header) > 0 {
		m.Header, err = nats.DecodeHeadersMsg(found.Header)
	}
	return m, err
}

// next returns the next messages of the stream that is read. It looks which stream it is before each batch: what a batch of
// a later stream misses comes with the next one.
func (r *reader) next(ctx context.Context) ([]*jetstream.RawStreamMsg, error) {
	info, err := streamInfo(ctx, r.js, r.name)
	if err != nil {
		return nil, err
	}
	if err := r.isOf(info); err != nil {
		return nil, err
	}
	return r.batch(ctx, readMessages)
}

// final reports whether an error of next does not go away by itself: the user may not read the stream, or it is not the
// stream that is read.
func (r *reader) final(err error) bool {
	return PermissionError(r.js.Conn(), r.name) != nil ||
		errors.Is(err, ErrRemade) || errors.Is(err, jetstreamext.ErrBatchUnsupported) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, jetstream.ErrStreamNotFound) && r.Created.IsZero()
}

// apiSubject is the subject of a request to JetStream, behind the prefix that js uses.
func apiSubject(js jetstream.JetStream, operation string) string {
	if prefix := js.Options().APIPrefix; prefix != "" {
		return prefix + "." + operation
	}
	return "$JS.API." + operation
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
