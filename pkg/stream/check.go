package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// HeaderRoom is the most bytes that all headers of a message have together.
const HeaderRoom = 64 << 10

// Check returns nil when an event with a body of up to bodyLimit bytes can be stored now: the server is connected and takes
// messages of that size, and the stream exists, takes the subjects of this source, acknowledges, has a leader and is not
// full. It needs permission for STREAM.INFO. Give ctx a deadline shorter than the caller's own.
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
	if err := s.takesEvents(&info.Config, bodyLimit); err != nil {
		return fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	if err := leads(info.Cluster); err != nil {
		return fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	if limit := info.Config.MaxBytes; limit > 0 && info.State.Bytes+uint64(bodyLimit+HeaderRoom) > uint64(limit) {
		return fmt.Errorf("stream %s: %w: %v of %v: raise it with headgate provision --max-bytes", s.Stream(), ErrFull, size(info.State.Bytes), size(limit))
	}
	if limit := info.Config.MaxMsgs; limit > 0 && info.State.Msgs >= uint64(limit) {
		return fmt.Errorf("stream %s: %w: %d messages of %d: run headgate provision, which lifts that limit", s.Stream(), ErrFull, info.State.Msgs, limit)
	}
	return nil
}

// takesEvents returns an error for a stream that cannot store the events of the source, or does not acknowledge them.
func (s Source) takesEvents(c *jetstream.StreamConfig, bodyLimit int64) error {
	switch need := bodyLimit + HeaderRoom; {
	case c.Sealed:
		return fmt.Errorf("%w: it is sealed, which cannot be undone: copy its messages, delete it and run headgate provision", ErrDrift)
	case c.NoAck:
		return fmt.Errorf("%w: it has no_ack, so it does not say what is stored: run headgate provision", ErrDrift)
	case c.MaxMsgSize > 0 && int64(c.MaxMsgSize) < need:
		return fmt.Errorf("%w: it takes messages of %v, but a body of %v with its headers needs %v: lift that limit with nats stream edit %s --max-msg-size=-1, or lower the body limit",
			ErrDrift, size(c.MaxMsgSize), size(bodyLimit), size(need), s.Stream())
	}
	if missing := uncovered(c.Subjects, []string{s.EventFilter(">"), s.QuarantineSubject()}); len(missing) > 0 {
		return fmt.Errorf("%w: it does not take %s: run headgate provision", ErrDrift, strings.Join(missing, " "))
	}
	return nil
}
