// Package backup copies all streams and buckets of an account of NATS into a folder, with their consumers, and out of it into
// an account that has none of them. A backup is taken while everything runs. It has each stream as it was at one moment,
// without what was published later, and without what was deleted or replaced while it was copied. These moments have an order:
// events, claims, parked events, dead letters, states. So an event that the backup has as acknowledged has its claim, and what
// a claim says was stored is there.
package backup

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

const (
	// chunkSize is below the max_payload that servers have without a setting, 1 MiB.
	chunkSize = 256 << 10
	// stalled is how long a server may send or answer nothing before the copy is given up.
	stalled = time.Minute
	// restoring is how long a server may take to read a stream after it has all of it.
	restoring = time.Hour
	// retryPause is the time before a request that nothing has taken is sent again.
	retryPause = 200 * time.Millisecond

	// restoreTime is for how long a stream is tried again: servers that have just started find each other within seconds.
	restoreTime = time.Minute

	aboutFile = "backup.json"
	dataFile  = "stream.tar.s2"
	// arcFile is the name of the same file in a backup of the nats CLI from a server 2.15.
	arcFile = "stream.arc.s2"
)

// Stream is a stream or bucket that was copied.
type Stream struct {
	Name      string
	Messages  uint64
	Consumers int
	Bytes     int64 // of the copy, compressed
}

// about is what a backup says of a stream beside its data. The configuration is kept as the server wrote it.
type about struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// state is what is read of a stream's state.
type state struct {
	Messages  uint64 `json:"messages"`
	LastSeq   uint64 `json:"last_seq"`
	Consumers int    `json:"consumer_count"`
}

// Save writes a backup to folder, which must not exist, and calls done after each stream. The folder is readable by its user
// alone, and is there only when the backup is complete.
func Save(ctx context.Context, js jetstream.JetStream, folder string, done func(Stream)) error {
	folder = filepath.Clean(folder)
	if _, err := os.Lstat(folder); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists: name a folder that does not", folder)
	}
	var names []string
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("there is no stream to back up")
	}
	slices.SortFunc(names, compareNames)
	partial, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial) // it is gone after the rename
	for _, name := range names {
		one, err := save(ctx, js.Conn(), name, filepath.Join(partial, name))
		if err != nil {
			return fmt.Errorf("back up %s: %w", name, err)
		}
		done(one)
	}
	return os.Rename(partial, folder)
}

// compareNames compares names of streams in the order in which they are copied.
func compareNames(a, b string) int {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}

// rank is the place of a stream in that order. A worker acknowledges an event after its claim says done, parked or dead, and
// writes states, parked copies and dead letters before.
func rank(name string) int {
	bucket := strings.HasPrefix(name, "KV_")
	switch {
	case bucket && strings.Contains(name, "_claims_"):
		return 1
	case strings.HasSuffix(name, "_PARKED"):
		return 2
	case strings.HasSuffix(name, "_DEAD"):
		return 3
	case bucket, strings.HasSuffix(name, "_OPERATOR"):
		return 4
	}
	return 0
}

// save writes the copy of one stream to a folder.
func save(ctx context.Context, nc *nats.Conn, name, folder string) (s Stream, err error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return s, err
	}
	file, err := os.OpenFile(filepath.Join(folder, dataFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return s, err
	}
	defer file.Close()
	chunks, err := nc.SubscribeSync(nc.NewRespInbox())
	if err != nil {
		return s, err
	}
	defer chunks.Unsubscribe()
	var a about
	// The server checks each message before it sends them.
	wanted := map[string]any{"deliver_subject": chunks.Subject, "chunk_size": chunkSize, "jsck": true}
	if err := call(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+name, wanted, &a); err != nil {
		return s, err
	}
	if s.Bytes, err = receive(ctx, chunks, file); err != nil {
		return s, err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return s, err
	}
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return s, err
	}
	var st state
	if err := json.Unmarshal(a.State, &st); err != nil {
		return s, err
	}
	s.Name, s.Messages, s.Consumers = name, st.Messages, st.Consumers
	return s, os.WriteFile(filepath.Join(folder, aboutFile), text, 0o600)
}

