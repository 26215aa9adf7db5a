package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

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
// key nor its value. The server overwrites the bytes on the disk when it compacts the stream. It returns jetstream.ErrMsgNotFound when there is
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

// callAPI asks JetStream for an operation, and reads the answer unless that is nil.
func callAPI(ctx context.Context, js jetstream.JetStream, operation string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
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
