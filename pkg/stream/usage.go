package stream

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Usage is how much a stream holds, and how much of that are the messages of some subjects.
type Usage struct {
	Bytes, MaxBytes int64 // MaxBytes is 0 for a stream without a limit
	Messages        uint64
	Matching        uint64 // of Messages, those of the subjects that were asked for
}

// UsageOf returns the usage of a stream, and how many of its messages match a filter of subjects. It needs permission for
// STREAM.INFO.
func UsageOf(ctx context.Context, js jetstream.JetStream, name, filter string) (u Usage, err error) {
	err = request(ctx, js, name, func(ctx context.Context) error {
		st, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		info, err := st.Info(ctx, jetstream.WithSubjectFilter(filter))
		if err != nil {
			return err
		}
		u = Usage{Bytes: int64(info.State.Bytes), MaxBytes: max(0, info.Config.MaxBytes), Messages: info.State.Msgs}
		for _, n := range info.State.Subjects {
			u.Matching += n
		}
		return nil
	})
	if err != nil {
		return Usage{}, fmt.Errorf("stream %s: %w", name, err)
	}
	return u, nil
}