// receive writes what the server sends to w, and returns the number of bytes.
func receive(ctx context.Context, chunks *nats.Subscription, w io.Writer) (n int64, err error) {
	for {
		next, cancel := context.WithTimeout(ctx, stalled)
		m, err := chunks.NextMsgWithContext(next)
		cancel()
		if err != nil {
			return n, fmt.Errorf("wait for the next part of the copy: %w", err)
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return n, fmt.Errorf("the server ended the copy with status %s %s", status, m.Header.Get("Description"))
			}
			return n, nil
		}
		written, err := w.Write(m.Data)
		n += int64(written)
		if err != nil {
			return n, err
		}
		if m.Reply != "" { // the server sends more when this arrives
			if err := m.Respond(nil); err != nil {
				return n, err
			}
		}
	}
}

// Restore makes the streams of a backup, and calls done after each. replicas is their number of replicas, and 0 leaves it as it
// was. A stream that exists is left out if it is that of the backup, so that Restore can be repeated after an error, and is
// otherwise an error before anything is made. While servers cannot make a stream yet, because they do not answer or too few have joined the
// cluster, Restore tries it again for a minute. It takes a backup of the nats CLI too. Servers know the ids of restored messages only after a restart: until then, an
// event that is published again is stored a second time, which the claims notice.
func Restore(ctx context.Context, js jetstream.JetStream, folder string, replicas int, done func(Stream)) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("%s is empty: name the folder of a backup", folder)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return compareNames(a.Name(), b.Name()) })
	if err := awaitAnswer(ctx, js); err != nil {
		return err
	}
	copies := make([]*copied, len(entries))
	for i, e := range entries {
		if copies[i], err = open(filepath.Join(folder, e.Name())); err != nil {
			return fmt.Errorf("%s is not a backup: %w", folder, err)
		}
		if err := copies[i].find(ctx, js); err != nil {
			return err
		}
	}
	for _, c := range copies {
		if !c.exists {
			if err := c.restoreInTime(ctx, js, replicas); err != nil {
				return fmt.Errorf("restore %s: %w; repeat the command", c.name, err)
			}
		}
		done(Stream{Name: c.name, Messages: c.want.Messages, Consumers: c.want.Consumers, Bytes: c.bytes})
	}
	return nil
}

// awaitAnswer waits until JetStream answers: servers that have just started elect a leader first.
func awaitAnswer(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, stalled)
	defer cancel()
	for {
		_, err := js.AccountInfo(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("JetStream does not answer: %w", err)
		case <-time.After(retryPause):
		}
	}
}

// copied is the copy of a stream in a backup.
type copied struct {
	about
	name   string
	folder string
	data   string // the name of its file
	bytes  int64
	want   state
	exists bool // as the copy has it
}

