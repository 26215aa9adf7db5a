package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// EraseMessage removes one message from a stream, and has the server overwrite its bytes on the disk. A server that encrypts its disk does not
// overwrite them. It returns jetstream.ErrMsgNotFound when the leader of the stream does not have the message. It needs permission for
// STREAM.MSG.DELETE and STREAM.MSG.GET on the stream.
func EraseMessage(ctx context.Context, js jetstream.JetStream, name string, sequence uint64) error {
	err := callAPI(ctx, js, "STREAM.MSG.DELETE."+name, map[string]any{"seq": sequence, "no_erase": false}, nil)
	if refused, is := errors.AsType[*jetstream.APIError](err); is && refused.ErrorCode != jetstream.JSErrCodeStreamNotFound {
		// Servers have several answers for a message that is gone.
		if _, gone := fromLeader(ctx, js, name, map[string]any{"seq": sequence}); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return gone
		}
	}
	if err != nil {
		return fmt.Errorf("erase message %d of stream %s: %w", sequence, name, err)
	}
	return nil
}

// EraseKey removes every message with the subject of m up to m itself, without a mark that a key was deleted: a bucket then has neither the
// key nor its value. The bytes stay on the disk until the server compacts the stream. It returns jetstream.ErrMsgNotFound when the stream has
// none of these messages. It needs permission for STREAM.PURGE on the stream.
func EraseKey(ctx context.Context, js jetstream.JetStream, name string, m *jetstream.RawStreamMsg) error {
	for token := range strings.SplitSeq(m.Subject, ".") {
		if token == "*" || token == ">" { // the server would take it for other subjects too
			return fmt.Errorf("erase message %d of stream %s: its subject has a wildcard, which would erase others too", m.Sequence, name)
		}
	}
	var answer struct {
		Purged uint64 `json:"purged"`
	}
	through := map[string]any{"filter": m.Subject, "seq": m.Sequence + 1}
	if err := callAPI(ctx, js, "STREAM.PURGE."+name, through, &answer); err != nil {
		return fmt.Errorf("erase message %d of stream %s: %w", m.Sequence, name, err)
	}
	if answer.Purged == 0 {
		return jetstream.ErrMsgNotFound
	}
	return nil
}

// callAPI asks JetStream for an operation, with an empty request when question is nil, and reads the answer unless that is nil.
func callAPI(ctx context.Context, js jetstream.JetStream, operation string, question, answer any) error {
	var body []byte
	if question != nil {
		var err error
		if body, err = json.Marshal(question); err != nil {
			return err
		}
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	return request(ctx, js, operation, func(ctx context.Context) error {
		m, err := js.Conn().RequestWithContext(ctx, apiSubject(js, operation), body)
		if err != nil {
			return err
		}
		failed.Error = nil
		if err := json.Unmarshal(m.Data, &failed); err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
		if failed.Error != nil {
			return failed.Error
		}
		if answer == nil {
			return nil
		}
		return json.Unmarshal(m.Data, answer)
	})
}

// Behind returns the names of the servers whose copies of a stream are away or not up to date: they remove a message when they are back.
func Behind(ctx context.Context, js jetstream.JetStream, name string) ([]string, error) {
	info, err := streamInfo(ctx, js, name)
	if err != nil || info.Cluster == nil {
		return nil, err
	}
	var names []string
	for _, r := range info.Cluster.Replicas {
		if r.Offline || !r.Current {
			names = append(names, r.Name)
		}
	}
	return names, nil
}

// PurgeSubjects removes the messages of a stream whose subjects match filter, and returns how many there were. It needs permission for
// STREAM.PURGE on the stream.
func PurgeSubjects(ctx context.Context, js jetstream.JetStream, name, filter string) (int, error) {
	var answer struct {
		Purged int `json:"purged"`
	}
	if err := callAPI(ctx, js, "STREAM.PURGE."+name, map[string]any{"filter": filter}, &answer); err != nil {
		return 0, fmt.Errorf("remove %s from stream %s: %w", filter, name, err)
	}
	return answer.Purged, nil
}

// DeleteStream deletes a stream, or the stream of a bucket. It returns nil for one that does not exist. It needs permission for STREAM.DELETE on it.
func DeleteStream(ctx context.Context, js jetstream.JetStream, name string) error {
	err := callAPI(ctx, js, "STREAM.DELETE."+name, nil, nil)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("delete stream %s: %w", name, err)
	}
	return nil
}

// DeleteConsumer deletes a consumer. It returns nil for one that does not exist. It needs permission for CONSUMER.DELETE on it.
func DeleteConsumer(ctx context.Context, js jetstream.JetStream, stream, name string) error {
	err := callAPI(ctx, js, "CONSUMER.DELETE."+stream+"."+name, nil, nil)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("delete consumer %s of stream %s: %w", name, stream, err)
	}
	return nil
}

// ErrOneCopy means that a stream has one copy, so that no other server can lead it.
var ErrOneCopy = errors.New("the stream has one copy, so that no other server can lead it: restart the server that has it")

const (
	stepDownTime = 30 * time.Second // for an election: the servers hold one after four to nine seconds without a leader
	leaderTime   = 2 * time.Second  // for one answer: without a leader nothing answers
)

// StepDown has the leader of a stream step down, and returns the names of that server and of the one that leads then. Messages that are
// published meanwhile are published again by their publishers. It returns ErrOneCopy for a stream without another copy, and an error when
// after half a minute no other server leads. It needs permission for STREAM.INFO and STREAM.LEADER.STEPDOWN on the stream.
func StepDown(ctx context.Context, js jetstream.JetStream, name string) (before, after string, err error) {
	info, err := streamInfo(ctx, js, name)
	if err != nil {
		return "", "", fmt.Errorf("stream %s: %w", name, err)
	}
	if info.Cluster == nil || len(info.Cluster.Replicas) == 0 {
		return "", "", fmt.Errorf("stream %s: %w", name, ErrOneCopy)
	}
	before = info.Cluster.Leader
	if err := callAPI(ctx, js, "STREAM.LEADER.STEPDOWN."+name, struct{}{}, nil); err != nil {
		return before, "", fmt.Errorf("leader of stream %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stepDownTime)
	defer cancel()
	for ctx.Err() == nil {
		asking, end := context.WithTimeout(ctx, leaderTime)
		info, err := streamInfo(asking, js, name)
		end()
		if err == nil && info.Cluster != nil && info.Cluster.Leader != "" && info.Cluster.Leader != before {
			return before, info.Cluster.Leader, nil
		}
		wait(ctx, readPause)
	}
	return before, "", fmt.Errorf("stream %s: %s has stepped down, and no other server leads yet: %w", name, before, ctx.Err())
}

// ConsumerOf returns the state of a consumer. The error is jetstream.ErrConsumerNotFound also when there is no such stream.
func ConsumerOf(ctx context.Context, js jetstream.JetStream, stream, name string) (*jetstream.ConsumerInfo, error) {
	c, err := pullConsumer(ctx, js, stream, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, jetstream.ErrConsumerNotFound
	case err != nil:
		return nil, fmt.Errorf("consumer %s of stream %s: %w", name, stream, err)
	}
	return c.CachedInfo(), nil
}
