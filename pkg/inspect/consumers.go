package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// durables returns the names of the durable consumers of a stream, without those of headgate tail, which may stand still
// for weeks.
func (c *Collector) durables(ctx context.Context, now *collection, name string) ([]string, error) {
	if now.states[name] == nil { // it did not answer before
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	st, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", name, err)
	}
	names := st.ConsumerNames(ctx)
	var durables []string
	for consumer := range names.Name() {
		durables = append(durables, consumer)
	}
	if err := names.Err(); err != nil {
		return durables, fmt.Errorf("consumers of %s: %w", name, err)
	}
	return durables, nil
}

// consumer reads the state of one durable consumer.
func (c *Collector) consumer(ctx context.Context, now *collection, in, name string) error {
	asking, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cons, err := c.js.Consumer(asking, in, name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil // deleted since it was listed, or not a worker's
	case err != nil:
		now.update(func(s *Snapshot) { s.Consumers = append(s.Consumers, Consumer{Stream: in, Name: name}) })
		return fmt.Errorf("consumer %s of %s: %w", name, in, err)
	}
	info := cons.CachedInfo()
	if info.Config.Durable == "" || info.Config.AckPolicy == jetstream.AckNonePolicy {
		return nil // nothing is settled on it: stream.SupportConsumer
	}
	state := Consumer{
		Stream: in, Name: name, Answered: true, HasLeader: hasLeader(info.Cluster),
		Pending: info.NumPending, AckPending: info.NumAckPending, AckPendingLimit: info.Config.MaxAckPending,
		Waiting: info.NumWaiting, Delivered: info.Delivered.Consumer,
		Pause: stream.PauseOf(info),
	}
	if in == c.source.Stream() {
		var age time.Duration
		if age, err = c.oldestUnsettled(ctx, info); err == nil {
			state.OldestUnsettled = &age
		} else {
			err = fmt.Errorf("oldest event of %s: %w", name, err)
		}
	}
	now.update(func(s *Snapshot) { s.Consumers = append(s.Consumers, state) })
	return err
}

// oldestUnsettled returns the age of the first event after those that the consumer has settled without a gap.
func (c *Collector) oldestUnsettled(ctx context.Context, info *jetstream.ConsumerInfo) (time.Duration, error) {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return 0, nil
	}
	floor := info.AckFloor.Stream
	c.mu.Lock()
	found := c.oldest[info.Name]
	c.mu.Unlock()
	if !found.consumer.Equal(info.Created) {
		found = place{consumer: info.Created}
	}
	if found.sequence > floor {
		// It is still the oldest, unless it was deleted.
		var err error
		if found.position, err = c.find(ctx, map[string]any{"seq": found.sequence}); err != nil {
			return 0, err
		}
	}
	if found.sequence <= floor {
		var err error
		if found.position, err = c.next(ctx, floor, &info.Config); err != nil {
			return 0, err
		}
	}
	c.mu.Lock()
	c.oldest[info.Name] = found
	c.mu.Unlock()
	if found.sequence == 0 { // settled since
		return 0, nil
	}
	return max(0, time.Since(found.stored)), nil
}

// next finds the first message after a sequence that a consumer takes.
func (c *Collector) next(ctx context.Context, after uint64, cfg *jetstream.ConsumerConfig) (first position, err error) {
	filters := cfg.FilterSubjects
	if len(filters) == 0 {
		filters = []string{cmp.Or(cfg.FilterSubject, ">")}
	}
	for _, f := range filters {
		m, err := c.find(ctx, map[string]any{"seq": after + 1, "next_by_subj": f})
		if err != nil {
			return position{}, err
		}
		if m.sequence > 0 && (first.sequence == 0 || m.sequence < first.sequence) {
			first = m
		}
	}
	return first, nil
}

// place is a position of a consumer, which says nothing about one of the same name that was made at another time, also in
// another stream.
type place struct {
	position
	consumer time.Time // when it was made
}

// position is where and when a message was stored.
type position struct {
	sequence uint64
	stored   time.Time
}

// find asks the source's stream where and when a message was stored. It returns the zero position when there is no such
// message. nats.go would ask on a subject that contains the filter, which needs a wider permission.
func (c *Collector) find(ctx context.Context, request map[string]any) (position, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return position{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	m, err := c.js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+c.source.Stream(), body)
	if err != nil {
		return position{}, err
	}
	if status := m.Header.Get("Status"); status == "404" {
		return position{}, nil
	} else if status != "" {
		return position{}, fmt.Errorf("the server answers with status %s %s", status, m.Header.Get("Description"))
	}
	sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return position{}, fmt.Errorf("sequence of a message: %w", err)
	}
	stored, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	return position{sequence, stored}, err
}

// ConsumedTypes returns the types that the durable consumers of the events take by name. One that takes all takes what comes. It
// needs permission for STREAM.INFO and CONSUMER.LIST.
func ConsumedTypes(ctx context.Context, js jetstream.JetStream, s stream.Source) ([]codat.Pattern, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := js.Stream(ctx, s.Stream())
	if err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", s.Stream(), err)
	}
	var all []codat.Pattern
	list := st.ListConsumers(ctx)
	for info := range list.Info() {
		for _, filter := range append(info.Config.FilterSubjects, info.Config.FilterSubject) {
			typ, ok := strings.CutPrefix(filter, s.EventFilter(""))
			if ok && typ != ">" && typ != "" {
				all = append(all, codat.Pattern(typ))
			}
		}
	}
	if err := list.Err(); err != nil {
		return all, fmt.Errorf("consumers of %s: %w", s.Stream(), err)
	}
	return all, nil
}