// open reads what a folder says of a stream.
func open(folder string) (*copied, error) {
	c := &copied{name: filepath.Base(folder), folder: folder}
	text, err := os.ReadFile(filepath.Join(folder, aboutFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c.about); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", c.name, aboutFile, err)
	}
	if err := json.Unmarshal(c.State, &c.want); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", c.name, aboutFile, err)
	}
	for _, c.data = range []string{arcFile, dataFile} {
		info, err := os.Stat(filepath.Join(folder, c.data))
		switch {
		case err == nil:
			c.bytes = info.Size()
			return c, nil
		case c.data == dataFile || !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return c, nil
}

// find sees whether the stream exists, and returns an error for one with other messages.
func (c *copied) find(ctx context.Context, js jetstream.JetStream) error {
	st, err := js.Stream(ctx, c.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	have := st.CachedInfo().State
	if !c.is(state{Messages: have.Msgs, LastSeq: have.LastSeq}) {
		return fmt.Errorf("%s exists, and has other messages than the backup: restore to servers that have none of the streams", c.name)
	}
	c.exists = true
	return nil
}

// is reports whether a stream is that of the copy. Messages may be gone: their age is over, or they were deleted, acknowledged
// or replaced while the server sent them. A copy that is not whole is an error of the server.
func (c *copied) is(have state) bool {
	return have.LastSeq == c.want.LastSeq && have.Messages <= c.want.Messages
}

// restoreInTime makes the stream. It tries again while the servers cannot make it yet.
func (c *copied) restoreInTime(ctx context.Context, js jetstream.JetStream, replicas int) error {
	begun := time.Now()
	for {
		err := c.restore(ctx, js.Conn(), replicas)
		if err == nil || !passes(err) || time.Since(begun) > restoreTime {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPause):
		}
		// The answer may be all that was lost.
		if err := c.find(ctx, js); c.exists || err != nil && !passes(err) {
			return err
		}
	}
}

// The codes of errors with which servers say that too few of them are there, and that they have no leader yet.
const (
	codeNoPeers             jetstream.ErrorCode = 10005
	codeClusterNotAvailable jetstream.ErrorCode = 10008
)

// passes reports whether an error can go away by itself.
func passes(err error) bool {
	if refused, is := errors.AsType[*jetstream.APIError](err); is {
		return refused.ErrorCode == codeNoPeers || refused.ErrorCode == codeClusterNotAvailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)
}

// restore makes the stream.
func (c *copied) restore(ctx context.Context, nc *nats.Conn, replicas int) error {
	wanted := c.about
	if replicas > 0 {
		var err error
		if wanted.Config, err = withReplicas(c.Config, replicas); err != nil {
			return fmt.Errorf("%s: %w", aboutFile, err)
		}
	}
	var to struct {
		DeliverSubject string `json:"deliver_subject"`
	}
	if err := call(ctx, nc, "$JS.API.STREAM.RESTORE."+c.name, wanted, &to); err != nil {
		return err
	}
	var answer struct {
		State state `json:"state"`
	}
	if err := send(ctx, nc, to.DeliverSubject, filepath.Join(c.folder, c.data), &answer); err != nil {
		return err
	}
	if !c.is(answer.State) {
		return fmt.Errorf("it has %d messages up to %d; the backup has %d up to %d", answer.State.Messages, answer.State.LastSeq, c.want.Messages, c.want.LastSeq)
	}
	return nil
}

// withReplicas returns the configuration of a stream with another number of replicas, and what it has besides as it is.
func withReplicas(config json.RawMessage, replicas int) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	var had struct {
		Replicas int               `json:"num_replicas"`
		Metadata map[string]string `json:"metadata"`
	}
	if err := errors.Join(json.Unmarshal(config, &all), json.Unmarshal(config, &had)); err != nil {
		return nil, err
	}
	all["num_replicas"] = fmt.Appendf(nil, "%d", replicas)
	if len(had.Metadata) > 0 {
		metadata, err := json.Marshal(stream.MonitorReplicas(had.Metadata, had.Replicas, replicas))
		if err != nil {
			return nil, err
		}
		all["metadata"] = metadata
	}
	return json.Marshal(all)
}

// send sends a file to the server that restores it, and reads the server's last answer.
func send(ctx context.Context, nc *nats.Conn, subject, name string, answer any) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, chunkSize)
	chunk := make([]byte, chunkSize)
	for {
		length, err := io.ReadFull(r, chunk)
		if length == 0 && errors.Is(err, io.EOF) {
			return request{nc, restoring}.exchange(ctx, subject, nil, answer)
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if err := (request{nc, stalled}).exchange(ctx, subject, chunk[:length], nil); err != nil {
			return err
		}
	}
}

// call asks JetStream.
func call(ctx context.Context, nc *nats.Conn, subject string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return request{nc, stalled}.exchange(ctx, subject, body, answer)
}

// A request is answered within a time, or fails.
type request struct {
	nc     *nats.Conn
	within time.Duration
}

// exchange sends a request and reads the answer, which is empty or JSON, and may be an error.
func (r request) exchange(ctx context.Context, subject string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	m, err := r.nc.RequestWithContext(ctx, subject, body)
	for errors.Is(err, nats.ErrNoResponders) { // a leader is elected, or its subscription is on its way: nothing has taken it
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
		m, err = r.nc.RequestWithContext(ctx, subject, body)
	}
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if len(m.Data) > 0 {
		if err := json.Unmarshal(m.Data, &failed); err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}
