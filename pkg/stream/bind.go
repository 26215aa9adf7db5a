package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Why a worker cannot bind. Both are cured by headgate provision.
var (
	ErrNotProvisioned = errors.New("not provisioned")
	ErrDrift          = errors.New("provisioned differently")
)

// Bind finds the consumers of a worker and compares them with what it needs; it changes nothing. Filters may be wider
// than the worker's own, so that two versions of it can run side by side; anything else that differs is ErrDrift, and
// what is missing is ErrNotProvisioned. Both errors name the cure. Binding needs no more permission than to ask for the
// two consumers by name.
func Bind(ctx context.Context, js jetstream.JetStream, s Source, w WorkerPlan) (events, parked jetstream.Consumer, err error) {
	if err := errors.Join(s.Validate(), w.Validate()); err != nil {
		return nil, nil, err
	}
	if events, err = bind(ctx, js, w.eventConsumer(s)); err != nil {
		return nil, nil, err
	}
	if parked, err = bind(ctx, js, w.parkedConsumer(s)); err != nil {
		return nil, nil, err
	}
	return events, parked, nil
}

func bind(ctx context.Context, js jetstream.JetStream, w wantedConsumer) (jetstream.Consumer, error) {
	c, err := pullConsumer(ctx, js, w.stream, w.name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("%s: %w: run headgate provision, or start with --provision", w.object(), ErrNotProvisioned)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%s: the stream is %w: run headgate provision, or start with --provision", w.object(), ErrNotProvisioned)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", w.object(), err)
	}
	have := c.CachedInfo().Config
	want := have
	w.shape(&want)
	if missing := uncovered(filtersOf(&have), want.FilterSubjects); len(missing) > 0 {
		return nil, fmt.Errorf("%s: %w: it does not take %s, which this version handles: run headgate provision", w.object(), ErrDrift, strings.Join(missing, " "))
	}
	want.FilterSubjects = filtersOf(&have)
	var differs []string
	for _, f := range diff(consumerSettings, &have, &want) {
		differs = append(differs, fmt.Sprintf("%s is %s, this version needs %s", f.Name, f.Have, f.Want))
	}
	if len(differs) > 0 {
		return nil, fmt.Errorf("%s: %w: %s: run headgate provision", w.object(), ErrDrift, strings.Join(differs, "; "))
	}
	return c, nil
}
