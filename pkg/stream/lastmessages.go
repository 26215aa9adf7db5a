package stream

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// lastSubjects is how many subjects Last asks for at once. The server takes 1,024.
const lastSubjects = 500

// Last calls each with the newest message of every one of the subjects that has one, in no order, until each returns an
// error, which Last then returns. The subjects have no wildcards. Any replica answers, also one that is behind. Last asks for
// 500 subjects at a time. It returns an error that wraps jetstream.ErrStreamNotFound when there is no such stream. It needs
// permission for STREAM.INFO and DIRECT.GET on the stream.
func Last(ctx context.Context, js jetstream.JetStream, name string, subjects []string, each func(*jetstream.RawStreamMsg) error) error {
	if _, err := openStream(ctx, js, name); err != nil {
		return fmt.Errorf("reading stream %s: %w", name, err)
	}
	for some := range slices.Chunk(subjects, lastSubjects) {
		var msgs []*jetstream.RawStreamMsg
		err := request(ctx, js, name, func(ctx context.Context) (err error) {
			msgs, err = lastOf(ctx, js, name, some)
			return err
		})
		if err != nil {
			return fmt.Errorf("reading stream %s: %w", name, err)
		}
		for _, m := range msgs {
			if err := each(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func lastOf(ctx context.Context, js jetstream.JetStream, name string, subjects []string) ([]*jetstream.RawStreamMsg, error) {
	all, err := jetstreamext.GetLastMsgsFor(ctx, js, name, subjects)
	if err != nil {
		return nil, err
	}
	msgs, err := collect(all)
	if err != nil {
		return nil, err
	}
	return msgs, ctx.Err() // a batch that is cut off ends without an error
}
