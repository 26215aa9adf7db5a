package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// HeaderRoom is how much larger than the largest body a message may be: all headers together have at most this.
const HeaderRoom = 64 << 10

// Check says in words why an event with a body of up to bodyLimit bytes could not be stored now, and nil when it could:
// the server is there and takes messages of that size, the stream is there, has a leader and has room. It needs no more
// permission than to ask for the stream by name. Give ctx a deadline shorter than the caller's own.
func (s Source) Check(ctx context.Context, js jetstream.JetStream, bodyLimit int64) error {
	nc := js.Conn()
	if !nc.IsConnected() {
		return fmt.Errorf("not connected to NATS: %w", notConnected(nc))
	}
	if need := bodyLimit + HeaderRoom; nc.MaxPayload() < need {
		return fmt.Errorf("the NATS server takes messages of %v, but a body of %v with its headers needs %v: raise max_payload on the server, or lower the body limit",
			size(nc.MaxPayload()), size(bodyLimit), size(need))
	}
	info, err := streamInfo(ctx, js, s.Stream())
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("stream %s: %w: run headgate provision", s.Stream(), ErrNotProvisioned)
	case err != nil:
		return fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	if info.Cluster != nil && info.Config.Replicas > 1 && info.Cluster.Leader == "" {
		return fmt.Errorf("stream %s: it has no leader now", s.Stream())
	}
	if limit := info.Config.MaxBytes; limit > 0 && info.State.Bytes+uint64(bodyLimit+HeaderRoom) > uint64(limit) {
		return fmt.Errorf("stream %s: %w: %v of %v: raise it with headgate provision --max-bytes", s.Stream(), ErrFull, size(info.State.Bytes), size(limit))
	}
	if limit := info.Config.MaxMsgs; limit > 0 && info.State.Msgs >= uint64(limit) {
		return fmt.Errorf("stream %s: %w: %d messages of %d: run headgate provision, which lifts that limit", s.Stream(), ErrFull, info.State.Msgs, limit)
	}
	return nil
}
