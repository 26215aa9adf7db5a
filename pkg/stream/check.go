package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// HeaderRoom is how much larger than the largest body a message may be: all headers together have at most this.
const HeaderRoom = 64 << 10

// Check says in words why an event with a body of up to bodyLimit bytes could not be stored now, and nil when it could:
// the server is there and takes messages of that size, the stream is there, takes what this source publishes and says
// so, has a leader and has room. It needs no more permission than to ask for the stream by name. Give ctx a deadline
// shorter than the caller's own.
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

// takesEvents says why a stream made like this stores no event of the source, or does not say that it has.
func (s Source) takesEvents(c *jetstream.StreamConfig, bodyLimit int64) error {
	switch need := bodyLimit + HeaderRoom; {
	case c.Sealed:
		return fmt.Errorf("%w: it is sealed, which cannot be undone: copy what it has, delete it and run headgate provision", ErrDrift)
	case c.NoAck:
		return fmt.Errorf("%w: it has no_ack, so that nobody knows what is stored: run headgate provision", ErrDrift)
	case c.MaxMsgSize > 0 && int64(c.MaxMsgSize) < need:
		return fmt.Errorf("%w: it takes messages of %v, but a body of %v with its headers needs %v: lift that limit with nats stream edit %s --max-msg-size=-1, or lower the body limit",
			ErrDrift, size(c.MaxMsgSize), size(bodyLimit), size(need), s.Stream())
	}
	if missing := uncovered(c.Subjects, []string{s.EventFilter(">"), s.QuarantineSubject()}); len(missing) > 0 {
		return fmt.Errorf("%w: it does not take %s: run headgate provision", ErrDrift, strings.Join(missing, " "))
	}
	return nil
}
